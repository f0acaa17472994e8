"""A benchmark's verdict: the worst work counts, and nothing is demanded where nothing was asked."""

import math
from pathlib import Path

import pytest

from benchmarks.generation import useful_flops
from benchmarks.measure import TOO_SLOW, Bench, Row, verdict
from dualforce_model.dry_run import Workload
from dualforce_model.model import PRESETS


def row(work: str, way: str, ratio: float) -> Row:
    return Row(work=work, way=way, milliseconds=1.0, ratio=ratio, peak_mb=0.0)


ROWS = [row("a", "theirs", 1.0), row("a", "ours", 0.9), row("b", "theirs, level", 1.0), row("b", "ours", 1.06)]


def test_the_worst_work_decides() -> None:
    found = verdict(ROWS, "ours", 1.05)
    assert found is not None
    assert not found.passed
    assert found.text == "PROBLEM: ours, at worst 1.060 of the time of theirs, level (b); 1.05 allowed"
    passed = verdict(ROWS[:2], "ours", 1.05)
    assert passed is not None
    assert passed.passed
    assert passed.text.startswith("OK: ours, at worst 0.900")


def test_nothing_is_demanded_where_nothing_was_asked() -> None:
    assert verdict(ROWS, "", math.inf) is None


@pytest.mark.parametrize(("allowed", "code"), [(1.05, TOO_SLOW), (1.06, None)])
def test_too_slow_ends_with_exit_code_six(
    allowed: float, code: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench("x", gpu=False, rounds=1, out=tmp_path / "x.json")
    bench.rows = list(ROWS)
    if code is None:
        bench.finish("ours", allowed)
    else:
        with pytest.raises(SystemExit) as ended:
            bench.finish("ours", allowed)
        assert ended.value.code == code == 6
    assert ("PROBLEM" in capsys.readouterr().out) == (code is not None)
    assert (tmp_path / "x.json").is_file()


def test_useful_work_of_generation_is_less_in_a_window_and_grows_with_length() -> None:
    tiny = PRESETS["tiny"].model_copy(update={"window_steps": 2})
    short, long = (Workload(crop_px=64, num_steps=steps) for steps in (4, 12))
    whole = tiny.model_copy(update={"window_steps": 12})
    assert 0 < useful_flops(tiny, short) < useful_flops(tiny, long) < useful_flops(whole, long)
