"""Runs that start from other weights, and runs whose estimates are judged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from dualforce_model import checkpoint
from dualforce_model.config import ConfigError, validate
from dualforce_model.losses import LossWeights
from dualforce_model.model import DualForce
from dualforce_model.pipeline import DualForcePipeline
from dualforce_model.train import train
from dualforce_model.train_config import Diffusion, TrainConfig, TrainSettings
from dualforce_model.train_log import read_log
from dualforce_model.train_state import StopSignal
from dualforce_model.trainer import Trainer
from dualforce_model.weights import Started, WarmStart


def logged(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, {k: v for k, v in row.values.items() if k != "seconds_per_step"}) for row in read_log(folder)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(config: TrainConfig, tmp_path: Path) -> Path:
    """A Wan checkpoint of the tests' width, one layer deeper."""
    torch.manual_seed(3)
    sizes = config.model.video
    wan = WanTransformer3DModel(
        (1, 2, 2), sizes.heads, sizes.head_dim, 16, 16, text_dim=8, freq_dim=sizes.freq_dim, ffn_dim=sizes.ffn_dim,
        num_layers=sizes.layers + 1,
    )  # fmt: skip
    wan.save_pretrained(tmp_path / "wan")
    return tmp_path / "wan"


def starting(config: TrainConfig, source: Path) -> TrainConfig:
    changes = {"start_from": WarmStart(path=str(source)), "diffusion": Diffusion(prediction="velocity"), "steps": 4}
    return config.model_copy(update=changes)


def test_a_run_starts_from_wan_and_its_checkpoints_say_so(config: TrainConfig, source: Path, tmp_path: Path) -> None:
    trainer = Trainer(starting(config, source), tmp_path / "look", Accelerator(cpu=True))
    given, tower = WanTransformer3DModel.from_pretrained(source).state_dict(), trainer.objective.model.video
    assert torch.equal(tower.blocks[1].ffn.net[2].weight, given["blocks.2.ffn.net.2.weight"])
    assert torch.equal(tower.patch_embedding.weight[:, :16], given["patch_embedding.weight"])
    assert train(starting(config, source), tmp_path / "run", StopSignal()).step == 4
    record = json.loads((checkpoint.checkpoint_path(tmp_path / "run", 4) / "start.json").read_text())
    started = Started.model_validate(record)
    assert started == trainer.started
    assert (started.layers, started.source_layers, list(started.left_out)) == ((0, 2), 3, ["text attention"])


def test_a_started_run_goes_on_without_the_source(config: TrainConfig, source: Path, tmp_path: Path) -> None:
    settings = starting(config, source)
    train(settings, tmp_path / "whole", StopSignal())
    train(settings, tmp_path / "broken", StopSignal())
    shutil.rmtree(checkpoint.checkpoint_path(tmp_path / "broken", 4))  # the last one is lost, and so is the source
    shutil.rmtree(source)
    assert train(settings, tmp_path / "broken", StopSignal()).step == 4
    whole, broken = (checkpoint.checkpoint_path(tmp_path / name, 4) for name in ("whole", "broken"))
    assert bytes_of(whole) == bytes_of(broken)


def test_a_start_that_would_be_misread_is_refused(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match="so set it to velocity"):
        validate(TrainSettings, {"start_from": {"path": "wan"}}, "test")


def test_every_loss_is_logged_and_sorted_by_noise(flame_config: TrainConfig, run_folder: Path) -> None:
    train(flame_config, run_folder, StopSignal())
    rows = [values for _, values in logged(run_folder) if "loss" in values]
    names = {"loss_video", "loss_structure", "loss_flame", "loss_lips", "lesson_flame", "lesson_lips"}
    assert all(names <= set(row) for row in rows)
    assert rows[0]["lesson_flame"] == pytest.approx(1, abs=0.2)  # a map of zeros is off by one standard deviation
    assert any(row["loss_flame"] > 0 for row in rows)
    validated = next(values for _, values in logged(run_folder) if "validation_loss" in values)
    for term in ("video", "structure", "flame"):
        assert any(name.startswith(f"validation_{term}_to_sigma_") for name in validated), term


def test_data_without_flame_train_as_ever(config: TrainConfig, tmp_path: Path) -> None:
    """The weight of a loss without data does not matter in the least."""
    for name, weight in (("none", 0.0), ("some", 5.0)):
        losses = LossWeights(flame=weight, lips=0)
        train(config.model_copy(update={"losses": losses, "steps": 2}), tmp_path / name, StopSignal())
    none, some = (checkpoint.checkpoint_path(tmp_path / name, 2) for name in ("none", "some"))
    assert logged(tmp_path / "none") == logged(tmp_path / "some")
    assert (none / "model" / checkpoint.WEIGHTS_NAME).read_bytes() == (
        some / "model" / checkpoint.WEIGHTS_NAME
    ).read_bytes()
    assert not (some / checkpoint.JUDGES_NAME).exists()


@pytest.mark.parametrize("balance", ["fixed", "learned"])
def test_a_judged_run_resumes_bit_for_bit(balance: str, flame_config: TrainConfig, tmp_path: Path) -> None:
    losses = validate(LossWeights, {"balance": balance, "lips_sigma": 1.0}, "test")
    settings = flame_config.model_copy(update={"losses": losses, "steps": 4})
    train(settings, tmp_path / "whole", StopSignal())
    train(settings, tmp_path / "broken", StopSignal())
    shutil.rmtree(checkpoint.checkpoint_path(tmp_path / "broken", 4))
    train(settings, tmp_path / "broken", StopSignal())
    whole, broken = (checkpoint.checkpoint_path(tmp_path / name, 4) for name in ("whole", "broken"))
    assert bytes_of(whole) == bytes_of(broken)
    assert logged(tmp_path / "whole") == logged(tmp_path / "broken")
    first, last = (
        load_file(checkpoint.checkpoint_path(tmp_path / "whole", step) / checkpoint.JUDGES_NAME) for step in (2, 4)
    )
    assert ("log_variances" in last) == (balance == "learned")
    assert all(not torch.equal(first[name], last[name]) for name in first)


def test_judges_are_no_part_of_the_model(flame_config: TrainConfig, run_folder: Path) -> None:
    train(flame_config.model_copy(update={"steps": 2}), run_folder, StopSignal())
    found = checkpoint.checkpoint_path(run_folder, 2)
    assert "judges" not in str(sorted(load_file(found / "model" / checkpoint.WEIGHTS_NAME)))
    DualForce.from_pretrained(found / "model")
    DualForcePipeline.from_pretrained(found)
