"""Runs on a small snapshot: finished, stopped, resumed, killed, refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator

from dualforce_model import checkpoint
from dualforce_model.config import ConfigError
from dualforce_model.encoders import EncoderChoice
from dualforce_model.optimisation import OptimizerConfig
from dualforce_model.train import train
from dualforce_model.train_config import TrainConfig
from dualforce_model.train_log import read_log
from dualforce_model.train_state import StopSignal
from dualforce_model.trainer import StepKeys, Trainer, TrainingDivergedError, per_process, sample_keys

ROOT = Path(__file__).resolve().parents[4]


class StopAfter(StopSignal):
    """A stop that comes after a number of steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def asked(self, accelerator: Accelerator) -> bool:
        self.left -= 1
        return self.left < 0


def files_of(folder: Path, step: int) -> dict[str, bytes]:
    found = checkpoint.checkpoint_path(folder, step)
    return {path.relative_to(found).as_posix(): path.read_bytes() for path in found.rglob("*") if path.is_file()}


def losses(folder: Path) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, {k: v for k, v in row.values.items() if k != "seconds_per_step"}) for row in read_log(folder)]


def test_a_run_finishes_and_says_so(config: TrainConfig, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = train(config, run_folder, StopSignal())
    assert json.loads((run_folder / "run_state.json").read_text()) == state.model_dump()
    assert state.model_dump() == {
        "resumable": False, "step": 6, "reason": "finished", "checkpoint": "checkpoints/step-00000006",
    }  # fmt: skip
    steps = [step for step, values in losses(run_folder) if "loss" in values]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [step for step, values in losses(run_folder) if "validation_loss" in values] == [3, 6]
    assert [path.name for path in checkpoint.list_checkpoints(run_folder)] == [f"step-0000000{n}" for n in (2, 4, 6)]
    assert list((run_folder / "tensorboard").iterdir())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("training  17%|")
    assert lines[-1].startswith("training finished at step 6 of 6")


def test_a_run_repeats_bit_for_bit_and_a_stopped_one_resumes_bit_exactly(config: TrainConfig, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, whole, StopSignal())
    stopped = train(config, broken, StopAfter(3))
    assert (stopped.resumable, stopped.step, stopped.reason) == (True, 3, "stopped")
    assert train(config, broken, StopSignal()).step == 6
    assert files_of(whole, 6) == files_of(broken, 6)
    assert losses(whole) == losses(broken)


def test_stopped_before_its_first_step_a_run_saves_nothing_and_starts_afresh(
    config: TrainConfig, tmp_path: Path
) -> None:
    whole, early = tmp_path / "whole", tmp_path / "early"
    stopped = train(config, early, StopAfter(0))
    assert (stopped.resumable, stopped.step, stopped.checkpoint) == (True, 0, None)
    assert not checkpoint.list_checkpoints(early)
    assert train(config, early, StopSignal()).step == 6
    train(config, whole, StopSignal())
    assert files_of(whole, 6) == files_of(early, 6)


def test_resuming_passes_over_a_damaged_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, whole, StopSignal())
    train(config, broken, StopAfter(5))
    (checkpoint.checkpoint_path(broken, 5) / checkpoint.OPTIMIZER_NAME).write_bytes(b"x")
    (checkpoint.checkpoint_path(broken, 4) / "state.json").unlink()
    train(config, broken, StopSignal())
    assert files_of(whole, 6) == files_of(broken, 6)
    assert losses(whole) == losses(broken)


def test_a_finished_run_stays_as_it_is(config: TrainConfig, run_folder: Path) -> None:
    train(config, run_folder, StopSignal())
    before = files_of(run_folder, 6)
    assert train(config, run_folder, StopSignal()).reason == "finished"
    assert files_of(run_folder, 6) == before


def test_another_configuration_is_refused_in_the_same_folder(config: TrainConfig, run_folder: Path) -> None:
    train(config.model_copy(update={"steps": 2}), run_folder, StopSignal())
    with pytest.raises(ConfigError, match="another configuration"):
        train(config, run_folder, StopSignal())
    assert json.loads((run_folder / "run_state.json").read_text())["reason"] == "failed"


