"""The one table that ties pixel frames, latent steps, structure and audio together.

25 frames/s. T = 4k+1 pixel frames are k+1 steps: step 0 is frame 0, step i >= 1 is frames 4i-3 .. 4i.
Structure has one entry per pixel frame (4 per step; step 0 repeats its one).
Audio has 50 tokens/s, 2 per frame, 8 slots per step (at step 0 only the last two are valid).

Legend: T frames, S steps, J audio tokens (= 2T), F = 4 frames per step, N = 8 audio slots per step.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

FPS = 25
FRAMES_PER_STEP = 4
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS  # 640
TOKENS_PER_FRAME = 2
AUDIO_HZ = FPS * TOKENS_PER_FRAME  # 50
SLOTS_PER_STEP = FRAMES_PER_STEP * TOKENS_PER_FRAME  # 8

ArrayT = TypeVar("ArrayT", np.ndarray, Tensor)


def num_steps(num_frames: int) -> int:
    """Steps of a clip of T frames. Raises ValueError unless T = 4k+1: nothing is truncated in silence."""
    if num_frames < 1 or (num_frames - 1) % FRAMES_PER_STEP:
        raise ValueError(
            f"{num_frames} frames are not 4k+1; the nearest below is {floor_frames(max(num_frames, 1))}, "
            f"the nearest above {ceil_frames(max(num_frames, 1))}"
        )
    return (num_frames - 1) // FRAMES_PER_STEP + 1


def num_frames(num_steps: int) -> int:
    """Frames of S steps: 4(S-1)+1."""
    if num_steps < 1:
        raise ValueError(f"{num_steps} steps: a clip has at least step 0")
    return FRAMES_PER_STEP * (num_steps - 1) + 1


def floor_frames(frames: int) -> int:
    """Largest 4k+1 not above `frames` (curate drops up to 3 frames at a clip's end)."""
    if frames < 1:
        raise ValueError(f"{frames} frames: at least one is needed")
    return (frames - 1) // FRAMES_PER_STEP * FRAMES_PER_STEP + 1


def ceil_frames(frames: int) -> int:
    """Smallest 4k+1 not below `frames` (generate rounds up and trims to the sound)."""
    return floor_frames(frames + FRAMES_PER_STEP - 1)


def frames_of_step(step: int) -> range:
    """Pixel frames of a step."""
    if step < 0:
        raise ValueError(f"step {step} is negative")
    return range(1) if step == 0 else range(FRAMES_PER_STEP * step - 3, FRAMES_PER_STEP * step + 1)


def num_audio_tokens(num_frames: int) -> int:
    """50 Hz tokens of T frames: 2T."""
    return TOKENS_PER_FRAME * num_frames


def num_samples(num_frames: int) -> int:
    """16 kHz samples of T frames: 640T."""
    return SAMPLES_PER_FRAME * num_frames


def video_time(step: int) -> float:
    """Position of a video latent in frames: the centre of its group (0, else 4i - 1.5)."""
    return 0.0 if step == 0 else FRAMES_PER_STEP * step - 1.5


def structure_times(step: int, tokens: int = FRAMES_PER_STEP) -> tuple[float, ...]:
    """Positions of a step's structure tokens, in frames: one per frame, several, or one for some consecutive frames."""
    frames = (0,) * FRAMES_PER_STEP if step == 0 else tuple(frames_of_step(step))
    if tokens >= FRAMES_PER_STEP:
        return tuple(float(frame) for frame in frames for _ in range(tokens // FRAMES_PER_STEP))
    shared = FRAMES_PER_STEP // tokens
    return tuple(sum(frames[first : first + shared]) / shared for first in range(0, FRAMES_PER_STEP, shared))


def fold_structure(x_tm: ArrayT) -> ArrayT:
    """[T, ...] per frame -> [S, 4, ...] per step; step 0 repeats its one frame."""
    steps = num_steps(x_tm.shape[0])
    head = x_tm[:1]
    rest = x_tm[1:].reshape(steps - 1, FRAMES_PER_STEP, *x_tm.shape[1:])
    first = _stack_like(x_tm, [head] * FRAMES_PER_STEP)
    return _concat_like(x_tm, [first[None], rest])


def fold_audio(x_ja: ArrayT) -> ArrayT:
    """[2T, ...] tokens -> [S, 8, ...] slots; the first six slots of step 0 are zero (see `audio_valid`)."""
    tokens = x_ja.shape[0]
    if tokens % TOKENS_PER_FRAME:
        raise ValueError(f"{tokens} audio tokens: two per frame are expected")
    steps = num_steps(tokens // TOKENS_PER_FRAME)
    pad = SLOTS_PER_STEP - TOKENS_PER_FRAME
    empty = x_ja[:1] * 0
    padded = _concat_like(x_ja, [empty] * pad + [x_ja])
    return padded.reshape(steps, SLOTS_PER_STEP, *x_ja.shape[1:])


def audio_valid(steps: int) -> Tensor:
    """Bool [S, 8]: which audio slots hold a token, for steps starting at step 0."""
    valid = torch.ones(steps, SLOTS_PER_STEP, dtype=torch.bool)
    valid[0, : SLOTS_PER_STEP - TOKENS_PER_FRAME] = False
    return valid


def _concat_like(like: ArrayT, parts: list[ArrayT]) -> ArrayT:
    if isinstance(like, Tensor):
        return torch.cat(parts)  # type: ignore[arg-type]  # parts are tensors when `like` is one
    return np.concatenate(parts)


def _stack_like(like: ArrayT, parts: list[ArrayT]) -> ArrayT:
    """Four [1, ...] parts -> [4, ...]."""
    return _concat_like(like, parts)
