"""Losses as pure functions: (prediction, target, weights) -> one scalar with a name.

Legend: b samples, s steps, f frames of a step; whatever follows is averaged over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dualforce_model.config import Frozen
from dualforce_model.diffusion.schedule import expand
from dualforce_model.flame import MOTION_WIDTHS

LEVELS = 5  # ranges of the noise level in which errors are logged
TERMS = ("video", "structure", "flame", "lips")
TEMPERATURE = 0.1  # of the lip contrast: cosines of -1 .. 1 become scores of -10 .. 10


class LossWeights(Frozen):
    """What each named loss counts in the sum. A loss that finds no data (no FLAME, no sound) costs exactly 0."""

    video: float = Field(default=1.0, ge=0, le=100, description="flow matching on video latents")
    structure: float = Field(default=0.5, ge=0, le=100, description="flow matching on structure")
    flame: float = Field(default=0.1, ge=0, le=100, description="structure agrees with FLAME motion; 0: not judged")
    lips: float = Field(default=0.3, ge=0, le=100, description="lips go with the sound of their step; 0: not judged")
    balance: Literal["fixed", "learned"] = Field(
        default="fixed", description="learned: the weights are where the learned uncertainties start"
    )
    sigma_power: float = Field(
        default=2.0,
        ge=0,
        le=4,
        description="a step at level sigma weighs sigma to this power; 0: all alike, 2: error of x0",
    )
    flame_at_end: float = Field(
        default=0.1, ge=0, le=1, description="share of the FLAME weight left at the last step; it falls evenly"
    )
    flame_power: float = Field(
        default=2.0, ge=0, le=8, description="an estimate at structure level sigma counts (1 - sigma) to this power"
    )
    lips_sigma: float = Field(
        default=0.3, gt=0, le=1, description="video level up to which lips are judged; above it noise would be fitted"
    )

    def of(self, term: str) -> float:
        """Weight of a term at the start of a training."""
        value: float = getattr(self, term)
        return value

    def share(self, term: str, progress: float) -> float:
        """What is left of a term's weight when `progress` (0 .. 1) of the steps are done."""
        return 1 + (self.flame_at_end - 1) * progress if term == "flame" else 1.0


@dataclass(frozen=True)
class StepErrors:
    """Errors of one loss, step by step, with the noise level and the weight of each step."""

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

    def present(self) -> Float[Tensor, ""]:
        """Share of the samples that have any weight."""
        return (self.weight > 0).any(1).float().mean()

    def by_level(self) -> Float[Tensor, "2 levels"]:
        """Sum of the unweighted errors, and number of predicted steps, in each of LEVELS equal ranges of sigma."""
        wanted = self.weight > 0
        level = (self.sigma[wanted] * LEVELS).long().clamp(max=LEVELS - 1)
        table = torch.zeros(2, LEVELS, device=self.errors.device)
        table[0].index_add_(0, level, self.errors[wanted].detach())
        table[1].index_add_(0, level, torch.ones_like(self.errors[wanted]))
        return table


@dataclass(frozen=True)
class Judged:
    """A loss that a small net measures: its errors on the model's estimate, and on the truth it learns from.

    On the estimate the net is held still, so that it cannot come to terms with the model; on the truth it alone learns.
    """

    estimate: StepErrors
    lesson: StepErrors

    def by_level(self) -> Float[Tensor, "2 levels"]:
        """As StepErrors: those of the estimate."""
        return self.estimate.by_level()


@dataclass(frozen=True)
class Losses:
    """Scalars of one batch; `total` is the weighted sum and the only one with a purpose for gradients."""

    total: Float[Tensor, ""]
    video: Float[Tensor, ""]
    structure: Float[Tensor, ""]
    others: Mapping[str, Tensor] = field(default_factory=dict)

    def named(self) -> dict[str, Tensor]:
        """By name, for logs."""
        return {"loss": self.total, "loss_video": self.video, "loss_structure": self.structure, **self.others}


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
    squares = only(difference, weight > 0).square()
    if element_weight is not None:
        squares = squares * element_weight
    return StepErrors(squares.flatten(2).mean(2), sigma, weight)


