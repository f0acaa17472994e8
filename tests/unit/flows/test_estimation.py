"""`dualforce estimate` from a shell: what it may be asked about, and how it ends."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dualforce_model.config import ConfigError
from flows.commands_model import estimate
from flows.estimation import of_file, of_preset
from flows.terminal import PROBLEMS, Finish

SMALL = ["--preset", "tiny", "--batch-size", "2", "--window-steps", "3"]

MICRO = ["train.model.structure=null", "train.model.audio=null", "train.model.video={layers: 1}", "--crop-px", "96"]


def test_a_preset_is_answered_in_json() -> None:
    result = CliRunner().invoke(estimate, [*SMALL, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["fits"] is True
    assert found["total_bytes"]["plain"] == sum(found["plain"].values())
    assert found["workload"] == {"crop_px": 96, "num_steps": 3, "batch_per_gpu": 2}
    assert found["parameters"].keys() == {"video", "structure", "bridge", "listening"}


def test_what_does_not_fit_ends_as_a_problem_after_its_report() -> None:
    result = CliRunner().invoke(estimate, ["--config", "configs/train/folder.yaml", "--limit-gb", "1", *MICRO])
    assert isinstance(result.exception, Finish)
    assert result.exception.code == PROBLEMS
    assert "What to change" in result.stdout


def test_configurations_of_trainer_flow_and_pipeline_are_read_alike(tmp_path: Path) -> None:
    written = {
        "trainer": "{steps: 5, batch_size: 6, window_steps: 4, store_url: x, snapshot_id: y}",
        "flow": "{place: {home: x}, train: {batch_size: 6, window_steps: 4}}",
        "demo": "{pipeline: {curate: {crop_px: 96}, train: {batch_size: 6, window_steps: 4}}}",
    }
    found = {}
    for name, text in written.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        found[name] = of_file(tmp_path / f"{name}.yaml", (), gpus=3)
    assert {question.work.batch_per_gpu for question in found.values()} == {2}
    assert {question.work.num_steps for question in found.values()} == {4}
    assert (found["flow"].work.crop_px, found["demo"].work.crop_px) == (512, 96)
    changed = of_file(tmp_path / "flow.yaml", ["train.batch_size=12", "train.precision=fp32"], gpus=3)
    assert (changed.work.batch_per_gpu, changed.precision) == (4, "fp32")


def test_execution_is_read_from_trainer_and_launcher(tmp_path: Path) -> None:
    def asked(*overrides: str) -> tuple[str, bool | None]:
        question = of_file(tmp_path / "flow.yaml", overrides, gpus=1)
        return question.attention, question.recompute

    (tmp_path / "flow.yaml").write_text("{launch: {accelerate: configs/accelerate/cpu.yaml}, train: {batch_size: 4}}")
    sharded = "launch.accelerate=configs/accelerate/gpu.yaml"
    assert asked() == ("flex", False)
    assert asked("train.execution.recompute=true") == ("flex", True)
    assert asked(sharded) == ("flex", True)
    assert asked("train.execution.attention=native") == ("native", False)
    assert asked("train.execution.compile='off'") == ("native", False)
    with pytest.raises(ConfigError, match="are both on"):
        asked(sharded, "train.execution.recompute=true")
    with pytest.raises(ConfigError, match="accelerate's own file is expected"):
        asked("launch.accelerate=3")
    (tmp_path / "odd.yaml").write_text("{distributed_type: FSDP, fsdp_config: {fsdp_activation_checkpointing: often}}")
    with pytest.raises(ConfigError, match="true or false is expected"):
        asked(f"launch.accelerate={tmp_path / 'odd.yaml'}")
    assert of_preset("tiny").recompute is None


def test_configurations_that_ship_are_understood() -> None:
    assert of_file(Path("configs/demo/demo.yaml"), (), gpus=1).work.crop_px == 96
    assert of_file(Path("configs/train/folder.yaml"), (), gpus=2).work.batch_per_gpu == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give exactly one of"),
        (["--preset", "tiny", "--config", "x.yaml"], "give exactly one of"),
        (["--config", "x.yaml", "--checkpoint", "."], "give exactly one of"),
        (["--preset", "tiny", "train.steps=3"], "overridden in a --config"),
        (["--preset", "tiny", "--gpus", "3", "--batch-size", "4"], "take a multiple of 3"),
    ],
)
def test_questions_that_make_no_sense_are_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        estimate.main(arguments, standalone_mode=False)


def test_sizes_that_do_not_divide_are_refused() -> None:
    tiny = of_preset("tiny")
    with pytest.raises(ConfigError, match="take multiples"):
        tiny.resized({"crop_px": 104})
    with pytest.raises(ConfigError, match="crop_px"):
        tiny.resized({"crop_px": 7})
    with pytest.raises(ConfigError, match=r"there are tiny, small, base$"):
        of_preset("huge")
    with pytest.raises(ConfigError, match=r"there are tiny, small, base, mova-360p$"):
        estimate.main(["--preset", "huge"], standalone_mode=False)


def test_a_batch_that_gpus_cannot_share_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("train: {batch_size: 8}")
    with pytest.raises(ConfigError, match="cannot be shared by 3 GPUs"):
        of_file(tmp_path / "x.yaml", (), gpus=3)
