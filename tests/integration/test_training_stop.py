"""Interrupted, a training run saves where it is; killed from above, it ends by itself and never meets its successor."""

import fcntl
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from dualforce_model import checkpoint
from dualforce_model.train import LOCK_NAME, train
from dualforce_model.train_config import TrainConfig
from dualforce_model.train_log import read_log
from dualforce_model.train_state import StopSignal

ROOT = Path(__file__).resolve().parents[2]
STEPS = 120
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("forkable")]

_spec = importlib.util.spec_from_file_location(
    "training_conftest", ROOT / "tests/unit/dualforce_model/training/conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
config = _fixtures.config  # the small snapshot of the trainer's own tests

DRIVER = """
import sys
from pathlib import Path
from dualforce_model.config import load_config
from dualforce_model.train_config import TrainConfig
from tasks.training import LaunchConfig, launch_training
launch_training(Path(sys.argv[1]), load_config(TrainConfig, Path(sys.argv[2])), LaunchConfig(threads=1, grace_s=60))
"""


def drive(folder: Path, config: TrainConfig) -> "subprocess.Popen[bytes]":
    """Launch training from a process that can be interrupted and killed."""
    wanted = folder.parent / "wanted.yaml"
    wanted.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), str(wanted)], cwd=ROOT)


def wait_until(true: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit, f"never seen: {what}"
        time.sleep(0.02)


def last_step(folder: Path) -> int:
    """Newest logged step; the last line may still be in the writing."""
    path = folder / "train_log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def holder(folder: Path) -> psutil.Process:
    """The trainer's main process, as its lock names it."""
    return psutil.Process(int((folder / LOCK_NAME).read_text().split()[1]))


def weights(folder: Path) -> bytes:
    return (checkpoint.checkpoint_path(folder, STEPS) / "model" / checkpoint.WEIGHTS_NAME).read_bytes()


def test_stopped_waiting_killed_and_restarted_it_trains_as_if_undisturbed(config: TrainConfig, tmp_path: Path) -> None:
    changes = {"steps": STEPS, "save_every": STEPS, "validate_every": STEPS, "loader_workers": 1}
    config, whole, broken = config.model_copy(update=changes), tmp_path / "whole", tmp_path / "broken"
    train(config, whole, StopSignal())

    driver = drive(broken, config)
    wait_until(lambda: last_step(broken) >= 3, "step 3")
    driver.send_signal(signal.SIGINT)
    driver.wait(60)
    state = json.loads((broken / "run_state.json").read_text())
    assert (state["reason"], state["resumable"]) == ("stopped", True)
    assert 3 <= state["step"] < STEPS
    assert checkpoint.verify_checkpoint(broken / state["checkpoint"]).step == state["step"]

    with open(broken / LOCK_NAME, "rb") as lock:  # as a trainer would that still saves
        fcntl.flock(lock, fcntl.LOCK_EX)
        driver = drive(broken, config)
        wait_until(lambda: "waiting for the trainer" in (broken / "train.log").read_text(), "the wait for the lock")
    resumed = state["step"] + 3
    wait_until(lambda: last_step(broken) >= resumed, f"step {resumed}")
    trainer = holder(broken)
    supervisor = next(parent for parent in trainer.parents() if "tasks.supervisor" in parent.cmdline())
    driver.kill()
    driver.wait()
    driver = drive(broken, config)  # at once: the trainer of the dead driver may still be saving
    assert driver.wait(60) == 0
    assert not supervisor.is_running()
    assert not trainer.is_running()
    assert f"resuming at step {state['step']} " in (broken / "train.log").read_text()
    assert len(checkpoint.list_checkpoints(broken)) == 3, "the killed driver's trainer did not save"
    assert weights(broken) == weights(whole)
    assert [row.step for row in read_log(broken) if "loss" in row.values] == list(range(1, STEPS + 1))


def test_a_trainer_whose_supervisor_is_killed_saves_and_ends(config: TrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    driver = drive(folder, config.model_copy(update={"steps": 100_000, "save_every": 100_000}))
    wait_until(lambda: last_step(folder) >= 3, "step 3")
    trainer = holder(folder)
    next(parent for parent in trainer.parents() if "tasks.supervisor" in parent.cmdline()).kill()
    trainer.wait(30)
    driver.wait(30)
    state = json.loads((folder / "run_state.json").read_text())
    assert (state["reason"], state["resumable"]) == ("stopped", True)
    assert checkpoint.verify_checkpoint(folder / state["checkpoint"]).step == state["step"] >= 3
