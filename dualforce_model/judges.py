"""Small nets that judge a model's estimates in training: FLAME motion read off structure, lips heard in the sound.

A judge learns on true data and is held still on the model's estimates: it can neither be bribed nor come to terms with
the model. Judges are no part of the model: they lie beside it in checkpoints and generation never needs them.

Legend: b samples, s steps, c h w latent, f frames and m structure entries, 8 audio slots and a their width.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from dualforce_model.clock import SLOTS_PER_STEP
from dualforce_model.flame import NUM_MOTION
from dualforce_model.losses import TERMS, Judged, LossWeights, flame_alignment, lip_contrast, only
from dualforce_model.model import ModelConfig

CONTRAST_DIM = 256
MOUTH_GRID = (4, 8)  # rows and columns to which the lower half of a latent is averaged


class Estimates(NamedTuple):
    """x0 as the model's velocities imply it, x_sigma - sigma * v, with the noise levels."""

    video: Float[Tensor, "b s c h w"]
    sigma_video: Float[Tensor, "b s"]
    structure: Float[Tensor, "b s f m"] | None
    sigma_structure: Float[Tensor, "b s"]


class Counted(NamedTuple):
    """Weights of the steps at which a judge is asked about estimates, and at which it learns from the truth."""

    estimate: Float[Tensor, "b s"]
    truth: Float[Tensor, "b s"]


class FlameJudge(nn.Module):
    """One linear map from a frame's structure to its FLAME motion. Zero at the start: silent before it knows."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.map = nn.Linear(entries, NUM_MOTION)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, structure: Float[Tensor, "b s f m"]) -> Float[Tensor, "b s f 56"]:
        """FLAME motion, standardised."""
        motion: Tensor = self.map(structure.to(self.map.weight.dtype))
        return motion.float()


class LipJudge(nn.Module):
    """Embeds the lower half of a step's picture, and its sound, where pairs that belong together lie close."""

    def __init__(self, latent_channels: int, audio_features: int) -> None:
        super().__init__()
        rows, columns = MOUTH_GRID
        self.look = _embedding(latent_channels * rows * columns)
        self.listen = _embedding(SLOTS_PER_STEP * audio_features)

    def forward(
        self, moved: Float[Tensor, "b s c h w"], audio: Float[Tensor, "b s 8 a"]
    ) -> tuple[Float[Tensor, "b s 256"], Float[Tensor, "b s 256"]]:
        """Embeddings of what is seen (latents minus the reference's: the face itself says nothing) and heard."""
        dtype = next(self.look.parameters()).dtype
        mouth = moved[..., moved.shape[-2] // 2 :, :]
        for axis, cells in zip((-2, -1), MOUTH_GRID, strict=True):
            mouth = (mouth.transpose(axis, -1) @ _averaging(mouth.shape[axis], cells, mouth)).transpose(axis, -1)
        seen, heard = self.look(mouth.flatten(2).to(dtype)), self.listen(audio.flatten(2).to(dtype))
        return seen.float(), heard.float()


class Judges(nn.Module):
    """The judges of one run, and the learned uncertainties of its losses; what the run has no use for is not there."""

    def __init__(self, weights: LossWeights, model: ModelConfig, knows_flame: bool) -> None:
        """`knows_flame`: whether the data have FLAME parameters. Draws from torch's global generator."""
        super().__init__()
        self.weights = weights
        flame = knows_flame and model.structure is not None and weights.flame > 0
        self.flame = FlameJudge(model.structure.entries) if flame and model.structure is not None else None
        lips = model.audio is not None and weights.lips > 0
        self.lips = LipJudge(model.video.latent_channels, model.audio.features) if lips and model.audio else None
        self.log_variances: nn.Parameter | None = None
        if weights.balance == "learned":
            start = torch.tensor([weights.of(term) or 1.0 for term in TERMS])
            self.log_variances = nn.Parameter(-start.log())

    def judge_flame(
        self,
        estimates: Estimates,
        structure: Float[Tensor, "b s f m"],
        target: Float[Tensor, "b s f 56"] | None,
        counted: Counted,
    ) -> Judged | None:
        """Errors of what is read off the structure estimates, and off the true structure, against FLAME motion."""
        if self.flame is None or target is None or estimates.structure is None:
            return None
        sigma = estimates.sigma_structure
        estimate = _held_still(self.flame, only(estimates.structure.float(), counted.estimate > 0))
        truth = self.flame(only(structure.float(), counted.truth > 0))
        return Judged(
            flame_alignment(estimate, target, sigma, counted.estimate),
            flame_alignment(truth, target, sigma, counted.truth),
        )

    def judge_lips(
        self,
        estimates: Estimates,
        video: Float[Tensor, "b s c h w"],
        audio: Float[Tensor, "b s 8 a"],
        audible: Bool[Tensor, "b s"],
        counted: Counted,
    ) -> Judged | None:
        """Contrast of the video estimates, and of the true video, with the sound of the window."""
        if self.lips is None:
            return None
        sigma, sound, reference = estimates.sigma_video, only(audio.float(), audible), video[:, :1].float()
        estimate = only(estimates.video.float() - reference, counted.estimate > 0)
        truth = only(video.float() - reference, counted.truth > 0)
        shown, heard = _held_still(self.lips, estimate, sound)
        true, sounds = self.lips(truth, sound)
        return Judged(
            lip_contrast(shown, heard, audible, sigma, counted.estimate),
            lip_contrast(true, sounds, audible, sigma, counted.truth),
        )


def _embedding(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, CONTRAST_DIM), nn.GELU(), nn.Linear(CONTRAST_DIM, CONTRAST_DIM))


def _averaging(size: int, cells: int, like: Tensor) -> Float[Tensor, "size cells"]:
    """Matrix that averages `size` entries into cells; a product with it has a gradient that repeats bit for bit."""
    each = torch.eye(size, device=like.device, dtype=like.dtype)[None]
    return nn.functional.adaptive_avg_pool1d(each, cells)[0]


def _held_still(judge: nn.Module, *inputs: Tensor) -> Any:
    """The judge's answer with a gradient for its inputs and none for itself."""
    fixed = {name: parameter.detach() for name, parameter in judge.named_parameters()}
    return functional_call(judge, fixed, inputs)
