"""A tiny MOVA checkpoint in exactly the release's folder layout, with upstream's names, shapes and settings."""

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[3] / "numerics" / "golden"
NORM = re.compile(r"(^|\.)[^.]*norm[^.]*\.weight$")
TEXT_DIM, VOCABULARY = 64, 40
CLASSES = {
    "video_dit": ("mova.diffusion.models", "WanModel"),
    "video_dit_2": ("mova.diffusion.models", "WanModel"),
    "audio_dit": ("mova.diffusion.models", "WanAudioModel"),
    "dual_tower_bridge": ("mova.diffusion.models", "DualTowerConditionalBridge"),
    "audio_vae": ("mova.diffusion.models", "DAC"),
    "video_vae": ("diffusers", "AutoencoderKLWan"),
    "text_encoder": ("transformers", "UMT5EncoderModel"),
    "tokenizer": ("transformers", "T5TokenizerFast"),
    "scheduler": ("mova.diffusion.schedulers", "FlowMatchPairScheduler"),
}
SOUND = {
    "encoder_dim": 4, "encoder_rates": [2, 3, 4, 5, 8], "latent_dim": 128, "decoder_dim": 32,
    "decoder_rates": [8, 5, 4, 3, 2], "sample_rate": 48000, "continuous": True, "use_weight_norm": False,
}  # fmt: skip
SCHEDULER = {
    "num_inference_steps": 100, "num_train_timesteps": 1000, "shift": 5, "sigma_max": 1.0, "sigma_min": 0.0,
    "inverse_timesteps": False, "extra_one_step": True, "reverse_sigmas": False, "exponential_shift": False,
    "exponential_shift_mu": None, "shift_terminal": None,
}  # fmt: skip


def facts(module: str) -> dict[str, Any]:
    """Upstream's parameter lists and settings of a tiny configuration."""
    with safe_open(GOLDEN / f"{module}.safetensors", "pt") as file:
        read: dict[str, Any] = json.loads(file.metadata()["facts"])
    return read


def draw(name: str, shape: list[int], std: float = 0.08) -> Tensor:
    """The golden rule for weights."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * std
    return 1 + noise if NORM.search(name) else noise


def sound_parameters() -> list[tuple[str, list[int]]]:
    """The golden audio VAE's list, its convolutions half as wide and its latents eight times as deep."""

    def sized(name: str, axis: int, side: int) -> int:
        to_latents = name.startswith("encoder.block.7.") and axis == 0
        from_latents = name == "decoder.model.0.weight" and axis == 1
        if side == 1 or axis > 1:
            return side
        return side * 8 if "quant_conv" in name or to_latents or from_latents else side // 2

    return [
        (name, [sized(name, axis, side) for axis, side in enumerate(shape)])
        for name, shape in facts("dac_vae")["params"]
    ]


def sound_weights() -> dict[str, Tensor]:
    """Weights of the audio VAE by its golden rule."""
    weights = {}
    for name, shape in sound_parameters():
        noise = draw(name, shape, 1.0)
        if name.endswith(".alpha"):
            weights[name] = 1 + 0.02 * noise
        else:
            weights[name] = noise * (0.02 if name.endswith(".bias") else 0.7 / (noise.numel() / shape[0]) ** 0.5)
    return weights


def text_weights() -> dict[str, Tensor]:
    """UMT5's names at width 64, two blocks."""
    shapes = {"shared.weight": [VOCABULARY, TEXT_DIM], "encoder.final_layer_norm.weight": [TEXT_DIM]}
    for block in range(2):
        first, second = f"encoder.block.{block}.layer.0", f"encoder.block.{block}.layer.1"
        shapes |= {f"{first}.SelfAttention.{part}.weight": [TEXT_DIM, TEXT_DIM] for part in "qkvo"}
        shapes |= {
            f"{first}.SelfAttention.relative_attention_bias.weight": [32, 4],
            f"{first}.layer_norm.weight": [TEXT_DIM],
            f"{second}.DenseReluDense.wi_0.weight": [96, TEXT_DIM],
            f"{second}.DenseReluDense.wi_1.weight": [96, TEXT_DIM],
            f"{second}.DenseReluDense.wo.weight": [TEXT_DIM, 96],
            f"{second}.layer_norm.weight": [TEXT_DIM],
        }
    return {name: draw(name, shape) for name, shape in shapes.items()}


