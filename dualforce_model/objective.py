"""The training objective of one batch of windows: noise in, velocities out, errors per step."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.diffusion.noise import keyed_generator
from dualforce_model.diffusion.prediction import Reading
from dualforce_model.diffusion.window import NoisyWindow, SampleKey, make_noisy
from dualforce_model.losses import StepErrors, flow_matching, predicted_steps
from dualforce_model.model import Velocities
from dualforce_model.train_config import TrainSettings


class WindowErrors(NamedTuple):
    """Errors of both modalities of a batch; no structure where the model has none."""

    video: StepErrors
    structure: StepErrors | None


def window_errors(
    model: Callable[..., Velocities],
    batch: TalkingHeadBatch,
    keys: Sequence[SampleKey],
    settings: TrainSettings,
    reading: Reading,
) -> WindowErrors:
    """Errors of a batch; noise, levels and silence are functions of (seed, key) alone."""
    noisy = make_noisy(batch.video, batch.structure, keys, settings.seed, settings.regime, settings.diffusion.schedule)
    output = _forward(model, batch, noisy, heard(batch.audio_mask, keys, settings), settings)
    video = flow_matching(
        reading.video.velocity(output.video, noisy.video, batch.reference, noisy.sigma_video),
        batch.video,
        noisy.noise_video,
        noisy.sigma_video,
        predicted_steps(noisy.sigma_video, settings.losses.sigma_power) * batch.weights[:, None],
        reading.video.weight(batch.video.device),
    )
    if output.structure is None:
        return WindowErrors(video, None)
    structure = flow_matching(
        reading.structure.velocity(output.structure, noisy.structure, batch.structure[:, 0], noisy.sigma_structure),
        batch.structure,
        noisy.noise_structure,
        noisy.sigma_structure,
        predicted_steps(noisy.sigma_structure, settings.losses.sigma_power) * batch.weights[:, None],
        reading.structure.weight(batch.structure.device),
    )
    return WindowErrors(video, structure)


def heard(mask: Bool[Tensor, "b s 8"], keys: Sequence[SampleKey], settings: TrainSettings) -> Bool[Tensor, "b s 8"]:
    """The audio mask with the share `audio_dropout` of the windows silenced."""
    if not settings.audio_dropout:
        return mask
    draws = [torch.rand((), generator=keyed_generator(settings.seed, "silence", key.epoch, key.index)) for key in keys]
    keep = torch.stack(draws) >= settings.audio_dropout
    return mask & keep.to(mask.device)[:, None, None]


def _forward(
    model: Callable[..., Velocities],
    batch: TalkingHeadBatch,
    noisy: NoisyWindow,
    audio_mask: Bool[Tensor, "b s 8"],
    settings: TrainSettings,
) -> Velocities:
    """The network on noisy windows; streams that the model has not are left out."""
    sees_structure, hears = settings.model.structure is not None, settings.model.audio is not None
    return model(
        video=noisy.video,
        structure=noisy.structure if sees_structure else None,
        audio=batch.audio if hears else None,
        reference=batch.reference,
        sigma_video=noisy.sigma_video,
        sigma_structure=noisy.sigma_structure if sees_structure else None,
        positions=batch.positions,
        audio_mask=audio_mask if hears else None,
    )
