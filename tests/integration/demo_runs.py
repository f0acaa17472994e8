"""Starts the smoke demo as a user would, and looks for what it leaves behind."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

SMOKE = "configs/demo/smoke.yaml"
LOCAL = "pipeline.pool.engine=local"
LIMIT_S = 1800
ASKED = ("DUALFORCE_KILL_AT", "DUALFORCE_DISK_FULL_AT")  # variables of dualforce_model/faults.py


def start(
    out: Path, *arguments: str, config: str = SMOKE, kill_at: str | None = None, full_at: str | None = None
) -> "subprocess.Popen[str]":
    """A demo in a folder, on its way; killed at a named point, or out of room from it on."""
    environment = {name: value for name, value in os.environ.items() if name not in ASKED}
    environment.update({name: value for name, value in zip(ASKED, (kill_at, full_at), strict=True) if value})
    command = [sys.executable, "-m", "flows.cli", "demo", "--config", config, "--out", str(out), "--json", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(out: Path, *arguments: str, config: str = SMOKE) -> dict[str, Any]:
    """The report of a demo that ends well."""
    process = start(out, *arguments, config=config)
    answer, progress = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, progress
    report: dict[str, Any] = json.loads(answer)
    return report


def assert_nothing_left(out: Path, *drivers: int) -> None:
    """No process of a run outlives it for long: none that names its folder, or a driver's private Ray folder."""
    words = (str(out), *[f"dualforce-ray-{driver}-" for driver in drivers])
    limit = time.monotonic() + 30
    while left := _naming(words):
        assert time.monotonic() < limit, f"still running: {left}"
        time.sleep(0.5)


def _naming(words: tuple[str, ...]) -> list[list[str]]:
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(word in part for part in line for word in words)]
