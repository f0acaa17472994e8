"""The training objective of one batch of windows: noise in, velocities out, errors per step, one loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.diffusion.noise import keyed_generator
from dualforce_model.diffusion.prediction import Reading
from dualforce_model.diffusion.schedule import expand
from dualforce_model.diffusion.window import NoisyWindow, SampleKey, make_noisy
from dualforce_model.fitting import text_width
from dualforce_model.judges import Counted, Estimates, Judges
from dualforce_model.layers.features import Features
from dualforce_model.losses import (
    Judged,
    Losses,
    StepErrors,
    clear_steps,
    flow_matching,
    predicted_steps,
    total_loss,
    trusted_steps,
)
from dualforce_model.model import DualForce, Velocities
from dualforce_model.train_config import TrainSettings


class WindowErrors(NamedTuple):
    """Errors of a batch by loss; nothing where the model, or the run, has no such loss."""

    video: StepErrors
    structure: StepErrors | None
    flame: Judged | None = None
    lips: Judged | None = None


class Outcome(NamedTuple):
    """What one batch says."""

    errors: WindowErrors
    losses: Losses


class Objective(nn.Module):
    """The model and its judges in one module: what accelerate prepares, so that one call shards and averages all."""

    def __init__(self, model: DualForce, judges: Judges, settings: TrainSettings, reading: Reading) -> None:
        super().__init__()
        self.model, self.judges = model, judges
        self.settings, self.reading = settings, reading
        self._no_split_modules = model._no_split_modules  # FSDP asks the module that it is given

    def forward(self, batch: TalkingHeadBatch, keys: Sequence[SampleKey], progress: float) -> Outcome:
        """Errors and losses of a batch when `progress` (0 .. 1) of the training is done."""
        errors = window_errors(self.model, batch, keys, self.settings, self.reading, self.judges)
        variances = self.judges.log_variances
        return Outcome(errors, total_loss(*errors, self.settings.losses, progress, variances))


def window_errors(
    model: DualForce,
    batch: TalkingHeadBatch,
    keys: Sequence[SampleKey],
    settings: TrainSettings,
    reading: Reading,
    judges: Judges | None = None,
) -> WindowErrors:
    """Errors of a batch; noise, levels, silence and absent conditions are functions of (seed, key) alone."""
    batch = _blanked(batch)
    batch = replace(batch, text=told(batch, keys, settings))
    noisy = make_noisy(batch.video, batch.structure, keys, settings.seed, settings.regime, settings.diffusion.schedule)
    audio_mask = heard(batch.audio_mask, keys, settings)
    output = _forward(model, batch, noisy, audio_mask, known(batch, keys, settings), settings)
    with torch.autocast(batch.video.device.type, enabled=False):  # errors are small differences: full precision
        velocities = _velocities(output, batch, noisy, reading)
        video = flow_matching(
            velocities.video,
            batch.video,
            noisy.noise_video,
            noisy.sigma_video,
            predicted_steps(noisy.sigma_video, settings.losses.sigma_power) * batch.weights[:, None],
            reading.video.weight(batch.video.device),
        )
        structure = None
        if velocities.structure is not None:
            structure = flow_matching(
                velocities.structure,
                batch.structure,
                noisy.noise_structure,
                noisy.sigma_structure,
                predicted_steps(noisy.sigma_structure, settings.losses.sigma_power) * batch.weights[:, None],
                reading.structure.weight(batch.structure.device),
            )
        if judges is None:
            return WindowErrors(video, structure)
        return WindowErrors(video, structure, *_judged(judges, batch, noisy, velocities, audio_mask.all(2)))


def _blanked(batch: TalkingHeadBatch) -> TalkingHeadBatch:
    """The batch with zeros in samples without weight; all others bit for bit as they are.

    Such a sample may hold anything. It is not enough that losses cut its errors off: what a weight has met is
    multiplied by the gradient, and NaN times 0 is NaN.
    """
    streams = {"video": batch.video, "structure": batch.structure, "audio": batch.audio, "reference": batch.reference}
    optional = {"flame": batch.flame, "features": batch.features, "canonical": batch.canonical, "text": batch.text}
    streams |= {name: stream for name, stream in optional.items() if stream is not None}
    counts = batch.weights > 0
    blank = {
        name: torch.where(counts.view(-1, *(1,) * (stream.ndim - 1)), stream, stream.new_zeros(()))
        for name, stream in streams.items()
    }
    return replace(batch, **blank)


def estimate_x0(x_sigma: Tensor, velocity: Tensor, sigma: Float[Tensor, "b s"]) -> Tensor:
    """x0 = x_sigma - sigma * v."""
    return x_sigma - expand(sigma, x_sigma) * velocity


def _velocities(output: Velocities, batch: TalkingHeadBatch, noisy: NoisyWindow, reading: Reading) -> Velocities:
    """Velocities in full precision out of whatever the outputs mean."""
    video = reading.video.velocity(output.video.float(), noisy.video, batch.reference, noisy.sigma_video)
    if output.structure is None:
        return Velocities(video, None)
    reference, sigma = batch.structure[:, 0], noisy.sigma_structure
    return Velocities(video, reading.structure.velocity(output.structure.float(), noisy.structure, reference, sigma))


def _judged(
    judges: Judges,
    batch: TalkingHeadBatch,
    noisy: NoisyWindow,
    velocities: Velocities,
    audible: Bool[Tensor, "b s"],
) -> tuple[Judged | None, Judged | None]:
    """What the judges say of the estimates: FLAME and lips. Step 0 is given, so nobody judges it."""
    limits, weights = judges.weights, batch.weights[:, None]
    sees = velocities.structure is not None
    estimates = Estimates(
        estimate_x0(noisy.video, velocities.video, noisy.sigma_video),
        noisy.sigma_video,
        estimate_x0(noisy.structure, velocities.structure, noisy.sigma_structure) if sees else None,
        noisy.sigma_structure,
    )
    truth = torch.ones_like(noisy.sigma_video)
    truth[:, 0] = 0
    trusted = trusted_steps(noisy.sigma_structure, limits.flame_power)
    clear = clear_steps(noisy.sigma_video, limits.lips_sigma)
    on_structure, on_video = (Counted(estimate * weights, truth * weights) for estimate in (trusted, clear))
    return (
        judges.judge_flame(estimates, batch.structure, batch.flame, on_structure),
        judges.judge_lips(estimates, batch.video, batch.audio, audible, on_video),
    )


def heard(mask: Bool[Tensor, "b s 8"], keys: Sequence[SampleKey], settings: TrainSettings) -> Bool[Tensor, "b s 8"]:
    """The audio mask with the share `audio_dropout` of the windows silenced."""
    if not settings.audio_dropout:
        return mask
    return mask & _kept(settings.audio_dropout, "silence", keys, settings).to(mask.device)[:, None, None]


def known(batch: TalkingHeadBatch, keys: Sequence[SampleKey], settings: TrainSettings) -> Features | None:
    """Reference features, absent in the share `feature_dropout` of the windows; nothing if the model takes none."""
    if not settings.model.video.feature_dim:
        return None
    if batch.features is None:
        raise ValueError("the model takes reference features, but the batch has no features; read modality 'reference'")
    kept = _kept(settings.feature_dropout, "features", keys, settings).to(batch.features.device)
    return Features(batch.features, kept[:, None].expand(batch.features.shape[:2]))


def at_rest(batch: TalkingHeadBatch, settings: TrainSettings) -> Float[Tensor, "b k"] | None:
    """The reference's key points at rest; nothing if the model takes none."""
    structure = settings.model.structure
    if structure is None or not structure.canonical_dim:
        return None
    if batch.canonical is None:
        raise ValueError("the model takes key points at rest, but the batch has no canonical; read modality structure")
    return batch.canonical


