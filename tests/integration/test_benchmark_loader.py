"""The loader benchmark runs on a toy, checks what it reads, and names what is left out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers.clips import NUM_STEPS, SHAPES, Pick, draw_picks, make_clip, rows_of
from dualforce_model import clock

ROOT = Path(__file__).resolve().parents[2]


def test_a_window_is_what_the_clock_says() -> None:
    pick = Pick(0, start=4, reference=2)
    first, last = clock.frames_of_step(4).start, clock.frames_of_step(3 + NUM_STEPS).stop
    assert rows_of("structure/motion", pick) == slice(first, last)
    assert rows_of("audio/tokens", pick) == slice(clock.num_audio_tokens(first), clock.num_audio_tokens(last))
    for size, shapes in SHAPES.items():
        for name, array in make_clip(size, 3).items():
            assert array.shape == shapes[name][0]
            for drawn in draw_picks(40, 3, seed=0):
                assert rows_of(name, drawn).indices(len(array))[1] <= len(array)
                assert len(array[rows_of(name, drawn)]) > 0


@pytest.mark.slow
def test_it_prints_its_table_and_names_what_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    words = ["--size", "small", "--clips", "4", "--picks", "3", "--rounds", "1", "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.loader", *words, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    sample = "dualforce, sample(): also converts and standardises"
    ways = ["dualforce", "dualforce, SnapshotDataset", sample, "row-major tar, index", "safetensors per clip"]
    assert [row["way"] for row in found["rows"]] == ways
    ratios = {row["way"]: (row["cold_ratio"], row["warm_ratio"]) for row in found["rows"]}
    assert (ratios["dualforce"], ratios[sample]) == ((1.0, 1.0), (None, None)), "a sample is not judged"
    assert all(ratio for way in ways if way != sample for ratio in ratios[way])
    assert "left out: mds: no --peers given" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"], "the clips are gone"
