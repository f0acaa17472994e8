"""Killed at any moment and started again, a run ends with the same snapshot, every clip once.

One run folder of the smoke demo is killed at named points one after the other, on local processes, so that a point in
a worker is reached at the same visit each time. Another, on Ray as the configuration says, at moments nobody chose.
"""

import random
import signal
import time
from pathlib import Path

import pytest

from dualforce_model import faults
from flows.server import PrefectServer
from tests.integration.demo_runs import LOCAL, assert_nothing_left, finish, start

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(2400)]

# In the order in which a run comes by; the numbers are visits, so that each kill finds something half done.
KILLS = (
    "download.before_rename",
    "download.after_rename:2",
    "ledger.before_commit",
    "ledger.after_commit:2",
    "crop.before_rename",
    "crop.after_rename:2",
    "shard.before_rename",
    "shard.after_rename:2",
    "snapshot.before_manifest",
    "snapshot.before_head",
    "snapshot.after_head",
    "checkpoint.before_rename",
    "checkpoint.after_rename:2",
)


def test_a_run_killed_everywhere_ends_like_an_undisturbed_one(tmp_path: Path, prefect_server: PrefectServer) -> None:
    calm = finish(tmp_path / "calm", LOCAL)
    out = tmp_path / "killed"
    # test_packing.py, test_text_encoding.py (both of texts and of notes) and test_pulling.py kill there
    elsewhere = ("pack.", "text.", "note.", "weights.")
    in_a_run = {point for point in faults.POINTS if not point.startswith(elsewhere)}
    assert {kill.split(":")[0] for kill in KILLS} == in_a_run, "every named point is killed at"
    for kill in KILLS:
        process = start(out, LOCAL, kill_at=kill)
        _, progress = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL, f"{kill} was never reached:\n{progress}"
        assert_nothing_left(out, process.pid)
    report = finish(out, LOCAL)
    assert report["snapshot"] == calm["snapshot"]
    assert report["clips"] == calm["clips"]
    assert report["lips"] == calm["lips"], "the same weights, the same noise, the same videos"
    again = finish(out, LOCAL)
    assert not again["computed"], "the same command twice: the second computes nothing"


def test_a_run_killed_at_random_moments_ends_like_an_undisturbed_one(
    tmp_path: Path, prefect_server: PrefectServer
) -> None:
    began = time.monotonic()
    calm = finish(tmp_path / "calm")
    usual_s = time.monotonic() - began
    moments, out = random.Random(5), tmp_path / "killed"
    for _ in range(5):
        process = start(out)
        time.sleep(moments.uniform(0.1, 0.9) * usual_s)
        process.kill()
        process.communicate(timeout=60)
        assert_nothing_left(out, process.pid)
    report = finish(out)
    assert (report["snapshot"], report["clips"]) == (calm["snapshot"], calm["clips"])
