"""The benchmarks run, compare equal work, and write what they print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 1200  # a minute or two alone; machines are shared
NAMES = ("attention", "tower", "generation")


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=HANG_S)


@pytest.mark.slow
@pytest.mark.timeout(HANG_S + 20)
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_prints_its_table_and_writes_it(name: str, tmp_path: Path) -> None:
    done = run(name, "--rounds", "1", "--out", str(tmp_path / "found.json"))
    # One round on a shared machine may find the tower slow: then it must say so.
    assert done.returncode == (6 if "PROBLEM: ours" in done.stdout else 0), done.stderr
    assert ("OK: ours" in done.stdout or "PROBLEM: ours" in done.stdout) == (name == "tower")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["name"] == name
    assert len(found["rows"]) >= 6
    for row in found["rows"]:
        assert row["milliseconds"] > 0
        assert row["way"] in done.stdout
    assert {row["ratio"] for row in found["rows"] if row["way"] == found["rows"][0]["way"]} == {1.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_said_so() -> None:
    done = run("tower", "--gpu")
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
