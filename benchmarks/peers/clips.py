"""The data that every loader gets, and what a window of them is. Knows numpy alone: all environments import it."""

from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]

# Modality/array -> shape and type, sizes of a clip of 125 frames at 512 x 512 (`full`) and of a toy (`small`).
SHAPES: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {
    "full": {
        "video/latents": ((32, 16, 64, 64), "float16"),
        "video/references": ((5, 16, 64, 64), "float16"),
        "video/reference_frames": ((5,), "int32"),
        "structure/motion": ((125, 70), "float32"),
        "audio/tokens": ((250, 1024), "float16"),
        "flame/parameters": ((125, 159), "float32"),
        "reference/features": ((5, 50, 384), "float16"),
        "reference/frames": ((5,), "int32"),
    },
    "small": {
        "video/latents": ((32, 16, 4, 4), "float16"),
        "video/references": ((5, 16, 4, 4), "float16"),
        "video/reference_frames": ((5,), "int32"),
        "structure/motion": ((125, 70), "float32"),
        "audio/tokens": ((250, 16), "float16"),
        "flame/parameters": ((125, 159), "float32"),
        "reference/features": ((5, 2, 8), "float16"),
        "reference/frames": ((5,), "int32"),
    },
}
NUM_STEPS = 12  # of the 32 of a clip: 48 of its 125 frames, 96 of its 250 audio tokens


class Pick(NamedTuple):
    """One window: a clip, its first step, and the reference that stands as step 0."""

    clip: int
    start: int
    reference: int


def make_clip(size: str, clip: int) -> Arrays:
    """Arrays of a clip by "modality/array": random numbers that no codec shrinks."""
    rng, made = np.random.default_rng(clip), Arrays()
    for name, (shape, dtype) in SHAPES[size].items():
        if dtype == "int32":
            made[name] = np.arange(shape[0], dtype=np.int32)
        else:
            made[name] = rng.standard_normal(shape, np.float32).astype(dtype)
    return made


def clip_bytes(size: str) -> int:
    """Bytes of a clip."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in SHAPES[size].values())


def rows_of(name: str, pick: Pick) -> slice:
    """Rows of an array that a window needs."""
    first = 4 * pick.start - 3  # pixel frame of the first step
    if name in ("video/reference_frames", "reference/frames"):
        return slice(None)
    if name in ("video/references", "reference/features"):
        return slice(pick.reference, pick.reference + 1)
    if name == "video/latents":
        return slice(pick.start, pick.start + NUM_STEPS)
    if name == "audio/tokens":
        return slice(2 * first, 2 * (first + 4 * NUM_STEPS))
    return slice(first, first + 4 * NUM_STEPS)


def draw_picks(count: int, num_clips: int, seed: int) -> list[Pick]:
    """Windows by chance; no clip twice while there are others."""
    rng = np.random.default_rng(seed)
    clips = np.concatenate([rng.permutation(num_clips) for _ in range(-(-count // num_clips))])[:count]
    return [Pick(int(clip), int(rng.integers(1, 32 - NUM_STEPS + 1)), int(rng.integers(0, 5))) for clip in clips]
