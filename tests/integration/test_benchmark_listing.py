"""The benchmark of lists runs, compares equal work, and writes what it prints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import listing

ROOT = Path(__file__).resolve().parents[2]


def test_it_prints_its_table_and_writes_it(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.listing", "--clips", "57", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["source"], row["way"]) for row in rows] == [
        (source, way) for source in ("celebvhq", "voxceleb", "urls") for way in ("raw", "streamed", "whole")
    ]
    assert all(row["clips"] == 57 and row["way"] in done.stdout for row in rows)
    assert {row["ratio"] for row in rows if row["way"] == "raw"} == {1.0}


@pytest.mark.parametrize("source", listing.WRITERS)
def test_its_lists_are_sound(source: str, tmp_path: Path) -> None:
    path = tmp_path / source
    listing.WRITERS[source](path, 23)
    assert listing.read_streamed(source, path) == listing.read_whole(source, path) == 23
    assert listing.tally(listing.make_source(listing.config_at(source, path)), "x").problems == ()


def test_it_stops_where_clips_are_missing(tmp_path: Path) -> None:
    listing.write_urls(tmp_path / "urls", 5)
    with pytest.raises(RuntimeError, match="cannot be compared"):
        listing.compare("urls", tmp_path / "urls", 6, 1)
