"""The benchmark of full ledgers runs, finds nothing to do on them, and writes what it prints."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import scale
from tasks.accounting import account, each_fate
from tasks.ledger import Ledger
from tasks.policy import load_policy
from tasks.records import Stage

ROOT = Path(__file__).resolve().parents[2]


def test_it_prints_its_table_and_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.scale", "--clips", "60", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["work"] for row in rows] == list(scale.WORKS)
    assert all(row["clips"] == 60 and row["work"] in done.stdout for row in rows)


def test_its_ledger_has_every_outcome_at_every_stage(tmp_path: Path) -> None:
    scale.fill(tmp_path, 200)
    run = scale.run_at(tmp_path)
    with Ledger(run.place.ledger_url) as ledger:
        for stage in Stage:
            assert {row.state for row in ledger.stream("scale", stage)} == {"done", "impossible", "failed"}


def test_its_snapshot_is_of_all_that_passed_and_a_build_finds_it(tmp_path: Path) -> None:
    scale.fill(tmp_path, 200)
    run = scale.run_at(tmp_path)
    with Ledger(run.place.ledger_url) as ledger:
        counts = account(each_fate(ledger, "scale", load_policy(run.policy), run.extract))
    assert 0 < counts.passed < 200
    assert scale.WORKS["snapshot again"](tmp_path) == counts.passed
    assert scale.WORKS["clips"](tmp_path) == 200