def tokenizer() -> dict[str, Any]:
    """A Unigram tokenizer of single letters, as the tokenizers library writes it."""
    special = ["<pad>", "</s>", "<unk>"]
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz,."]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    vocabulary = [[word, 0.0] for word in special] + [[letter, -2.0] for letter in letters]
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": spaces,
        "added_tokens": [{"id": number, "content": word} | flags for number, word in enumerate(special)],
        "post_processor": None, "decoder": spaces,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocabulary, "byte_fallback": False},
    }  # fmt: skip


def put(folder: Path, weights: dict[str, Tensor], stem: str, shards: int) -> None:
    """One file, or shards and their index, as diffusers and transformers name them."""
    if shards == 1:
        save_file(weights, folder / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"{stem}-{shard + 1:05d}-of-{shards:05d}.safetensors"
        chosen = names[shard::shards]
        save_file({name: weights[name] for name in chosen}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(chosen, file)
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def settle(folder: Path, class_name: str, told: dict[str, Any], name: str = "config.json") -> None:
    """A component's settings."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {"_class_name": class_name, "_diffusers_version": "0.35.0", **told}
    (folder / name).write_text(json.dumps(written, indent=2), encoding="utf-8")


def write_checkpoint(root: Path, shards: int = 1) -> Path:
    """All of it; `shards` for the big components."""
    dual = facts("dual_tower")["variants"]
    for folder in ("video_dit", "video_dit_2"):
        settle(root / folder, "WanModel", dual["weights"]["video_dit"]["config"])
        weights = {name: draw(name, shape) for name, shape in dual["weights"]["video_dit"]["params"]}
        if folder == "video_dit_2":
            weights["head.head.bias"] = weights["head.head.bias"] + 0.25  # another expert
        put(root / folder, weights, "diffusion_pytorch_model", shards)
    settle(root / "audio_dit", "WanAudioModel", dual["weights"]["audio_dit"]["config"])
    parts = {"audio_dit": "audio_dit", "dual_tower_bridge": "bridge_full"}
    settle(root / "dual_tower_bridge", "DualTowerConditionalBridge", dual["full_rope"])
    for folder, key in parts.items():
        weights = {name: draw(name, shape) for name, shape in dual["weights"][key]["params"]}
        put(root / folder, weights, "diffusion_pytorch_model", 1)
    settle(root / "audio_vae", "DAC", SOUND)
    put(root / "audio_vae", sound_weights(), "diffusion_pytorch_model", 1)
    torch.manual_seed(0)
    AutoencoderKLWan(base_dim=8, num_res_blocks=1).save_pretrained(root / "video_vae")
    told = {
        "architectures": ["UMT5EncoderModel"], "model_type": "umt5", "d_model": TEXT_DIM, "d_kv": 16, "d_ff": 96,
        "num_heads": 4, "num_layers": 2, "vocab_size": VOCABULARY, "relative_attention_num_buckets": 32,
        "torch_dtype": "float32",
    }  # fmt: skip
    (root / "text_encoder").mkdir()
    (root / "text_encoder" / "config.json").write_text(json.dumps(told), encoding="utf-8")
    put(root / "text_encoder", text_weights(), "model", shards)
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
    named = {"tokenizer_class": "T5TokenizerFast", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (root / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(named | {"extra_ids": 0}), encoding="utf-8")
    settle(root / "scheduler", "FlowMatchPairScheduler", SCHEDULER, "scheduler_config.json")
    index = {name: list(pair) for name, pair in CLASSES.items()}
    settle(root, "MOVA", index | {"boundary_ratio": 0.9, "audio_vae_type": "dac"}, "model_index.json")
    return root


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint of its own for one test."""

    def make(shards: int = 1) -> Path:
        return write_checkpoint(tmp_path / "MOVA-tiny", shards)

    return make


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is only read."""
    return write_checkpoint(tmp_path_factory.mktemp("mova") / "MOVA-tiny", shards=3)
