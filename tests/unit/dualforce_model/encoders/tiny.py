"""Tiny nets of transformers and diffusers with random weights, saved as the published ones are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIDE_PX = 56  # of what the picture encoders see: 4 x 4 patches
PREPARATION = {
    "size": {"shortest_edge": 64},
    "crop_size": {"height": SIDE_PX, "width": SIDE_PX},
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
    "resample": 3,
}


def save_hubert(folder: Path, **settings: Any) -> Path:
    """Width 32, two layers, the front end of HuBERT-Large in small."""
    from transformers import HubertConfig, HubertModel

    front = {"conv_dim": (16,) * 7, "conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
    places = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return _save(HubertModel, HubertConfig(**_small(2) | front | places | {"intermediate_size": 64} | settings), folder)


def save_dinov2(folder: Path, **settings: Any) -> Path:
    """Width 32, two layers, patches of 14 pixels."""
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"mlp_ratio": 2, "image_size": SIDE_PX, "patch_size": 14}
    _save(Dinov2Model, Dinov2Config(**_small(2) | sizes | settings), folder)
    return prepared(folder)


def save_clip(folder: Path, **settings: Any) -> Path:
    """Width 32, three layers, patches of 14 pixels."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"intermediate_size": 64, "image_size": SIDE_PX, "patch_size": 14}
    _save(CLIPVisionModel, CLIPVisionConfig(**_small(3) | sizes | settings), folder)
    return prepared(folder)


def save_whole_clip(folder: Path) -> Path:
    """Both halves of CLIP, as most of them are published."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {"intermediate_size": 64}
    vision = _small(3) | sizes | {"image_size": SIDE_PX, "patch_size": 14}
    words = _small(1) | sizes | {"vocab_size": 99}
    _save(CLIPModel, CLIPConfig(vision_config=vision, text_config=words, projection_dim=16), folder)
    return prepared(folder)


def save_wan_vae(folder: Path, **settings: Any) -> Path:
    """The Wan 2.1 VAE with 8 channels where that has 96."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=8, num_res_blocks=1, **settings).save_pretrained(folder)
    return folder


def save_wan22_vae(folder: Path) -> Path:
    """The same in the form of Wan 2.2: 48 channels, stride 16."""
    form = {"decoder_base_dim": 8, "z_dim": 48, "is_residual": True, "in_channels": 12, "out_channels": 12}
    scale = {"patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.1] * 48, "latents_std": [0.5] * 48}
    return save_wan_vae(folder, **form, **scale)


TINY: dict[str, Callable[[Path], Path]] = {
    "hubert": save_hubert,
    "dinov2": save_dinov2,
    "clip": save_clip,
    "wan_vae": save_wan_vae,
}


def make_scarce(net: torch.nn.Module, room: int) -> list[int]:
    """Memory that holds `room` items and no more. The sizes of the batches that fitted, from now on."""
    sizes: list[int] = []

    def check(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        count = len(next(iter((*positional, *named.values()))))
        if count > room:
            raise torch.OutOfMemoryError(f"no room for {count}")
        sizes.append(count)

    net.register_forward_pre_hook(check, with_kwargs=True)
    return sizes


def prepared(folder: Path, **settings: Any) -> Path:
    """The folder with a preprocessor_config.json for small pictures."""
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARATION | settings))
    return folder


def _small(layers: int) -> dict[str, Any]:
    return {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}


def _save(kind: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    return folder