def test_training_learns(config: TrainConfig, run_folder: Path) -> None:
    longer = {
        "steps": 60,
        "save_every": 60,
        "validate_every": 30,
        "optimizer": OptimizerConfig(warmup_steps=2, learning_rate=1e-2),
    }
    train(config.model_copy(update=longer), run_folder, StopSignal())
    rows = [values["loss"] for _, values in losses(run_folder) if "loss" in values]
    assert sum(rows[-10:]) < 0.9 * sum(rows[:10])


def test_a_loss_that_is_no_number_ends_the_run(config: TrainConfig, run_folder: Path) -> None:
    wild = OptimizerConfig(learning_rate=1.0, warmup_steps=0, max_grad_norm=1000, weight_decay=0)
    trainer = Trainer(config.model_copy(update={"optimizer": wild}), run_folder, Accelerator(cpu=True))
    with torch.no_grad():
        next(trainer.objective.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match=r"lower optimizer\.learning_rate"):
        trainer.run(StopSignal())


def test_silence_is_dropped_in_per_sample(config: TrainConfig, tmp_path: Path) -> None:
    deaf = config.model_copy(update={"audio_dropout": 0.5, "steps": 2})
    train(deaf, tmp_path / "a", StopSignal())
    train(deaf.model_copy(update={"audio_dropout": 0.0}), tmp_path / "b", StopSignal())
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_video_alone_can_be_trained(config: TrainConfig, run_folder: Path) -> None:
    model = config.model.model_copy(update={"structure": None, "audio": None})
    assert train(config.model_copy(update={"model": model, "steps": 2}), run_folder, StopSignal()).step == 2


def test_other_encoders_than_the_snapshots_are_refused_by_name(config: TrainConfig, run_folder: Path) -> None:
    other = config.encoders.model_copy(update={"structure": EncoderChoice(name="face_dct", config={"num_mouth": 5})})
    with pytest.raises(ConfigError, match=r"encoders\.structure: face_dct .*did not make the structure of snapshot"):
        train(config.model_copy(update={"encoders": other}), run_folder, StopSignal())
    assert json.loads((run_folder / "run_state.json").read_text())["resumable"] is False
    model = config.model.model_copy(update={"structure": None})
    alone = config.model_copy(update={"encoders": other, "model": model, "steps": 1})
    assert train(alone, run_folder, StopSignal()).step == 1, "what the model does not use may be any encoder"


def test_draws_are_numbered_through_the_run() -> None:
    one = [(key.epoch, key.index) for step in range(6) for key in sample_keys(step, 4, 6)]
    other = [(key.epoch, key.index) for step in range(3) for key in sample_keys(step, 8, 6)]
    assert one == other
    assert one[:7] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 0)]


def test_windows_of_a_run_are_worked_out_step_by_step() -> None:
    """A run without end is no more than its first steps, and each process has its part of the same batches."""
    endless = range(3, 1 << 60)
    parts = [StepKeys(endless, 4, 6, range(first, first + 2)) for first in (0, 2)]
    for step, *places in zip(range(3, 9), *parts, strict=False):
        keys = sample_keys(step, 4, 6)
        assert [*places[0], *places[1]] == [(key.epoch, key.index) for key in keys]
        assert [*parts[0].of(step), *parts[1].of(step)] == keys
    assert len(parts[0]) == len(endless)


def test_a_batch_must_split_evenly() -> None:
    assert per_process(8, 2) == 4
    with pytest.raises(ConfigError, match="multiple of 3"):
        per_process(8, 3)


def launch(folder: Path, config: TrainConfig) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command += ["-m", "dualforce_model.train", "--config", str(folder / "config.yaml")]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
def test_the_command_saves_on_sigterm_and_goes_on(config: TrainConfig, run_folder: Path) -> None:
    longer = config.model_copy(update={"steps": 4000, "save_every": 4000, "validate_every": 4000})
    with launch(run_folder, longer) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "3/4000" in line:
                break
        ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        os.kill(
            int(ranks.split()[0]), signal.SIGTERM
        )  # launchers forward no signal; the supervisor tells every process
        process.stdout.read()
    state = json.loads((run_folder / "run_state.json").read_text())
    assert (state["resumable"], state["reason"]) == (True, "stopped")
    assert state["step"] >= 3
    found = checkpoint.newest_checkpoint(run_folder)
    assert found is not None
    assert checkpoint.verify_checkpoint(found).step == state["step"]
