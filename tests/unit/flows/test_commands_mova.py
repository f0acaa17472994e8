"""`dualforce verify mova --run`: whatever becomes of the run, the report of the checks before it stays."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from dualforce_model.errors import InputError
from dualforce_model.mova.verify import MovaReport
from flows.commands_model import verify
from flows.terminal import PROBLEMS, Finish

ROOT = Path(__file__).resolve().parents[3]
SIZES = [f"--set={setting}" for setting in ("height_px=48", "width_px=64", "num_frames=5", "num_steps=2")]


def maker() -> ModuleType:
    """The writer of tiny checkpoints."""
    path = ROOT / "tests" / "unit" / "dualforce_model" / "mova" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_mova_checkpoint", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is only read."""
    folder: Path = maker().write_checkpoint(tmp_path_factory.mktemp("mova") / "MOVA-tiny")
    return folder


def words(checkpoint: Path, output: Path, *more: str) -> list[str]:
    return ["mova", "--checkpoint", str(checkpoint), "--no-load", "--run", "--output", str(output), *more]


def kept(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "try.verify.json").read_text(encoding="utf-8"))
    return told


def test_a_killed_run_leaves_the_report(tiny: Path, tmp_path: Path) -> None:
    """Killed for good while the towers run: the report is whole, standard error has said where, no video pretends."""
    output = tmp_path / "try.mp4"
    long = ["--set=height_px=48", "--set=width_px=64", "--set=num_frames=25", "--set=num_steps=1000"]
    command = [sys.executable, "-m", "flows.cli", "verify", *words(tiny, output, *long)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "video_dit: step 2 of" in line:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL, lines
    report = MovaReport.model_validate(kept(tmp_path))
    assert (report.problems, report.trial) == ((), None)
    assert {row.component for row in report.components} >= {"video_dit", "video_dit_2", "text_encoder"}
    assert f"the report is in {tmp_path / 'try.verify.json'}; what the run gives is added to it\n" in lines
    assert [path.name for path in tmp_path.iterdir()] == ["try.verify.json"]


def test_what_a_run_gives_is_added(tiny: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(verify, words(tiny, tmp_path / "try.mp4", *SIZES, "--json"))
    assert done.exit_code == 0, done.output
    assert kept(tmp_path) == json.loads(done.stdout)
    assert kept(tmp_path)["trial"]["num_frames"] == 5


def test_a_run_that_fails_leaves_the_report(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "words.safetensors").write_bytes(b"none")
    done = CliRunner().invoke(
        verify, words(tiny, tmp_path / "try.mp4", "--embeddings", str(tmp_path / "words.safetensors"), "--json")
    )
    assert isinstance(done.exception, InputError)
    assert kept(tmp_path) == json.loads(done.stdout)
    assert kept(tmp_path)["trial"] is None


def test_problems_are_kept_and_nothing_is_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(verify, words(tmp_path / "empty", tmp_path / "try.mp4"))
    assert isinstance(done.exception, Finish)
    assert done.exception.code == PROBLEMS
    assert len(kept(tmp_path)["problems"]) > 5
    assert f"the report is in {tmp_path / 'try.verify.json'}\n" in done.stderr
    assert not (tmp_path / "try.mp4").exists()


def test_without_a_run_no_file_is_written(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(verify, ["mova", "--checkpoint", str(tiny), "--no-load"])
    assert done.exit_code == 0, done.output
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["MOVA-tiny"]


def test_a_place_that_cannot_be_written_still_answers(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(verify, words(tiny, tmp_path / "file" / "try.mp4", *SIZES))
    assert isinstance(done.exception, OSError)
    assert "a file is in its place" in str(done.exception)
    assert ": works" in done.stdout
