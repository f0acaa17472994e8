"""The parts of a MOVA checkpoint: folder, settings, module, and the names and shapes that its files must have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from dualforce_model.mova.bridge import MovaBridge
from dualforce_model.mova.names import bridge_name, sound_name, tower_name
from dualforce_model.mova.settings import (
    AudioTowerSettings,
    BridgeSettings,
    ScheduleSettings,
    Settings,
    SoundVaeSettings,
    TextEncoderSettings,
    TowerSettings,
    VideoVaeSettings,
)
from dualforce_model.mova.sound import SoundVae
from dualforce_model.mova.towers import MovaTower

Shape = tuple[int, ...]
Told = Mapping[str, Any]  # a component's JSON as it is


@dataclass(frozen=True)
class Component:
    """A folder of the checkpoint."""

    folder: str
    class_name: str
    settings: type[Settings]
    build: Callable[[Any, Told], nn.Module] | None = None  # None: no module of ours
    name: Callable[[Any], Callable[[str], str]] = lambda settings: str
    config: str = "config.json"

    def skeleton(self, settings: Settings, told: Told) -> nn.Module:
        """The module without memory: every parameter on the meta device."""
        assert self.build is not None, f"{self.folder} has no module"
        with torch.device("meta"):
            return self.build(settings, told).requires_grad_(False).eval()


def expected(component: Component, settings: Settings, told: Told) -> dict[str, Shape]:
    """Names in the files, with shapes."""
    if isinstance(settings, TextEncoderSettings):
        return text_encoder_shapes(settings)
    if component.build is None:
        return {}
    rename = component.name(settings)
    module = component.skeleton(settings, told)
    shapes = {rename(name): tuple(parameter.shape) for name, parameter in module.named_parameters()}
    if isinstance(settings, AudioTowerSettings):  # a one-dimensional convolution there, a pixel of a video here
        shapes["patch_embedding.weight"] = shapes["patch_embedding.weight"][:3]
    return shapes


def text_encoder_shapes(settings: TextEncoderSettings) -> dict[str, Shape]:
    """UMT5's encoder: every block has a position table of its own."""
    inner, width = settings.num_heads * settings.d_kv, settings.d_model
    shapes: dict[str, Shape] = {
        "shared.weight": (settings.vocab_size, width),
        "encoder.final_layer_norm.weight": (width,),
    }
    for block in range(settings.num_layers):
        attention, feed = f"encoder.block.{block}.layer.0", f"encoder.block.{block}.layer.1"
        shapes |= {f"{attention}.SelfAttention.{part}.weight": (inner, width) for part in "qkv"}
        shapes |= {
            f"{attention}.SelfAttention.o.weight": (width, inner),
            f"{attention}.SelfAttention.relative_attention_bias.weight": (
                settings.relative_attention_num_buckets,
                settings.num_heads,
            ),
            f"{attention}.layer_norm.weight": (width,),
            f"{feed}.DenseReluDense.wi_0.weight": (settings.d_ff, width),
            f"{feed}.DenseReluDense.wi_1.weight": (settings.d_ff, width),
            f"{feed}.DenseReluDense.wo.weight": (width, settings.d_ff),
            f"{feed}.layer_norm.weight": (width,),
        }
    return shapes


WEIGHT_NORMS = (
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)
# what the sides of an embedding are called in its component's settings
EMBEDDINGS = {
    "shared.weight": "vocab_size x d_model",
    "encoder.embed_tokens.weight": "vocab_size x d_model",
    "patch_embedding.weight": "dim x in_dim x patch_size",
    "text_embedding.0.weight": "dim x text_dim",
    "time_embedding.0.weight": "dim x freq_dim",
}
OPTIONAL = {"text_encoder": {"encoder.embed_tokens.weight": "shared.weight"}}  # the same tensor, stored twice by some


def sources(name: str, stored: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tensors that make one parameter: itself, or gain and direction of a weight norm."""
    stem = name.removesuffix(".weight")
    for gain, direction in WEIGHT_NORMS:
        if name not in stored and f"{stem}.{direction}" in stored:
            return f"{stem}.{gain}", f"{stem}.{direction}"
    return (name,)


def _video(settings: TowerSettings, told: Told) -> nn.Module:
    return MovaTower.of_video(settings)


def _audio(settings: AudioTowerSettings, told: Told) -> nn.Module:
    return MovaTower.of_audio(settings)


def _bridge(settings: BridgeSettings, told: Told) -> nn.Module:
    return MovaBridge(settings)


def _sound(settings: SoundVaeSettings, told: Told) -> nn.Module:
    return SoundVae(settings)


def _pictures(settings: VideoVaeSettings, told: Told) -> nn.Module:
    vae: nn.Module = AutoencoderKLWan.from_config(dict(told))
    return vae


COMPONENTS = (
    Component("video_dit", "WanModel", TowerSettings, _video, lambda settings: tower_name),
    Component("video_dit_2", "WanModel", TowerSettings, _video, lambda settings: tower_name),
    Component("audio_dit", "WanAudioModel", AudioTowerSettings, _audio, lambda settings: tower_name),
    Component("dual_tower_bridge", "DualTowerConditionalBridge", BridgeSettings, _bridge, lambda settings: bridge_name),
    Component(
        "audio_vae", "DAC", SoundVaeSettings, _sound,
        lambda settings: partial(sound_name, num_strides=len(settings.encoder_rates)),
    ),
    Component("video_vae", "AutoencoderKLWan", VideoVaeSettings, _pictures),
    Component("text_encoder", "UMT5EncoderModel", TextEncoderSettings),
    Component("scheduler", "FlowMatchPairScheduler", ScheduleSettings, config="scheduler_config.json"),
)  # fmt: skip
