"""Killed at any moment and started again, a run ends with the same snapshot, every clip once.

One run folder of the smoke demo is killed at named points one after the other, then at moments nobody chose.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dualforce_model import faults
from flows.server import PrefectServer

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


def start(out: Path, kill_at: str | None = None) -> "subprocess.Popen[str]":
    environment = dict(os.environ)
    environment.pop("DUALFORCE_KILL_AT", None)
    if kill_at:
        environment["DUALFORCE_KILL_AT"] = kill_at
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "demo",
        "--config",
        "configs/demo/smoke.yaml",
        "--out",
        str(out),
        "--json",
    ]
    return subprocess.Popen(
        [*command, "pipeline.pool.engine=local"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(out: Path) -> dict[str, Any]:
    process = start(out)
    answer, progress = process.communicate(timeout=600)
    assert process.returncode == 0, progress
    report: dict[str, Any] = json.loads(answer)
    return report


def assert_nothing_left(out: Path) -> None:
    """No process of a killed run outlives it for long."""
    limit = time.monotonic() + 20
    while True:
        left = [
            p
            for p in psutil.process_iter(["pid", "cmdline"])
            if any(str(out) in part for part in p.info["cmdline"] or [])
        ]
        if not left:
            return
        assert time.monotonic() < limit, f"still running: {[p.info for p in left]}"
        time.sleep(0.5)


def test_a_run_killed_everywhere_ends_like_an_undisturbed_one(tmp_path: Path, prefect_server: PrefectServer) -> None:
    calm = finish(tmp_path / "calm")
    out = tmp_path / "killed"
    assert {kill.split(":")[0] for kill in KILLS} == set(faults.POINTS), "every named point is killed at"
    for kill in KILLS:
        process = start(out, kill)
        _, progress = process.communicate(timeout=600)
        assert process.returncode == -signal.SIGKILL, f"{kill} was never reached:\n{progress}"
        assert_nothing_left(out)
    report = finish(out)
    assert report["snapshot"] == calm["snapshot"]
    assert report["clips"] == calm["clips"]
    assert report["lips"] == calm["lips"], "the same weights, the same noise, the same videos"
    again = finish(out)
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
        assert_nothing_left(out)
    report = finish(out)
    assert (report["snapshot"], report["clips"]) == (calm["snapshot"], calm["clips"])
