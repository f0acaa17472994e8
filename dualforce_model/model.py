"""DualForce: two causal towers in step, joined by a bridge, driven by sound.

Legend: b batch, s steps, c latent channels, 4 structure entries and 8 audio slots per step, m and a their widths.
Velocity: x_sigma = (1 - sigma) x0 + sigma noise, v = noise - x0, so x0 = x_sigma - sigma v.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.loaders import PeftAdapterMixin
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from dualforce_model.audio import AudioConfig, AudioContext, Listening
from dualforce_model.bridge import Bridge, BridgeConfig
from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from dualforce_model.layers.cache import AudioMemory, StepCache
from dualforce_model.layers.features import Features
from dualforce_model.layers.masks import StepMask
from dualforce_model.towers import (
    StructureTower,
    StructureTowerConfig,
    TowerConfig,
    TowerState,
    VideoTower,
    VideoTowerConfig,
)


class ModelConfig(Frozen):
    """A whole model. `structure: null` is video alone, `audio: null` is deaf: both are stages or ablations."""

    video: VideoTowerConfig = VideoTowerConfig()
    structure: StructureTowerConfig | None = StructureTowerConfig()
    bridge: BridgeConfig = BridgeConfig()
    audio: AudioConfig | None = AudioConfig()
    window_steps: int = Field(
        8, ge=1, le=4096, description="steps that a step sees, itself included, besides the reference"
    )

    def fitted(self, latent_channels: int, structure_entries: int, audio_features: int) -> "ModelConfig":
        """The same model for data of the given widths."""
        video = self.video.model_copy(update={"latent_channels": latent_channels})
        structure = self.structure and self.structure.model_copy(update={"entries": structure_entries})
        audio = self.audio and self.audio.model_copy(update={"features": audio_features})
        return self.model_copy(update={"video": video, "structure": structure, "audio": audio})


PRESETS: Mapping[str, ModelConfig] = {
    # Two CPU cores, minutes. A training window of 9 steps, the reference included, has seen every distance.
    "tiny": ModelConfig(),
    # One GPU, hours.
    "small": ModelConfig(
        video=VideoTowerConfig(heads=8, head_dim=64, layers=12, ffn_dim=2048, freq_dim=256, patch_px=(2, 2)),
        structure=StructureTowerConfig(heads=8, head_dim=64, layers=12, ffn_dim=2048, freq_dim=256),
        bridge=BridgeConfig(depth=6, condition_dim=256),
        audio=AudioConfig(features=1024, layers=6, slot_dim=64, context_dim=256),
        window_steps=21,
    ),
    # Eight GPUs; the video tower has the shape of Wan 2.1 1.3B, 20 of its 30 layers.
    "base": ModelConfig(
        video=VideoTowerConfig(
            heads=12, head_dim=128, layers=20, ffn_dim=8960, text_dim=4096, freq_dim=256, patch_px=(2, 2)
        ),
        structure=StructureTowerConfig(
            heads=12, head_dim=128, layers=20, ffn_dim=8960, text_dim=4096, freq_dim=256, entries=70
        ),
        bridge=BridgeConfig(depth=8, condition_dim=256),
        audio=AudioConfig(features=1024, layers=6, slot_dim=128, context_dim=768),
        window_steps=21,
    ),
}


class Velocities(NamedTuple):
    """What the towers predict: noise - x0. Nothing for a stream that the model has not."""

    video: Float[Tensor, "b s c h w"]
    structure: Float[Tensor, "b s 4 m"] | None


class DualForce(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Both towers, the bridge and the listening layers in one module: one `save_pretrained`, one FSDP root."""

    config_name = "config.json"
    _supports_gradient_checkpointing = True
    _no_split_modules = ["StepBlock", "Exchange", "AudioAttention"]
    _repeated_blocks = ["StepBlock"]
    _keep_in_fp32_modules = [
        *("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"),  # Wan's own
        *("norm", "frame_norm", "mix_norm", "gate"),  # of the listening layers
    ]

    def __init__(self, model: ModelConfig | Mapping[str, Any]) -> None:
        """Builds and initialises for training from scratch; draws from torch's global generator."""
        super().__init__()
        self.settings = model if isinstance(model, ModelConfig) else ModelConfig.model_validate(model)
        self.register_to_config(model=self.settings.model_dump(mode="json"))
        settings = self.settings
        self.video = VideoTower.build(settings.video)
        self.structure = StructureTower.build(settings.structure) if settings.structure is not None else None
        self.bridge = _make_bridge(settings)
        self.listening = _make_listening(settings)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Any:
        """As diffusers reads a folder, except that weights must be all of this model's and no others.

        diffusers would leave missing ones unset with a warning. Raises InputError naming them.
        """
        wanted = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **options)
        wrong = {kind: sorted(str(key) for key in info[f"{kind}_keys"]) for kind in ("missing", "unexpected")}
        if any(wrong.values()):
            found = ", ".join(f"{len(keys)} {kind} (such as {keys[0]})" for kind, keys in wrong.items() if keys)
            raise InputError(
                f"{pretrained_model_name_or_path}: its weights are not those of its configuration: {found}; "
                "take config.json and weights from one checkpoint"
            )
        return (model, info) if wanted else model

    def new_cache(self, batch: int, window: int | None = None) -> StepCache:
        """Empty memory for `batch` streams; `window` steps (default: the model's) are kept besides the reference."""
        return StepCache(batch, window if window is not None else self.settings.window_steps)

    def forward(
        self,
        video: Float[Tensor, "b s c h w"],
        structure: Float[Tensor, "b s 4 m"] | None,
        audio: Float[Tensor, "b p 8 a"] | None,
        reference: Float[Tensor, "b c h w"],
        sigma_video: Float[Tensor, "b s"],
        sigma_structure: Float[Tensor, "b s"] | None,
        positions: Int[Tensor, "b s"],
        audio_mask: Bool[Tensor, "b p 8"] | None = None,
        mask: StepMask | None = None,
        cache: StepCache | None = None,
        commit: bool = False,
        text: Float[Tensor, "b l e"] | None = None,
        features: Float[Tensor, "b r e"] | None = None,
        features_mask: Bool[Tensor, "b r"] | None = None,
        canonical: Float[Tensor, "b k"] | None = None,
    ) -> Velocities:
        """Velocities of noisy steps, each at its own noise level.

        Without a cache the steps are the whole sequence, the reference (position 0) first. With one they follow the
        committed steps; `commit=True` adds them. First positions are checked where they lie on the CPU, noise levels
        nowhere: the caller gives the reference, and whatever he commits, clean and at sigma 0. Audio may reach past the
        last step by the look-ahead. `mask` replaces the model's band of `window_steps` (only without a cache). Text and
        reference features belong to the whole clip; where `features_mask` is False, or all of them are missing, there
        are none. So does `canonical`, the reference's key points at rest: a model that takes them is always given them.
        """
        _check_streams(self.settings, video, structure, audio)
        levels = {"sigma_video": sigma_video, "sigma_structure": sigma_structure}
        _check_shapes(video, structure, reference, audio, audio_mask, **levels, positions=positions)
        _check_memory(video, mask, cache, commit)
        _check_start(positions, cache)
        known, texts = _features(self.settings, features, features_mask), _texts(self.settings, text)
        steps = mask or (cache.mask(video.shape[1]) if cache is not None else None)
        steps = steps or StepMask.causal(video.shape[1], self.settings.window_steps)
        context = self._hear(audio, audio_mask, positions, cache, commit)
        seen = self.video.start(video, reference, positions == 0, sigma_video, steps, cache, commit, texts[0], known)
        felt = self._feel(structure, sigma_structure, steps, cache, commit, texts[1], canonical)
        self._run(seen, felt, context)
        if cache is not None and commit:
            cache.length += video.shape[1]
        if self.structure is None or felt is None:
            return Velocities(self.video.finish(seen), None)
        return Velocities(self.video.finish(seen), self.structure.finish(felt))

    def _run(self, seen: TowerState, felt: TowerState | None, context: AudioContext | None) -> None:
        """Layer by layer the towers exchange, listen, and run one block each; the deeper tower goes on alone."""
        towers = [(self.video, seen)] + ([(self.structure, felt)] if felt is not None else [])
        steps, cache, commit = seen.band.mask, seen.band.cache, seen.band.commit
        meeting = None
        if self.bridge is not None and felt is not None:
            tokens = (seen.x.shape[2], felt.x.shape[2])
            meeting = self.bridge.meet(seen.embedded, felt.embedded, steps, tokens, cache, commit)
        for layer in range(max(len(tower.blocks) for tower, _ in towers)):
            if self.bridge is not None and felt is not None:
                seen.x, felt.x = self.bridge(layer, seen.x, felt.x, meeting)
            for tower, state in towers:
                if layer < len(tower.blocks):
                    if self.listening is not None and context is not None:
                        state.x = self.listening(tower.name, layer, state.x, context, steps.queries)
                    tower.advance(layer, state)

    def _feel(
        self,
        structure: Float[Tensor, "b s 4 m"] | None,
        sigma: Float[Tensor, "b s"] | None,
        steps: StepMask,
        cache: StepCache | None,
        commit: bool,
        text: Float[Tensor, "b l e"] | None,
        canonical: Float[Tensor, "b k"] | None,
    ) -> TowerState | None:
        """Structure on its way, told what the reference's is: step 0's, which a stream gives only once."""
        if self.structure is None or structure is None or sigma is None:
            if canonical is not None:
                raise ValueError("canonical was given, but the model has no structure: leave it out")
            return None
        reference = structure[:, 0, -1] if cache is None or cache.structure is None else cache.structure
        if cache is not None and commit:
            cache.structure = reference.clone()
        return self.structure.start(structure, reference, sigma, steps, cache, commit, text, canonical)

    def _hear(
        self,
        audio: Float[Tensor, "b p 8 a"] | None,
        valid: Bool[Tensor, "b p 8"] | None,
        positions: Int[Tensor, "b s"],
        cache: StepCache | None,
        commit: bool,
    ) -> AudioContext | None:
        """Audio around each step, with what the cache remembers before it."""
        if self.listening is None or audio is None:
            return None
        num_steps, num_ahead = positions.shape[1], audio.shape[1] - positions.shape[1]
        valid = torch.ones_like(audio[..., 0], dtype=torch.bool) if valid is None else valid
        ahead = positions[:, -1:] + torch.arange(1, num_ahead + 1, device=positions.device)
        known = AudioMemory(audio, valid, torch.cat([positions, ahead], dim=1))
        past = cache.audio if cache is not None else None
        known, first = (known, 0) if past is None else (past.then(known), past.tokens.shape[1])
        if cache is not None and commit:
            cache.audio = known.last(self.listening.encoder.past_steps, upto=first + num_steps)
        context: AudioContext = self.listening.encoder(known.tokens, known.valid, known.positions, first, num_steps)
        return context


