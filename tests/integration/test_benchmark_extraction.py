"""The benchmark of extraction runs on clips that it makes, does the same work every way, and writes what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.extraction import ALLOWED_BEYOND, Line, Spent, lines, verdict

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.prefect
def test_it_prints_its_table_and_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    options = ["--rounds", "1", "--seconds", "1", "--clips", "3", "--encode-s", "0.1", "--workers", "2"]
    command = [sys.executable, "-m", "benchmarks.extraction", *options, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    # A few cheap clips on a shared machine may be found slow: then it must say so.
    assert done.returncode == (6 if "PROBLEM: 1 worker makes" in done.stdout else 0), done.stderr
    found = json.loads(out.read_text())
    assert [row["way"] for row in found["rows"]] == [
        "plain loop",
        "1 worker, nothing decoded ahead",
        "1 worker",
        "2 workers",
    ]
    for row in found["rows"]:
        assert row["way"] in done.stdout
        assert min(row["wall_s"], row["encode_s"], row["clips_per_s"]) > 0
    assert found["rows"][0]["clips_per_s"] == 1.0


def line(clips_per_s: float, beyond: float) -> Line:
    seconds = {"wall_s": 1.0, "encode_s": 1.0, "other_s": 0.1, "server_s": 0.0}
    return Line(way="1 worker", clips_per_s=clips_per_s, beyond=beyond, **seconds)


def test_one_worker_decides() -> None:
    assert verdict((line(1.0, ALLOWED_BEYOND),)).passed
    slow, dear = verdict((line(0.99, 0.0),)), verdict((line(1.5, 0.051),))
    assert not slow.passed
    assert not dear.passed
    assert "0.99 times" in slow.text
    assert "5.1%" in dear.text


def test_ways_are_compared_with_the_plain_loop_of_their_round() -> None:
    plain = [Spent(10.0, 8.0, 2.0), Spent(20.0, 8.0, 2.0), Spent(10.0, 8.0, 2.0)]
    ours = [Spent(5.0, 10.0, 2.25, 0.25), Spent(10.0, 10.0, 2.25, 0.25), Spent(10.0, 10.0, 9.0)]
    base, found = lines({"plain loop": plain, "1 worker": ours})
    assert (base.clips_per_s, base.beyond) == (1.0, 0.0)
    assert (found.clips_per_s, found.beyond) == (2.0, 0.05)
