"""One training window made noisy: levels and noise from a generator keyed by (seed, epoch, sample index).

Legend: b samples, s steps, c h w latent, m structure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dualforce_model.diffusion.noise import keyed_generator
from dualforce_model.diffusion.regimes import draw_levels
from dualforce_model.diffusion.schedule import NoiseSchedule, add_noise


@dataclass(frozen=True)
class SampleKey:
    """Names one training sample, whatever process sees it and in whatever batch."""

    epoch: int
    index: int


@dataclass(frozen=True)
class NoisyWindow:
    """What the network sees (video, structure, levels) and the noise in it."""

    video: Float[Tensor, "b s c h w"]
    structure: Float[Tensor, "b s 4 m"]
    noise_video: Float[Tensor, "b s c h w"]
    noise_structure: Float[Tensor, "b s 4 m"]
    sigma_video: Float[Tensor, "b s"]
    sigma_structure: Float[Tensor, "b s"]


def make_noisy(
    video: Float[Tensor, "b s c h w"],
    structure: Float[Tensor, "b s 4 m"],
    keys: Sequence[SampleKey],
    seed: int,
    regime: str,
    schedule: NoiseSchedule,
) -> NoisyWindow:
    """Draw levels and noise per sample and mix them in. Equal keys give equal noise on any device and any split."""
    if len(keys) != video.shape[0]:
        raise ValueError(f"{len(keys)} sample keys for a batch of {video.shape[0]}")
    num_steps = video.shape[1]
    noise_video, noise_structure = torch.empty(video.shape), torch.empty(structure.shape)
    sigma_video, sigma_structure = torch.empty(len(keys), num_steps), torch.empty(len(keys), num_steps)
    for row, key in enumerate(keys):
        generator = keyed_generator(seed, key.epoch, key.index)
        levels = draw_levels(regime, generator, num_steps, schedule)
        sigma_video[row], sigma_structure[row] = levels.video, levels.structure
        noise_video[row] = torch.randn(video.shape[1:], generator=generator)
        noise_structure[row] = torch.randn(structure.shape[1:], generator=generator)
    noise_video, noise_structure = noise_video.to(video), noise_structure.to(structure)
    sigma_video, sigma_structure = sigma_video.to(video.device), sigma_structure.to(video.device)
    return NoisyWindow(
        video=add_noise(video, noise_video, sigma_video),
        structure=add_noise(structure, noise_structure, sigma_structure),
        noise_video=noise_video,
        noise_structure=noise_structure,
        sigma_video=sigma_video,
        sigma_structure=sigma_structure,
    )
