"""What I3D sees: whole frames, 224 px wide and high, from -1 to 1."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional

CLIP_PX = 224
MIN_FRAMES = 9  # of fewer nothing is left after time is halved three times and looked at in pairs
CHUNK = 2  # clips at once: what bounds the memory (about 0.3 GB at 16 frames)


def net_clips(clips: UInt8[Tensor, "n T H W 3"]) -> Float32[Tensor, "n 3 T 224 224"]:
    """RGB clips as the net takes them: resized by straight lines between pixels' centres, nothing is averaged."""
    frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float()
    sized = functional.interpolate(frames, (CLIP_PX, CLIP_PX), mode="bilinear", align_corners=False, antialias=False)
    return (2 * sized / 255 - 1).unflatten(0, clips.shape[:2]).transpose(1, 2)


def chunks(clips: UInt8[np.ndarray, "n T H W 3"]) -> Iterator[UInt8[Tensor, "c T H W 3"]]:
    """A few clips at a time. Raises ValueError for what are no clips."""
    whole = clips.ndim == 5 and clips.shape[-1] == 3 and clips.dtype == np.uint8 and 0 not in clips.shape
    if not whole or clips.shape[1] < MIN_FRAMES:
        raise ValueError(
            f"clips are {clips.dtype} {clips.shape}: expected uint8 [n, T, H, W, 3], none of them 0 and "
            f"T >= {MIN_FRAMES}"
        )
    for first in range(0, len(clips), CHUNK):
        yield torch.from_numpy(clips[first : first + CHUNK].copy())
