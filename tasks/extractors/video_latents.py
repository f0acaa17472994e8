"""Video latents of a crop, and of a few of its frames alone: each may stand as step 0 of a training window."""

from typing import ClassVar

import numpy as np
from jaxtyping import Int32
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders import EncoderChoice, Modality
from dualforce_model.schema import Feature
from tasks.extractors.base import ByEncoder, CropMedia, Need


class VideoLatentsConfig(Frozen):
    """Settings of the video latents."""

    encoder: EncoderChoice = Field(EncoderChoice(name="dct_video"), description="which codec of ENCODERS")
    num_references: int = Field(4, ge=0, le=16, description="frames encoded alone, besides frame 0")


def reference_frames(num_frames: int, count: int) -> Int32[np.ndarray, " r"]:
    """Frame 0 and the middles of `count` equal stretches of the other frames: the same for every run and machine."""
    others = [1 + (2 * k + 1) * (num_frames - 1) // (2 * count) for k in range(count)]
    return np.array([0, *[min(frame, num_frames - 1) for frame in others]], np.int32)


class VideoLatents(ByEncoder):
    """Latents [S,16,h,w] of the crop in steps, references [5,16,h,w] of single frames; both float16."""

    name: ClassVar[str] = "video_latents"
    version: ClassVar[int] = 1
    modality: ClassVar[Modality] = "video"
    needs: ClassVar[frozenset[Need]] = frozenset({"frames"})

    def __init__(self, config: VideoLatentsConfig) -> None:
        super().__init__(config.encoder)
        self.config = config

    def settings(self) -> tuple[int]:
        """How many references there are."""
        return (self.config.num_references,)

    def __call__(self, crop: CropMedia) -> Feature:
        """`latents`, `references` and which frames these are."""
        chosen = reference_frames(len(crop.frames), self.config.num_references)
        references = [self._encoder.encode_image(crop.frames[frame]) for frame in chosen]
        return {
            "latents": self._encoder.encode(crop.frames).astype(np.float16),
            "references": np.stack(references).astype(np.float16),
            "reference_frames": chosen,
        }
