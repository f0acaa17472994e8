"""Checkpoints are whole or not there; damage of any kind is found."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dualforce_model import checkpoint
from dualforce_model.checkpoint import CheckpointError, Content
from dualforce_model.config import Frozen
from dualforce_model.storage import write_json


class Note(Frozen):
    """A record."""

    text: str = "kept"


def content(value: float = 1.0) -> Content:
    tensors = {"a.weight": torch.full((3, 2), value), "a.bias": torch.arange(2.0)}
    moments = {f"exp_avg/{name}": tensor * 0.1 for name, tensor in tensors.items()}
    return Content(lambda folder: write_json(folder / "config.json", {}), tensors, tensors, moments, {"train": Note()})


def save(run: Path, step: int, value: float = 1.0) -> Path:
    return checkpoint.save_checkpoint(run, step, "0123456789abcdef", "digest", content(value))


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    folder = save(tmp_path, 20)
    assert folder == tmp_path / "checkpoints" / "step-00000020"
    state = checkpoint.verify_checkpoint(folder)
    assert (state.step, state.snapshot_id, state.config_digest) == (20, "0123456789abcdef", "digest")
    weights = checkpoint.load_tensors(folder / checkpoint.MODEL_FOLDER / checkpoint.WEIGHTS_NAME)
    assert torch.equal(weights["a.weight"], torch.ones(3, 2))
    assert checkpoint.load_record(folder / "train.json") == {"text": "kept"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pt", ".bin", ".pkl", ".pth"}]


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    assert checkpoint.newest_checkpoint(tmp_path) is None
    first, _, third = (save(tmp_path, step) for step in (10, 20, 30))
    assert checkpoint.newest_checkpoint(tmp_path) == third
    (third / checkpoint.OPTIMIZER_NAME).write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000020" / "model")
    assert checkpoint.newest_checkpoint(tmp_path) == first


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("state.json", lambda path: path.unlink(), "not finished"),
        ("state.json", lambda path: path.write_text("{"), "not readable"),
        ("train.json", lambda path: path.unlink(), "missing"),
        ("optimizer.safetensors", lambda path: os.truncate(path, 10), "10 bytes"),
        ("model/config.json", lambda path: path.write_bytes(b"[" + path.read_bytes()[1:]), "not those that were saved"),
    ],
)
def test_any_damage_is_named(tmp_path: Path, name: str, damage: object, complaint: str) -> None:
    folder = save(tmp_path, 5)
    damage(folder / name)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=complaint):
        checkpoint.verify_checkpoint(folder)


def test_a_state_that_points_outside_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    state = json.loads((folder / "state.json").read_text())
    state["files"]["../../../secret"] = state["files"]["train.json"]
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        checkpoint.verify_checkpoint(folder)


def test_saving_again_keeps_a_whole_one_and_replaces_a_damaged_one(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    before = (folder / "state.json").stat().st_mtime_ns
    assert save(tmp_path, 5, value=2.0) == folder
    assert (folder / "state.json").stat().st_mtime_ns == before
    (folder / "train.json").unlink()
    save(tmp_path, 5, value=2.0)
    assert checkpoint.is_valid(folder)


def test_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    for step in (1, 2, 3, 100_000_000):
        save(tmp_path, step)
    checkpoint.prune_checkpoints(tmp_path, 2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000003", "step-100000000"]


@pytest.mark.parametrize("point", ["checkpoint.before_rename", "checkpoint.after_rename"])
def test_a_kill_leaves_a_whole_checkpoint_or_none(tmp_path: Path, point: str) -> None:
    root = Path(__file__).resolve().parents[3]
    code = (
        "import importlib.util, sys, pathlib\n"
        f"spec = importlib.util.spec_from_file_location('t', {str(Path(__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "module.save(pathlib.Path(sys.argv[1]), 7)\n"
    )
    environment = {**os.environ, "DUALFORCE_KILL_AT": point, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    found = checkpoint.newest_checkpoint(tmp_path)
    assert (found is not None) == (point == "checkpoint.after_rename")
    assert len(checkpoint.list_checkpoints(tmp_path)) == int(found is not None)
    assert checkpoint.is_valid(save(tmp_path, 7))
