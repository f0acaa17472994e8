"""Losses as pure functions: (prediction, target, weights) -> one scalar with a name.

Legend: b samples, s steps; whatever follows is averaged over.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dualforce_model.config import Frozen
from dualforce_model.diffusion.schedule import expand

LEVELS = 5  # ranges of the noise level in which errors are logged


class LossWeights(Frozen):
    """What each named loss counts in the sum."""

    video: float = Field(default=1.0, ge=0, le=100, description="flow matching on video latents")
    structure: float = Field(default=0.5, ge=0, le=100, description="flow matching on structure")
    sigma_power: float = Field(
        default=2.0,
        ge=0,
        le=4,
        description="a step at level sigma weighs sigma to this power; 0: all alike, 2: error of x0",
    )


@dataclass(frozen=True)
class Losses:
    """Scalars of one batch; `total` is the weighted sum and the only one with a purpose for gradients."""

    total: Float[Tensor, ""]
    video: Float[Tensor, ""]
    structure: Float[Tensor, ""]

    def named(self) -> dict[str, Tensor]:
        """By name, for logs."""
        return {"loss": self.total, "loss_video": self.video, "loss_structure": self.structure}


@dataclass(frozen=True)
class StepErrors:
    """Flow-matching errors of one modality, step by step, with the noise level and the weight of each step."""

    errors: Float[Tensor, "b s"]
    sigma: Float[Tensor, "b s"]
    weight: Float[Tensor, "b s"]

    def loss(self) -> Float[Tensor, ""]:
        """Per sample the weighted sum over the number of steps with weight; then the mean over samples.

        A sample's share does not depend on its neighbours, so any split over processes gives the same gradient. A
        sample without any weight contributes exactly 0.
        """
        per_sample = (self.errors * self.weight).sum(1) / (self.weight > 0).sum(1).clamp(min=1)
        return per_sample.mean()

    def by_level(self) -> Float[Tensor, "2 levels"]:
        """Sum of the unweighted errors, and number of predicted steps, in each of LEVELS equal ranges of sigma."""
        wanted = self.weight > 0
        level = (self.sigma[wanted] * LEVELS).long().clamp(max=LEVELS - 1)
        table = torch.zeros(2, LEVELS, device=self.errors.device)
        table[0].index_add_(0, level, self.errors[wanted].detach())
        table[1].index_add_(0, level, torch.ones_like(self.errors[wanted]))
        return table


def flow_matching(
    velocity: Float[Tensor, "b s *d"],
    x0: Float[Tensor, "b s *d"],
    noise: Float[Tensor, "b s *d"],
    sigma: Float[Tensor, "b s"],
    weight: Float[Tensor, "b s"],
    element_weight: Float[Tensor, "*d"] | None = None,
) -> StepErrors:
    """Mean squared error of the velocity against `noise - x0`, per step; exactly 0 for steps without weight."""
    difference = velocity.float() - (noise - x0).float()
    # Cut off before the square: a NaN that is squared first has a NaN gradient even where it is not used.
    wanted = expand(weight > 0, difference)
    squares = torch.where(wanted, difference, torch.zeros((), device=difference.device)).square()
    if element_weight is not None:
        squares = squares * element_weight
    return StepErrors(squares.flatten(2).mean(2), sigma, weight)


def predicted_steps(sigma: Float[Tensor, "b s"], power: float = 0.0) -> Float[Tensor, "b s"]:
    """Weight sigma ** power of steps to be predicted; 0 for given ones (level exactly 0, and step 0 always)."""
    weight = torch.where(sigma > 0, sigma**power, torch.zeros_like(sigma))
    weight[:, 0] = 0
    return weight


def total_loss(video: StepErrors, structure: StepErrors | None, weights: LossWeights) -> Losses:
    """Weighted sum of the named losses; a modality that is not there costs exactly 0."""
    seen = video.loss()
    felt = structure.loss() if structure is not None else torch.zeros_like(seen)
    return Losses(total=weights.video * seen + weights.structure * felt, video=seen, structure=felt)
