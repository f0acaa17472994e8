"""Noise levels of both modalities as functions of one time u: the same code for trainer and sampler.

Convention everywhere: x_sigma = (1 - sigma) * x0 + sigma * noise, velocity v = noise - x0, so x0 = x_sigma - sigma * v.
sigma 0 is clean, sigma 1 is pure noise.

Legend: N sampler steps, s steps of the clock.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dualforce_model.config import Frozen


def shift_level(u: Float[Tensor, " *n"], shift: float) -> Float[Tensor, " *n"]:
    """sigma = shift * u / (1 + (shift - 1) * u): monotone, keeps 0 and 1; shift < 1 makes the middle cleaner."""
    return shift * u / ((1 - u) + shift * u)  # this form is exact at both ends


@dataclass(frozen=True)
class Levels:
    """Noise levels of both modalities, one per step of the clock or one per step of the sampler."""

    video: Float[Tensor, " n"]
    structure: Float[Tensor, " n"]


class NoiseSchedule(Frozen):
    """How noisy each modality is at time u (1 = pure noise, 0 = clean).

    Both have support on all of [0, 1]. Structure's smaller shift makes it cleaner than video at equal time
    (median 0.35), so that coarse motion leads and pixels follow.
    """

    video_shift: float = Field(default=3.0, gt=0, le=20, description="s of the video stream; above 1 is noisier")
    structure_shift: float = Field(default=0.54, gt=0, le=20, description="s of the structure stream")
    structure_cap: float = Field(
        default=1.0, gt=0, le=1, description="largest structure level seen in training; below 1 only as an ablation"
    )

    def levels(self, u_video: Float[Tensor, " n"], u_structure: Float[Tensor, " n"]) -> Levels:
        """Levels at given times."""
        structure = self.structure_cap * shift_level(u_structure, self.structure_shift)
        return Levels(video=shift_level(u_video, self.video_shift), structure=structure)

    def path(self, num_inference_steps: int) -> Levels:
        """The N + 1 states that the sampler visits, from pure noise to clean, both modalities at the same time u."""
        if num_inference_steps < 1:
            raise ValueError(f"{num_inference_steps} sampler steps: at least one is needed")
        u = torch.linspace(1.0, 0.0, num_inference_steps + 1)
        return self.levels(u, u)


def add_noise(x0: Float[Tensor, "b s *d"], noise: Float[Tensor, "b s *d"], sigma: Float[Tensor, "b s"]) -> Tensor:
    """x_sigma = (1 - sigma) * x0 + sigma * noise, one level per step."""
    level = expand(sigma, x0)
    return (1 - level) * x0 + level * noise


def expand(sigma: Float[Tensor, "b s"], like: Float[Tensor, "b s *d"]) -> Tensor:
    """[b, s] -> [b, s, 1, ...] with as many axes as `like`."""
    return sigma.reshape(*sigma.shape, *(1,) * (like.ndim - sigma.ndim))
