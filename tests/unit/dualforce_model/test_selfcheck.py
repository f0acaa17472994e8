"""The six-part check: sound models pass, and each part notices what it is there for."""

from typing import Any

import pytest
import torch

from dualforce_model import selfcheck
from dualforce_model.audio import AudioConfig
from dualforce_model.bridge import BridgeConfig
from dualforce_model.errors import InputError
from dualforce_model.layers.cache import LayerMemory
from dualforce_model.layers.masks import StepMask
from dualforce_model.model import ModelConfig
from dualforce_model.selfcheck import SelfCheck, check_model
from dualforce_model.towers import StructureTower, StructureTowerConfig, VideoTowerConfig

MICRO = ModelConfig(
    video=VideoTowerConfig(patch_px=(2, 2), latent_channels=4, heads=2, head_dim=16, layers=2, ffn_dim=32, freq_dim=32),
    structure=StructureTowerConfig(entries=6, heads=2, head_dim=16, layers=2, ffn_dim=32, freq_dim=32),
    bridge=BridgeConfig(depth=1, condition_dim=16),
    audio=AudioConfig(features=6, layers=1, slot_dim=8, context_dim=16),
    window_steps=3,
)
CPU = torch.device("cpu")


def problems(config: ModelConfig = MICRO, **changes: Any) -> dict[str, str]:
    report = check_model("micro", config.model_copy(update=changes), CPU)
    assert len(report.parts) == 6
    return {part.name: part.found for part in report.problems}


def test_a_sound_model_passes_all_six_parts() -> None:
    heard: list[str] = []
    report = check_model("micro", MICRO, CPU, heard.append)
    assert report.problems == ()
    assert [line.split(": ")[1] for line in heard] == [part.name for part in report.parts]
    assert report.text().count(" ok ") == 6
    assert SelfCheck.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": None},
        {"audio": None},
        {"audio": AudioConfig(features=6, layers=1, slot_dim=8, context_dim=16, look_ahead_steps=1)},
        {"bridge": BridgeConfig(depth=1, condition_dim=16, direction="structure_to_video")},
        {"bridge": BridgeConfig(depth=1, condition_dim=16, direction="video_to_structure")},
        {"structure": MICRO.structure.model_copy(update={"canonical_dim": 5})},
    ],
    ids=["video alone", "deaf", "look-ahead", "video told", "structure told", "told who it is"],
)
def test_every_kind_of_model_passes(changes: dict[str, Any]) -> None:
    assert problems(**changes) == {}


def test_a_mask_that_shows_the_future_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepMask, "sees", lambda mask, query, key: True)
    found = problems()
    assert {"video", "structure", "both, bridged"} <= set(found)
    assert "steps before it" in found["video"]


def test_a_cache_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    write = LayerMemory.write

    def forgetful(memory: LayerMemory, key: torch.Tensor, value: torch.Tensor, first_step: int) -> None:
        write(memory, torch.zeros_like(key), value, first_step)

    monkeypatch.setattr(LayerMemory, "write", forgetful)
    found = problems()
    assert set(found) == {"cache"}
    assert "differs from one pass" in found["cache"]


def test_parameters_that_do_not_learn_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    make = selfcheck.make_optimizer

    def lazy(config: Any, module: torch.nn.Module) -> torch.optim.Optimizer:
        optimizer = make(config, module)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        return optimizer

    monkeypatch.setattr(selfcheck, "make_optimizer", lazy)
    assert "the loss did not fall" in problems()["training"]


def test_a_parameter_that_nothing_depends_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a gradient, finite and always zero."""
    finish = StructureTower.finish

    def cut(tower: StructureTower, state: Any) -> torch.Tensor:
        return finish(tower, state) * 0

    monkeypatch.setattr(StructureTower, "finish", cut)
    found = problems()["training"]
    assert "had a gradient of zero in all 4 steps" in found
    assert "structure" in found


def test_an_estimate_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = selfcheck.training_step

    def half(*arguments: Any, **named: Any) -> Any:
        run = told(*arguments, **named)
        return run.model_copy(update={"peak_bytes": run.peak_bytes // 2})

    monkeypatch.setattr(selfcheck, "training_step", half)
    assert "MB measured" in problems()["memory"]


def test_a_part_that_breaks_is_a_finding_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tower: StructureTower, state: Any) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(StructureTower, "finish", broken)
    found = problems()
    assert found["structure"] == "RuntimeError: no kernel image is available"
    assert "video" not in found


def test_a_model_too_large_for_the_machine_is_refused_before_it_is_made() -> None:
    vast = VideoTowerConfig(patch_px=(2, 2), heads=64, head_dim=256, layers=100, ffn_dim=65_536)
    with pytest.raises(InputError, match="are free on cpu"):
        check_model("vast", ModelConfig(video=vast, structure=None, audio=None), CPU)
