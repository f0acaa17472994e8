"""What the network's output means, and how it becomes a velocity.

`velocity` (Wan's own): the output is noise - x0. `residual`: the output is x0 minus the reference (step 0), in units of
how far each dimension usually goes from the reference; v = (x_sigma - x0) / sigma. A network that says nothing then
repeats the picture. A velocity must carry all of the noise through the network, which narrow towers cannot; a residual
need not.

Legend: b samples, s steps, c latent channels, m structure entries.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.config import Frozen
from dualforce_model.diffusion.schedule import expand

Prediction = Literal["velocity", "residual"]
SMALLEST_SIGMA = 0.05  # below it a residual's error would be blown up without end
SMALLEST_SPREAD = 0.02  # what never leaves the reference must not be blown up either


class Spread(Frozen):
    """Root mean square distance from the reference, per dimension of standardised features."""

    video: tuple[float, ...] = Field(min_length=1, description="per latent channel")
    structure: tuple[float, ...] = Field(min_length=1, description="per structure entry")


@dataclass(frozen=True)
class Stream:
    """One modality's reading: what the output means, and its unit, shaped to stand beside what a step holds."""

    prediction: Prediction
    unit: Tensor

    def velocity(
        self,
        output: Float[Tensor, "b s ..."],
        x_sigma: Tensor,
        reference: Float[Tensor, "b ..."],
        sigma: Float[Tensor, "b s"],
    ) -> Tensor:
        """Velocity noise - x0 from the network's output at level sigma."""
        if self.prediction == "velocity":
            return output
        x0 = reference[:, None] + output * self.unit.to(output)
        return (x_sigma - x0) / expand(sigma.clamp(min=SMALLEST_SIGMA), x_sigma)

    def weight(self, device: torch.device) -> Tensor | None:
        """Weight of squared errors per element: residuals count in their own unit, so 1 means "picture repeated"."""
        return None if self.prediction == "velocity" else self.unit.to(device) ** -2


@dataclass(frozen=True)
class Reading:
    """How trainer and sampler read the outputs of both towers."""

    video: Stream
    structure: Stream

    @classmethod
    def of(cls, prediction: Prediction, spread: Spread) -> "Reading":
        """The reading of a model trained with this prediction and spread."""
        video, structure = torch.tensor(spread.video), torch.tensor(spread.structure)
        return cls(Stream(prediction, video[:, None, None]), Stream(prediction, structure))


def measure_spread(batches: Iterable[TalkingHeadBatch]) -> Spread:
    """Spread over training windows: root of the mean squared distance from each window's reference."""
    video, structure = [], []
    for batch in batches:
        video.append((batch.video[:, 1:] - batch.reference[:, None]).double().square().mean(dim=(0, 1, 3, 4)))
        structure.append((batch.structure[:, 1:] - batch.structure[:, :1]).double().square().mean(dim=(0, 1, 2)))
    return Spread(video=_root(video), structure=_root(structure))


def _root(squares: list[Tensor]) -> tuple[float, ...]:
    values: list[float] = torch.stack(squares).mean(0).sqrt().clamp(min=SMALLEST_SPREAD).tolist()
    return tuple(values)
