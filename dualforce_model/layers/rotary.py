"""Rotary positions computed from the positions themselves: any offset, any length, fractions of a frame.

Legend: l tokens, h heads, d head width, r = d/2 rotated pairs (interleaved, as in Wan).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from dualforce_model import clock

THETA = 10_000.0


@dataclass(frozen=True)
class Rotation:
    """Turns of tokens: cosine and sine of the angle of each rotated pair."""

    pairs: Float[Tensor, "l r 2"]

    @property
    def turns(self) -> Complex[Tensor, "l r"]:
        """The same as complex numbers e^(i angle)."""
        return torch.view_as_complex(self.pairs)


def angles(positions: Sequence[float], dim: int, theta: float = THETA) -> Float[Tensor, "l r"]:
    """Position times frequency theta^(-2i/dim), in float64: exact far from the start of a clip."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    return torch.tensor(positions, dtype=torch.float64)[:, None] * theta**-exponents


def rotation(angles_lr: Float[Tensor, "l r"], device: torch.device) -> Rotation:
    """The rotation by given angles, on the device."""
    return Rotation(torch.view_as_real(torch.polar(torch.ones_like(angles_lr), angles_lr).to(device, torch.complex64)))


def still(num: int, then: Rotation) -> Rotation:
    """Rotation that leaves `num` tokens as they are, then goes on with another."""
    return Rotation(torch.cat([torch.view_as_real(then.turns.new_ones(num, then.turns.shape[1])), then.pairs]))


def rotate(x: Float[Tensor, "b l h d"], by: Rotation) -> Float[Tensor, "b l h d"]:
    """Turn every pair (x[2i], x[2i+1]) by its angle, in float32."""
    if torch.compiler.is_compiling():  # the compiler fuses real numbers only
        (a, b), (cos, sin) = x.float().unflatten(-1, (-1, 2)).unbind(-1), by.pairs[:, None].unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).type_as(x)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # five times faster than slices
    return torch.view_as_real(pairs * by.turns[:, None]).flatten(-2).type_as(x)


@lru_cache(maxsize=256)
def video_rotation(steps: tuple[int, ...], height: int, width: int, dim: int, device: torch.device) -> Rotation:
    """3-D positions (step, row, column) of the tokens of the given steps; Wan's split of the head width."""
    side = 2 * (dim // 6)
    time = angles(steps, dim - 2 * side)[:, None, None].expand(-1, height, width, -1)
    rows = angles(range(height), side)[None, :, None].expand(len(steps), -1, width, -1)
    columns = angles(range(width), side)[None, None].expand(len(steps), height, -1, -1)
    return rotation(torch.cat([time, rows, columns], dim=-1).flatten(0, 2), device)


@lru_cache(maxsize=256)
def structure_rotation(
    steps: tuple[int, ...], dim: int, device: torch.device, tokens: int = clock.FRAMES_PER_STEP
) -> Rotation:
    """1-D positions of the structure tokens of each step: the times of their pixel frames."""
    times = [time for step in steps for time in clock.structure_times(step, tokens)]
    return rotation(angles(times, dim), device)


@lru_cache(maxsize=256)
def latent_rotation(steps: tuple[int, ...], dim: int, device: torch.device, tokens: int) -> Rotation:
    """1-D positions of the video tokens of each step: all at the centre of the step's pixel frames."""
    times = [clock.video_time(step) for step in steps for _ in range(tokens)]
    return rotation(angles(times, dim), device)


def offset_rotation(
    steps: tuple[int, ...],
    dim: int,
    device: torch.device,
    theta: float = THETA,
    tokens: int = clock.FRAMES_PER_STEP,
) -> Rotation:
    """Times (frames) of the structure tokens of each step from the time of the step's video latent."""
    alike = tuple(min(step, 1) for step in steps)  # all but step 0
    return _offset_rotation(alike, dim, device, theta, tokens)


@lru_cache(maxsize=256)
def _offset_rotation(steps: tuple[int, ...], dim: int, device: torch.device, theta: float, tokens: int) -> Rotation:
    times = [time - clock.video_time(step) for step in steps for time in clock.structure_times(step, tokens)]
    return rotation(angles(times, dim, theta), device)