def told(batch: TalkingHeadBatch, keys: Sequence[SampleKey], settings: TrainSettings) -> Float[Tensor, "b l e"] | None:
    """The text, zeros in the share `text_dropout` of the windows; nothing if data or model have none.

    Zeros are what a model that takes text is told where nobody says anything.
    """
    if batch.text is None or not text_width(settings.model):
        return None
    kept = _kept(settings.text_dropout, "text", keys, settings).to(batch.text.device)
    return torch.where(kept[:, None, None], batch.text, batch.text.new_zeros(()))


def _kept(share: float, what: str, keys: Sequence[SampleKey], settings: TrainSettings) -> Bool[Tensor, " b"]:
    """All windows but that share of them, drawn by (seed, key)."""
    draws = [torch.rand((), generator=keyed_generator(settings.seed, what, key.epoch, key.index)) for key in keys]
    return torch.stack(draws) >= share


def _forward(
    model: DualForce,
    batch: TalkingHeadBatch,
    noisy: NoisyWindow,
    audio_mask: Bool[Tensor, "b s 8"],
    features: Features | None,
    settings: TrainSettings,
) -> Velocities:
    """The network on noisy windows; streams that the model has not are left out."""
    sees_structure, hears = settings.model.structure is not None, settings.model.audio is not None
    # What is masked may hold anything; a NaN that a weight meets makes that weight's gradient NaN, masked or not.
    audio = torch.where(audio_mask[..., None], batch.audio, torch.zeros((), device=batch.audio.device))
    # FSDP gathers weights in half precision and is told to cast nothing: noise levels must stay as they are.
    dtype = model.video.patch_embedding.weight.dtype
    canonical = at_rest(batch, settings)
    output: Velocities = model(
        video=noisy.video.to(dtype),
        structure=noisy.structure.to(dtype) if sees_structure else None,
        audio=audio.to(dtype) if hears else None,
        reference=batch.reference.to(dtype),
        sigma_video=noisy.sigma_video,
        sigma_structure=noisy.sigma_structure if sees_structure else None,
        positions=batch.positions,
        audio_mask=audio_mask if hears else None,
        features=features.tokens.to(dtype) if features is not None else None,
        features_mask=features.valid if features is not None else None,
        canonical=canonical.to(dtype) if canonical is not None else None,
        text=batch.text.to(dtype) if batch.text is not None else None,
    )
    return output
