"""The whole model: saved and loaded as one, refusing streams that do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from dualforce_model.batch import TalkingHeadBatch
from dualforce_model.layers.masks import StepMask
from dualforce_model.model import PRESETS, DualForce, ModelConfig

TINY = PRESETS["tiny"]
COUNTS = {"tiny": 1_661_488, "small": 111_619_040, "base": 2_190_369_926}


def tiny(**changes: Any) -> DualForce:
    torch.manual_seed(0)
    return DualForce(TINY.model_copy(update=changes)).eval()


def arguments(config: ModelConfig, num_steps: int = 3) -> dict[str, Any]:
    fake = TalkingHeadBatch.fake(config, 2, num_steps, height=4, width=4)
    return {
        "video": fake.video,
        "structure": fake.structure,
        "audio": fake.audio,
        "reference": fake.reference,
        "sigma_video": torch.full((2, num_steps), 0.5),
        "sigma_structure": torch.full((2, num_steps), 0.3),
        "positions": fake.positions,
        "audio_mask": fake.audio_mask,
    }


def test_one_folder_holds_the_whole_model(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    loaded = DualForce.from_pretrained(tmp_path)
    assert loaded.settings == model.settings
    inputs = arguments(TINY)
    with torch.no_grad():
        before, after = model(**inputs), loaded(**inputs)
    assert torch.equal(before.video, after.video)
    assert torch.equal(before.structure, after.structure)


def test_a_new_model_predicts_zero_and_every_parameter_learns() -> None:
    model = tiny()
    inputs = arguments(TINY)
    out = model(**inputs)
    assert not out.video.any()
    assert not out.structure.any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(6):  # gates and heads start at zero: what is behind them learns once they have opened
        out = model(**inputs)
        loss = (out.video - 1).square().mean() + (out.structure - inputs["structure"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not idle


def test_tiny_is_tiny_and_base_is_two_billion() -> None:
    assert 0.8e6 < sum(parameter.numel() for parameter in tiny().parameters()) < 1.7e6
    with torch.device("meta"):
        base = DualForce(PRESETS["base"])
    count = sum(parameter.numel() for parameter in base.parameters())
    assert 1.9e9 < count < 2.3e9
    assert sum(parameter.numel() for parameter in base.video.parameters()) < 1.1e9


def test_presets_have_the_sizes_that_the_design_names() -> None:
    base = PRESETS["base"]
    for tower in (base.video, base.structure):
        assert (tower.dim, tower.heads, tower.layers, tower.ffn_dim, tower.text_dim) == (1536, 12, 20, 8960, 4096)
    with torch.device("meta"):
        video = DualForce(base).video
    assert (video.config.in_channels, video.config.out_channels, video.config.patch_size) == (36, 16, (1, 2, 2))
    assert base.bridge.bridged(20) == tuple(range(8))
    assert all(preset.bridge.depth is not None and preset.bridge.scope == "step" for preset in PRESETS.values())
    assert all(not preset.video.feature_dim for preset in PRESETS.values())  # off unless asked for


def test_sizes_of_the_presets_in_parameters() -> None:
    counts = {}
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            counts[name] = sum(parameter.numel() for parameter in DualForce(preset).parameters())
    assert counts == COUNTS  # a changed count means that older checkpoints no longer load


def test_fitting_changes_the_widths_of_the_data_alone() -> None:
    fitted = TINY.fitted(latent_channels=8, structure_entries=70, audio_features=1024)
    assert (fitted.video.latent_channels, fitted.structure.entries, fitted.audio.features) == (8, 70, 1024)
    assert fitted.fitted(16, TINY.structure.entries, TINY.audio.features) == TINY


def test_presets_survive_json() -> None:
    for preset in PRESETS.values():
        assert ModelConfig.model_validate_json(preset.model_dump_json()) == preset


def test_ears_without_a_listening_layer_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ModelConfig.model_validate({"audio": {"layers": 0}})


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        ModelConfig.model_validate({"windows": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure": None}, "the model needs structure"),
        ({"audio": None}, "the model needs audio"),
        ({"structure": torch.zeros(2, 2, 4, 32)}, "video has 3 steps, structure 2"),
        ({"audio": torch.zeros(2, 2, 8, 40)}, "video has 3 steps, audio 2: expected 3 to 3"),
        ({"commit": True}, "commit=True without a cache"),
        ({"features": torch.zeros(2, 3, 7)}, "features of width 7: the model takes none"),
        ({"sigma_structure": None}, "structure was given without sigma_structure"),
        ({"structure": torch.zeros(1, 3, 4, 32)}, r"structure is of shape \(1, 3, 4, 32\), expected \(2, 3, 4, 32\)"),
        ({"audio": torch.zeros(1, 3, 8, 40)}, r"audio is of shape \(1, 3, 8, 40\), expected \(2, 3, 8, 40\)"),
        (
            {"audio_mask": torch.ones(2, 2, 8, dtype=torch.bool)},
            r"audio_mask is of shape \(2, 2, 8\), expected \(2, 3, 8",
        ),
        ({"reference": torch.zeros(1, 16, 4, 4)}, r"reference is of shape \(1, 16, 4, 4\), expected \(2, 16, 4, 4\)"),
        ({"sigma_video": torch.ones(2, 2)}, r"sigma_video is of shape \(2, 2\), expected \(2, 3\)"),
        ({"sigma_structure": torch.ones(2, 1)}, r"sigma_structure is of shape \(2, 1\), expected \(2, 3\)"),
        ({"positions": torch.arange(4).expand(2, -1)}, r"positions is of shape \(2, 4\), expected \(2, 3\)"),
        ({"mask": StepMask.causal(4, 3)}, "video has 3 steps, mask 4 queries and 4 keys"),
        (
            {"positions": torch.arange(1, 4).expand(2, -1)},
            r"no cache and the first positions are \[1, 1\].* begin with position 0",
        ),
        ({"positions": torch.tensor([[0, 1, 2], [5, 6, 7]])}, r"no cache and the first positions are \[0, 5\]"),
    ],
)
def test_streams_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(**{**arguments(TINY), **change})


def test_a_cache_takes_no_mask_and_its_own_number_of_streams() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="leave mask out"):
        model(**arguments(TINY), cache=model.new_cache(2), mask=StepMask.causal(3, 3))
    with pytest.raises(ValueError, match="the cache holds 3 streams, the batch has 2"):
        model(**arguments(TINY), cache=model.new_cache(3))


def test_a_video_model_takes_no_noise_levels_of_structure() -> None:
    model = tiny(structure=None)
    with pytest.raises(ValueError, match="sigma_structure was given without structure"):
        model(**{**arguments(TINY), "structure": None})


def test_an_empty_cache_begins_with_the_reference() -> None:
    model, inputs = tiny(), arguments(TINY)
    cache = model.new_cache(2)
    later = {**inputs, "positions": inputs["positions"] + 1}
    with pytest.raises(ValueError, match=r"first positions are \[1, 1\].* commit position 0 first"):
        model(**later, cache=cache, commit=True)
    assert cache.length == 0
    with torch.no_grad():
        model(**inputs, cache=cache, commit=True)
        model(**{**inputs, "positions": inputs["positions"] + 3}, cache=cache)


@pytest.mark.parametrize("gap", [-3, -1, 1])
def test_a_cache_goes_on_with_the_step_after_the_committed_ones(gap: int) -> None:
    model, inputs = tiny(), arguments(TINY)
    cache = model.new_cache(2)
    with torch.no_grad():
        model(**inputs, cache=cache, commit=True)
        for commit in (False, True):
            wrong = {**inputs, "positions": inputs["positions"] + 3 + gap}
            with pytest.raises(
                ValueError, match=rf"holds 3 steps and the first positions are \[{3 + gap}.*expected 3,"
            ):
                model(**wrong, cache=cache, commit=commit)
        assert cache.length == 3
        model(**{**inputs, "positions": inputs["positions"] + 3}, cache=cache, commit=True)
    assert cache.length == 6


@pytest.mark.parametrize("scope", ["step", "causal"])
@pytest.mark.parametrize("name", ["sigma_video", "sigma_structure"])
def test_the_bridge_is_told_both_noise_levels_step_by_step(name: str, scope: str) -> None:
    model, inputs = tiny(bridge=TINY.bridge.model_copy(update={"scope": scope})), arguments(TINY, 4)
    told: list[torch.Tensor] = []
    model.bridge.condition.register_forward_pre_hook(lambda module, args: told.append(args[0]))
    noisier = {**inputs, name: inputs[name].clone()}
    noisier[name][:, 2] = 0.9
    with torch.no_grad():
        model(**inputs)
        model(**noisier)
    changed = (told[0] != told[1]).split([TINY.video.dim, TINY.structure.dim], dim=-1)  # what each tower says
    own, other = changed if name == "sigma_video" else changed[::-1]
    assert not other.any()
    assert own.any(-1).tolist() == [[False, False, True, False]] * 2


def test_half_precision_runs() -> None:
    model = tiny().bfloat16()
    inputs = {
        name: value.bfloat16() if name in ("video", "structure", "audio", "reference") else value
        for name, value in arguments(TINY).items()
    }
    with torch.no_grad():
        assert model(**inputs).video.dtype == torch.bfloat16


def test_what_is_left_out_of_a_model_is_as_in_tiny() -> None:
    """One setting in a YAML file or on the command line changes that one and makes no mixture of models."""
    tiny = PRESETS["tiny"]
    assert ModelConfig() == tiny
    wider = ModelConfig.model_validate({"video": {"layers": 6}, "audio": {"past_steps": 2}})
    assert wider.video == tiny.video.model_copy(update={"layers": 6})
    assert tiny.audio is not None
    assert wider.audio == tiny.audio.model_copy(update={"past_steps": 2})
