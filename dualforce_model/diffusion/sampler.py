"""Autoregressive sampling: chunks of steps, N Euler steps each, then one clean pass that writes the cache.

Noise is drawn per (seed, modality, step), so a step's noise does not depend on what was asked for before it. Legend:
b streams, S steps of the clip, n steps of a chunk, c h w latent, m structure entries, a audio features, r reference
features of width e, k numbers of key points at rest, l text tokens of width d.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dualforce_model.config import Frozen
from dualforce_model.diffusion.guidance import Guidance
from dualforce_model.diffusion.noise import gaussian
from dualforce_model.diffusion.prediction import Reading, Stream
from dualforce_model.diffusion.schedule import NoiseSchedule
from dualforce_model.layers.cache import StepCache
from dualforce_model.model import DualForce, Velocities


class SamplerConfig(Frozen):
    """How a clip is sampled."""

    num_inference_steps: int = Field(default=6, ge=1, le=1000, description="Euler steps per chunk, N")
    chunk_steps: int = Field(
        default=1, ge=1, le=64, description="steps that are denoised together; another size is another sampler"
    )
    guidance: Guidance = Guidance()


@dataclass(frozen=True)
class Conditions:
    """What is known before sampling starts: the picture, its structure and the sound.

    A model that takes reference features may be given some: there are none where the mask is False or all are left out.
    `canonical`, the picture's key points at rest, is given if and only if the model takes them. Without `text` a model
    that takes some is told nothing.
    """

    reference: Float[Tensor, "b c h w"]
    structure: Float[Tensor, "b 4 m"] | None
    audio: Float[Tensor, "b S 8 a"]
    audio_mask: Bool[Tensor, "b S 8"]
    features: Float[Tensor, "b r e"] | None = None
    features_mask: Bool[Tensor, "b r"] | None = None
    canonical: Float[Tensor, "b k"] | None = None
    text: Float[Tensor, "b l d"] | None = None

    def __post_init__(self) -> None:
        streams = self.reference.shape[0]
        if self.features is not None and (self.features.ndim != 3 or self.features.shape[0] != streams):
            raise ValueError(f"features {tuple(self.features.shape)}: expected [{streams} streams, features, width]")
        if self.features_mask is None:
            return
        if self.features is None or self.features_mask.shape != self.features.shape[:2]:
            wanted = "no mask without features" if self.features is None else str(tuple(self.features.shape[:2]))
            raise ValueError(f"features_mask {tuple(self.features_mask.shape)}: expected {wanted}")


class Chunk(NamedTuple):
    """Clean latents of consecutive steps."""

    first_step: int
    video: Float[Tensor, "b n c h w"]
    structure: Float[Tensor, "b n 4 m"] | None


class Sampler:
    """One batch of streams, sampled chunk by chunk. `stream` yields step 0 (the reference itself) first."""

    def __init__(self, model: DualForce, schedule: NoiseSchedule, config: SamplerConfig, reading: Reading) -> None:
        self.model = model
        self.reading = reading
        self.path = schedule.path(config.num_inference_steps)
        self.config = config

    @torch.no_grad()
    def stream(self, given: Conditions, seeds: Sequence[int]) -> Iterator[Chunk]:
        """Chunks of the whole clip, whose length is that of the sound; one seed per stream."""
        if len(seeds) != given.reference.shape[0]:
            raise ValueError(f"{len(seeds)} seeds for {given.reference.shape[0]} streams")
        run = _Run(self.model, given, self.config.guidance, self.reading)
        first = Chunk(0, given.reference[:, None], None if given.structure is None else given.structure[:, None])
        run.commit(first)
        yield first
        num_steps = given.audio.shape[1]
        for start in range(1, num_steps, self.config.chunk_steps):
            chunk = self._denoise(run, start, min(self.config.chunk_steps, num_steps - start), seeds)
            run.commit(chunk)
            yield chunk

    def _denoise(self, run: "_Run", start: int, num: int, seeds: Sequence[int]) -> Chunk:
        given = run.given
        video = _noise(seeds, "video", start, num, given.reference)
        structure = None if given.structure is None else _noise(seeds, "structure", start, num, given.structure)
        v, s = self.path.video.tolist(), self.path.structure.tolist()
        for now in range(self.config.num_inference_steps):
            toward_video, toward_structure = run.velocity(Chunk(start, video, structure), v[now], s[now])
            video = video + (v[now + 1] - v[now]) * toward_video
            if structure is not None and toward_structure is not None:
                structure = structure + (s[now + 1] - s[now]) * toward_structure
        return Chunk(start, video, structure)


class _Run:
    """Conditions, cache and guidance of one batch of streams; with guidance every stream has a silent twin."""

    def __init__(self, model: DualForce, given: Conditions, guidance: Guidance, reading: Reading) -> None:
        self.model, self.given, self.guidance, self.reading = model, given, guidance, reading
        self.twins = 2 if guidance.audio_scale != 1.0 else 1
        self.deaf = model.settings.audio is None
        self.look_ahead = model.settings.audio.look_ahead_steps if model.settings.audio is not None else 0
        self.cache: StepCache = model.new_cache(given.reference.shape[0] * self.twins)

    def commit(self, chunk: Chunk) -> None:
        """Clean pass: the cache takes in the keys of these steps."""
        self._forward(chunk, 0.0, 0.0, commit=True)

    def velocity(self, chunk: Chunk, sigma_video: float, sigma_structure: float) -> tuple[Tensor, Tensor | None]:
        """Velocities of both modalities at one state of the path, guided where guidance is on."""
        out = self._forward(chunk, sigma_video, sigma_structure, commit=False)
        scale = self.guidance.audio_scale if self.guidance.active(sigma_video) else 1.0
        video = self._velocity(self.reading.video, self._guide(out.video, scale), chunk.video, sigma_video)
        if out.structure is None or chunk.structure is None:
            return video, None
        structure = self._guide(out.structure, scale)
        return video, self._velocity(self.reading.structure, structure, chunk.structure, sigma_structure)

    def _velocity(self, stream: Stream, output: Tensor, x_sigma: Tensor, sigma: float) -> Tensor:
        reference = self.given.reference if stream is self.reading.video else self.given.structure
        assert reference is not None, "a structure stream has a reference"
        return stream.velocity(output, x_sigma, reference, x_sigma.new_full(x_sigma.shape[:2], sigma))

    def _guide(self, x: Tensor, scale: float) -> Tensor:
        if self.twins == 1:
            return x
        heard, silent = x.chunk(2)
        return silent + scale * (heard - silent)

    def _forward(self, chunk: Chunk, sigma_video: float, sigma_structure: float, commit: bool) -> Velocities:
        batch, num = chunk.video.shape[0] * self.twins, chunk.video.shape[1]
        until = chunk.first_step + num + self.look_ahead
        mask = self.given.audio_mask[:, chunk.first_step : until]
        if self.twins == 2:
            mask = torch.cat([mask, torch.zeros_like(mask)])
        device = chunk.video.device
        positions = torch.arange(chunk.first_step, chunk.first_step + num, device=device).expand(batch, -1)
        out: Velocities = self.model(
            video=self._twice(chunk.video),
            structure=None if chunk.structure is None else self._twice(chunk.structure),
            audio=None if self.deaf else self._twice(self.given.audio[:, chunk.first_step : until]),
            reference=self._twice(self.given.reference),
            sigma_video=chunk.video.new_full((batch, num), sigma_video),
            sigma_structure=None if chunk.structure is None else chunk.video.new_full((batch, num), sigma_structure),
            positions=positions,
            audio_mask=None if self.deaf else mask,
            features=None if self.given.features is None else self._twice(self.given.features),
            features_mask=None if self.given.features_mask is None else self._twice(self.given.features_mask),
            canonical=None if self.given.canonical is None else self._twice(self.given.canonical),
            text=None if self.given.text is None else self._twice(self.given.text),
            cache=self.cache,
            commit=commit,
        )
        return out

    def _twice(self, x: Tensor) -> Tensor:
        return torch.cat([x, x]) if self.twins == 2 else x


def _noise(seeds: Sequence[int], modality: str, start: int, num: int, like: Tensor) -> Tensor:
    """[b, n, ...] standard normal, one independent draw per (seed, modality, step)."""
    shape = tuple(like.shape[1:])
    steps = range(start, start + num)
    return torch.stack([torch.stack([gaussian(shape, seed, modality, step) for step in steps]) for seed in seeds]).to(
        like
    )