def _texts(settings: ModelConfig, text: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The text for either tower. One that takes none is given none, unless neither takes any and it has to refuse."""
    video, structure = settings.video.text_dim, settings.structure.text_dim if settings.structure is not None else 0
    neither = not (video or structure)
    return text if video or neither else None, text if structure or neither else None


def _make_bridge(settings: ModelConfig) -> Bridge | None:
    video, structure = settings.video, settings.structure
    if structure is None:
        return None
    num_layers = min(video.layers, structure.layers)
    bridge = Bridge(settings.bridge, num_layers, (video.dim, video.heads), (structure.dim, structure.heads))
    bridge.initialise()
    return bridge


def _make_listening(settings: ModelConfig) -> Listening | None:
    if settings.audio is None:
        return None
    towers: dict[str, TowerConfig] = {VideoTower.name: settings.video}
    if settings.structure is not None:
        towers[StructureTower.name] = settings.structure
    listening = Listening(settings.audio, towers)
    listening.initialise()
    return listening


def _features(settings: ModelConfig, features: Tensor | None, mask: Tensor | None) -> Features | None:
    """Reference features with a mask, all there unless told otherwise."""
    if features is None:
        return None
    width = settings.video.feature_dim
    if features.shape[-1] != width:
        raise ValueError(f"reference features of width {features.shape[-1]}: the model takes {width or 'none'}")
    valid = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device) if mask is None else mask
    return Features(features, valid)


def _check_streams(settings: ModelConfig, video: Tensor, structure: Tensor | None, audio: Tensor | None) -> None:
    """Refuse streams that the model has not, that are missing, or that disagree about the number of steps."""
    for name, stream, wanted in (("structure", structure, settings.structure), ("audio", audio, settings.audio)):
        if (stream is None) != (wanted is None):
            raise ValueError(f"the model {'has no' if wanted is None else 'needs'} {name}, but {name} was "
                             f"{'missing' if stream is None else 'given'}")  # fmt: skip
    num_steps = video.shape[1]
    if structure is not None and structure.shape[1] != num_steps:
        raise ValueError(f"video has {num_steps} steps, structure {structure.shape[1]}: cut both to the same steps")
    if audio is not None and settings.audio is not None:
        most = num_steps + settings.audio.look_ahead_steps
        if not num_steps <= audio.shape[1] <= most:
            raise ValueError(f"video has {num_steps} steps, audio {audio.shape[1]}: expected {num_steps} to {most}")


def _check_shapes(
    video: Tensor,
    structure: Tensor | None,
    reference: Tensor,
    audio: Tensor | None,
    valid: Tensor | None,
    **given: Tensor | None,
) -> None:
    """Refuse what would be broadcast over the batch or fail deep in a layer. `given`: one number per step."""
    if (structure is None) != (given["sigma_structure"] is None):
        found = "sigma_structure was given without structure"
        if structure is not None:
            found = "structure was given without sigma_structure"
        raise ValueError(f"{found}: noisy structure and its noise levels come together")
    batch = video.shape[0]
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "structure": (structure, () if structure is None else (batch, *structure.shape[1:])),
        "reference": (reference, (batch, *video.shape[2:])),
        "audio": (audio, () if audio is None else (batch, *audio.shape[1:])),
        "audio_mask": (None if audio is None else valid, () if audio is None else (batch, *audio.shape[1:3])),
        **{name: (each, tuple(video.shape[:2])) for name, each in given.items()},
    }
    for name, (each, shape) in wanted.items():
        if each is not None and tuple(each.shape) != shape:
            raise ValueError(
                f"{name} is of shape {tuple(each.shape)}, expected {shape}: video holds {batch} streams of "
                f"{video.shape[1]} steps"
            )


def _check_memory(video: Tensor, mask: StepMask | None, cache: StepCache | None, commit: bool) -> None:
    """Refuse masks and caches that are not of these steps."""
    if mask is not None and (len(mask.queries), len(mask.keys)) != (video.shape[1], video.shape[1]):
        raise ValueError(
            f"video has {video.shape[1]} steps, mask {len(mask.queries)} queries and {len(mask.keys)} keys: "
            f"make it with StepMask.causal({video.shape[1]}, window)"
        )
    if cache is None:
        if commit:
            raise ValueError("commit=True without a cache: there is nothing to commit to; make one with new_cache")
        return
    if mask is not None:
        raise ValueError("mask and cache together: with a cache the window decides who is seen; leave mask out")
    if cache.batch != video.shape[0]:
        raise ValueError(f"the cache holds {cache.batch} streams, the batch has {video.shape[0]}")


def _check_start(positions: Tensor, cache: StepCache | None) -> None:
    """Refuse sequences that begin with anything but position 0, and steps that do not follow those of the cache."""
    length = cache.length if cache is not None else 0
    # Looking at positions elsewhere waits for the device: only an empty cache, once per stream, is worth it. On shapes
    # alone there are none.
    if positions.device.type != "cpu" and (cache is None or length or positions.is_meta):
        return
    first = positions[:, 0].tolist()
    if all(position == length for position in first):
        return
    if length:
        raise ValueError(
            f"the cache holds {length} steps and the first positions are {first}: expected {length}, the step after "
            "the committed ones"
        )
    raise ValueError(
        f"{'there is no cache' if cache is None else 'the cache is empty'} and the first positions are {first}: what "
        f"comes first is the reference, so {'begin with' if cache is None else 'commit'} position 0 first"
    )
