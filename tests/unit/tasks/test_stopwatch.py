"""Time spent adds up over calls, also over those that were killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualforce_model.errors import InputError
from tasks.stopwatch import NAME, read_seconds, spending

KILLED = """
import sys, time
from pathlib import Path
from tasks import stopwatch
stopwatch.NOTE_EVERY_S = 0.05
with stopwatch.spending(Path(sys.argv[1]), "train"):
    time.sleep(60)
"""


def spend(folder: Path, part: str, seconds: float) -> None:
    with spending(folder, part):
        time.sleep(seconds)


def test_calls_add_up_part_by_part(tmp_path: Path) -> None:
    spend(tmp_path, "curate", 0.2)
    spend(tmp_path, "train", 0.3)
    spend(tmp_path, "curate", 0.2)
    found = read_seconds(tmp_path)
    assert set(found) == {"curate", "train"}
    assert found["curate"] >= 0.4
    assert found["train"] >= 0.3


def test_a_part_with_nothing_to_do_costs_nothing_but_is_named(tmp_path: Path) -> None:
    for _ in range(2):
        with spending(tmp_path, "acquire") as spent:
            time.sleep(0.2)
            spent.idle = True
    assert read_seconds(tmp_path) == {"acquire": 0.0}


def test_a_part_that_fails_was_paid_for(tmp_path: Path) -> None:
    def fail() -> None:
        with spending(tmp_path, "train"):
            time.sleep(0.2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert read_seconds(tmp_path)["train"] >= 0.2


def test_a_killed_call_counts_as_far_as_it_was_noted(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    limit = time.monotonic() + 30
    while read_seconds(tmp_path).get("train", 0.0) < 0.5:
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = read_seconds(tmp_path)["train"]
    spend(tmp_path, "train", 0.2)
    assert read_seconds(tmp_path)["train"] >= killed + 0.2


def test_a_file_that_is_not_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("{")
    with pytest.raises(InputError, match=r"seconds\.json: not readable"):
        read_seconds(tmp_path)
    (tmp_path / NAME).write_text('{"parts": {"train": "long"}}')
    with pytest.raises(InputError, match=r"parts\.train"):
        read_seconds(tmp_path)


def test_where_nothing_ran_nothing_was_spent(tmp_path: Path) -> None:
    assert read_seconds(tmp_path / "none") == {}