def flame_alignment(
    motion: Float[Tensor, "b s f 56"],
    target: Float[Tensor, "b s f 56"],
    sigma: Float[Tensor, "b s"],
    weight: Float[Tensor, "b s"],
) -> StepErrors:
    """Mean squared error of FLAME motion in standard deviations, expression, jaw and pose counting alike.

    `motion` is read off the estimate of x0, never off a velocity. Exactly 0 for steps without weight.
    """
    squares = only(motion.float() - target.float(), weight > 0).square()
    groups = [group.flatten(2).mean(2) for group in squares.split(MOTION_WIDTHS, dim=-1)]
    return StepErrors(torch.stack(groups).mean(0), sigma, weight)


def lip_contrast(
    seen: Float[Tensor, "b s d"],
    heard: Float[Tensor, "b s d"],
    audible: Bool[Tensor, "b s"],
    sigma: Float[Tensor, "b s"],
    weight: Float[Tensor, "b s"],
) -> StepErrors:
    """InfoNCE: among the sounds of its own window, which one belongs to a step that is seen? -log of the right one's
    share of exp(cosine / TEMPERATURE).

    Candidates come from the same window alone: same face, same voice, so that only the lips can tell; and a sample's
    loss does not depend on its neighbours. Exactly 0 for steps without weight or without sound.
    """
    wanted = (weight > 0) & audible
    seen, heard = unit(only(seen.float(), wanted)), unit(only(heard.float(), audible))
    scores = (seen @ heard.mT / TEMPERATURE).masked_fill(~audible[:, None], float("-inf"))
    scores = only(scores, wanted)  # a window without sound has no finite score at all
    errors = scores.logsumexp(2) - scores.diagonal(dim1=1, dim2=2)
    return StepErrors(only(errors, wanted), sigma, weight * audible)


def predicted_steps(sigma: Float[Tensor, "b s"], power: float = 0.0) -> Float[Tensor, "b s"]:
    """Weight sigma ** power of steps to be predicted; 0 for given ones (level exactly 0, and step 0 always)."""
    weight = torch.where(sigma > 0, sigma**power, torch.zeros_like(sigma))
    weight[:, 0] = 0
    return weight


def trusted_steps(sigma: Float[Tensor, "b s"], power: float) -> Float[Tensor, "b s"]:
    """Weight (1 - sigma) ** power of the estimates of predicted steps: the noisier, the less they say."""
    return predicted_steps(sigma) * (1 - sigma) ** power


def clear_steps(sigma: Float[Tensor, "b s"], limit: float) -> Float[Tensor, "b s"]:
    """Weight 1 of predicted steps up to a noise level, else 0."""
    return predicted_steps(sigma) * (sigma <= limit)


def total_loss(
    video: StepErrors,
    structure: StepErrors | None,
    flame: Judged | None,
    lips: Judged | None,
    weights: LossWeights,
    progress: float = 0.0,
    log_variances: Float[Tensor, " terms"] | None = None,
) -> Losses:
    """Weighted sum of the named losses; what is not there costs exactly 0.

    `log_variances` (one per TERMS, balance "learned"): a loss L counts exp(-v) L + v instead, which is least where
    exp(v) = L, so that every loss ends up counting alike; v starts at -log(weight). Samples without data move no v.
    """
    judged = {"flame": flame, "lips": lips}
    errors = {"video": video} | ({"structure": structure} if structure is not None else {})
    errors |= {name: each.estimate for name, each in judged.items() if each is not None}
    parts = {name: each.loss() for name, each in errors.items()}
    total = torch.zeros_like(parts["video"])
    for name, part in parts.items():
        share = weights.share(name, progress)
        if log_variances is None or weights.of(name) == 0:
            total = total + weights.of(name) * share * part
        else:
            spread = log_variances.float()[TERMS.index(name)]
            total = total + share * (torch.exp(-spread) * part + errors[name].present() * spread)
    others = {f"loss_{name}": parts[name] for name, each in judged.items() if each is not None}
    for name, each in judged.items():
        if each is not None:
            others[f"lesson_{name}"] = each.lesson.loss()
            total = total + weights.of(name) * others[f"lesson_{name}"]
    nothing = torch.zeros_like(parts["video"])
    return Losses(total=total, video=parts["video"], structure=parts.get("structure", nothing), others=others)


def only(x: Float[Tensor, "b s *d"], wanted: Bool[Tensor, "b s"]) -> Float[Tensor, "b s *d"]:
    """x at the wanted steps; elsewhere exactly 0 with gradient exactly 0, even where x is NaN."""
    return torch.where(expand(wanted, x), x, torch.zeros((), device=x.device, dtype=x.dtype))


def unit(x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
    """Of length 1; zeros stay zeros."""
    return torch.nn.functional.normalize(x, dim=-1)
