"""The benchmark of a changed extractor makes only what is stale, and says where it costs too much."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.changing import ALLOWED, CHANGED, Line, line, verdict
from benchmarks.extraction import Spent

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.prefect
def test_it_prints_its_table_and_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    options = ["--rounds", "1", "--seconds", "1", "--clips", "2", "--encode-s", "0.05", "--out", str(out)]
    command = [sys.executable, "-m", "benchmarks.changing", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    # So little work on a shared machine may be found dear: then it must say so.
    assert done.returncode == (6 if "PROBLEM: over" in done.stdout else 0), done.stderr
    found = json.loads(out.read_text())
    assert [row["feature"] for row in found["rows"]] == [*CHANGED]
    for row in found["rows"]:
        assert row["feature"] in done.stdout
        assert min(row["alone_s"], row["changed_s"], row["all_s"]) > 0


def told(feature: str, ratio: float) -> Line:
    return Line(feature=feature, alone_s=1.0, changed_s=ratio, ratio=ratio, cpu_ratio=1.0, all_s=4.0)


def test_one_dear_change_decides() -> None:
    assert verdict((told("audio", ALLOWED), told("structure", 0.9))).passed
    dear = verdict((told("audio", 1.11), told("structure", 0.9)))
    assert not dear.passed
    assert "audio 1.11" in dear.text
    assert "structure" not in dear.text


def test_a_change_is_compared_with_the_feature_alone_of_its_round() -> None:
    rounds = [
        (Spent(10.0, 8.0, 2.0), Spent(40.0, 30.0, 2.0), Spent(11.0, 8.0, 4.0)),
        (Spent(20.0, 8.0, 2.0), Spent(50.0, 30.0, 2.0), Spent(20.0, 8.0, 2.0)),
        (Spent(10.0, 8.0, 2.0), Spent(60.0, 30.0, 2.0), Spent(30.0, 8.0, 3.0)),
    ]
    found = line("audio", rounds)
    assert (found.alone_s, found.changed_s, found.ratio, found.cpu_ratio, found.all_s) == (10.0, 20.0, 1.1, 1.1, 50.0)
