"""Every kind of model goes through a folder and comes back as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from dualforce_model.audio import AudioConfig
from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.bridge import BridgeConfig
from dualforce_model.errors import InputError
from dualforce_model.model import DualForce, ModelConfig
from dualforce_model.towers import StructureTowerConfig, VideoTowerConfig

SIZES: dict[str, Any] = {"heads": 2, "head_dim": 12, "layers": 3, "ffn_dim": 32, "freq_dim": 32}
VIDEO = VideoTowerConfig(patch_px=(2, 2), latent_channels=4, **SIZES)
STRUCTURE = StructureTowerConfig(entries=5, **SIZES)
AUDIO = AudioConfig(features=6, layers=2, slot_dim=8, context_dim=16)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "video alone": {"structure": None},
    "deaf": {"audio": None},
    "video alone and deaf": {"structure": None, "audio": None},
    "causal bridge": {"bridge": BridgeConfig(strategy="full", condition_dim=16, scope="causal")},
    "one way": {"bridge": BridgeConfig(strategy="distributed", condition_dim=16, direction="structure_to_video")},
    "features": {"video": VIDEO.model_copy(update={"feature_dim": 7})},
    "features and text": {"video": VIDEO.model_copy(update={"feature_dim": 7, "text_dim": 3})},
    "one structure token": {"structure": STRUCTURE.model_copy(update={"tokens_per_step": 1})},
    "sixteen structure tokens": {"structure": STRUCTURE.model_copy(update={"tokens_per_step": 16})},
}


def make_model(**changes: Any) -> DualForce:
    torch.manual_seed(0)
    plain = ModelConfig(
        video=VIDEO, structure=STRUCTURE, bridge=BridgeConfig(condition_dim=16), audio=AUDIO, window_steps=3
    )
    model = DualForce(plain.model_copy(update=changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def arguments(config: ModelConfig, num_steps: int = 4) -> dict[str, Any]:
    fake = TalkingHeadBatch.fake(config, 2, num_steps, height=4, width=4)
    sigma = torch.rand(2, num_steps, generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {
        "video": fake.video,
        "structure": fake.structure if config.structure is not None else None,
        "audio": fake.audio if config.audio is not None else None,
        "reference": fake.reference,
        "sigma_video": sigma,
        "sigma_structure": sigma if config.structure is not None else None,
        "positions": fake.positions,
    }
    if config.video.feature_dim:
        given["features"] = torch.ones(2, 3, config.video.feature_dim)
    return given


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_back_computes_the_same(kind: str, tmp_path: Path) -> None:
    model = make_model(**KINDS[kind])
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = DualForce.from_pretrained(tmp_path).requires_grad_(False)
    assert loaded.settings == model.settings
    assert list(loaded.state_dict()) == list(model.state_dict())
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    for before, after in zip(model(**arguments(model.settings)), loaded(**arguments(model.settings)), strict=True):
        # Where weights lie in memory decides, on some processors, in what order their products are added.
        assert (before is None and after is None) or (before - after).abs().max() < 1e-6


def test_shards_come_back_too(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = DualForce.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_half_precision_keeps_in_full_what_must_be_exact(tmp_path: Path) -> None:
    """Noise levels, modulation, norms and gates stay float32; the big matrices do not; outputs stay near."""
    model = make_model()
    model.save_pretrained(tmp_path)
    loaded = DualForce.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).eval()
    assert loaded.dtype == torch.bfloat16
    kept = {name for name, parameter in loaded.named_parameters() if parameter.dtype == torch.float32}
    for part in ("time_embedder", "scale_shift_table", "gate", "frame_norm"):
        assert any(part in name for name in kept), part
        assert all(name in kept for name, _ in loaded.named_parameters() if part in name.split(".")), part
    assert not any(
        part in name for name in kept for part in ("to_q", "ffn", "proj_out", "patch_embedding", "time_proj")
    )
    given = arguments(model.settings)
    half = {
        name: value.bfloat16() if name in ("video", "structure", "audio", "reference") else value
        for name, value in given.items()
    }
    with torch.no_grad():
        exact, rounded = model(**given), loaded(**half)
    assert rounded.video.dtype == torch.bfloat16
    assert (rounded.video.float() - exact.video).norm() < 0.05 * exact.video.norm()


def test_averaged_weights_are_a_variant_beside_the_weights(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    model.save_pretrained(tmp_path, variant="ema")
    plain, averaged = DualForce.from_pretrained(tmp_path), DualForce.from_pretrained(tmp_path, variant="ema")
    assert torch.equal(0.5 * plain.bridge.condition.weight, averaged.bridge.condition.weight)


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    """Weights that do not fit the configuration are an error that names a tensor, not a half-random model."""
    make_model(audio=None).save_pretrained(tmp_path)
    make_model().save_config(tmp_path)
    with pytest.raises(InputError, match=r"missing \(such as listening\.encoder\.absent"):
        DualForce.from_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    make_model(audio=None).save_config(tmp_path)
    with pytest.raises(InputError, match=r"unexpected \(such as listening\.encoder\.absent"):
        DualForce.from_pretrained(tmp_path)
    make_model(audio=AUDIO.model_copy(update={"features": 9})).save_config(tmp_path)
    with pytest.raises((ValueError, RuntimeError), match=r"listening\.encoder\.slot\.weight"):
        DualForce.from_pretrained(tmp_path)


def test_files_are_plain_safetensors_under_diffusers_names(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    with safe_open(tmp_path / "diffusion_pytorch_model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"video.blocks.0.attn1.to_q.weight", "video.condition_embedder.time_embedder.linear_1.weight"} <= names
    assert not any("processor" in name for name in names)
