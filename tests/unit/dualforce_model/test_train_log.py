"""The log of a run survives kills and resumes."""

from pathlib import Path

import pytest

from dualforce_model.train_log import LOG_NAME, append_log, progress_line, read_log, trim_log


def test_rows_are_read_back_and_nonsense_is_left_out(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    append_log(tmp_path, 10, {"loss": 0.5, "seconds": float("nan")})
    append_log(tmp_path, 20, {"loss": 0.25})
    assert [(row.step, row.values) for row in read_log(tmp_path)] == [(10, {"loss": 0.5}), (20, {"loss": 0.25})]


def test_a_resumed_run_repeats_no_step(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        append_log(tmp_path, step, {"loss": 1.0 / step})
    trim_log(tmp_path, 20)
    append_log(tmp_path, 30, {"loss": 7.0})
    assert [row.step for row in read_log(tmp_path)] == [10, 20, 30]
    assert read_log(tmp_path)[-1].values == {"loss": 7.0}


def test_a_line_torn_by_a_kill_is_left_out_and_mended(tmp_path: Path) -> None:
    append_log(tmp_path, 10, {"loss": 1.0})
    with open(tmp_path / LOG_NAME, "ab") as file:
        file.write(b'{"step":20,"val')
    assert [row.step for row in read_log(tmp_path)] == [10]
    trim_log(tmp_path, 20)
    append_log(tmp_path, 20, {"loss": 2.0})
    assert [row.step for row in read_log(tmp_path)] == [10, 20]


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_text('nonsense\n{"step":20,"values":{}}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_log(tmp_path)


def test_the_progress_line_says_how_long_it_will_take() -> None:
    line = progress_line(step=120, num_steps=300, elapsed_s=40.0, done_here=80, loss=0.71234)
    assert line == "training  40%|########            | 120/300 [00:40<01:30, 2.00 steps/s, loss 0.7123]"
    assert "1:00:05<" in progress_line(1, 2, 3605, 1, 0.0)
