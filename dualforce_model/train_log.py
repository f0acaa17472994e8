"""What a training run says while it runs: train_log.jsonl for machines, one line at a time for people."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.storage import append_line, write_text

LOG_NAME = "train_log.jsonl"
BAR_CHARS = 20


class LogRow(Frozen):
    """One line of train_log.jsonl."""

    step: int = Field(ge=1, description="optimizer steps done when this was written")
    values: dict[str, float] = Field(description="losses, learning rate, gradient norm, seconds")


def read_log(run_folder: Path) -> list[LogRow]:
    """Rows of a run's log by step; a last line torn by a kill is left out."""
    path = run_folder / LOG_NAME
    if not path.is_file():
        return []
    return list(_whole_rows(path.read_text(encoding="utf-8", errors="replace")))


def trim_log(run_folder: Path, step: int) -> None:
    """Drop what was logged after `step`: those steps are about to be done again."""
    rows = read_log(run_folder)
    kept = [row for row in rows if row.step <= step]
    path = run_folder / LOG_NAME
    if path.is_file():
        write_text(path, "".join(_line(row.step, row.values) + "\n" for row in kept))


def append_log(run_folder: Path, step: int, values: Mapping[str, float]) -> None:
    """Add one row; a value that is no number is written as text would be refused, so it is left out."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    append_line(run_folder / LOG_NAME, _line(step, finite))


def progress_line(step: int, num_steps: int, elapsed_s: float, done_here: int, loss: float) -> str:
    """`training  40%|########            | 120/300 [00:35<00:52, 3.4 steps/s, loss 0.71]`"""
    share = step / num_steps
    bar = "#" * round(share * BAR_CHARS)
    rate = done_here / elapsed_s if elapsed_s > 0 else 0.0
    left = _clock((num_steps - step) / rate) if rate else "??:??"
    return (
        f"training {share:4.0%}|{bar:<{BAR_CHARS}}| {step}/{num_steps} "
        f"[{_clock(elapsed_s)}<{left}, {rate:.2f} steps/s, loss {loss:.4f}]"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _line(step: int, values: Mapping[str, float]) -> str:
    return json.dumps({"step": step, "values": dict(values)}, separators=(",", ":"), allow_nan=False)


def _whole_rows(text: str) -> Iterator[LogRow]:
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            yield LogRow.model_validate_json(line)
        except ValueError as error:
            if number == len(lines) - 1:  # no line end: the writer was killed in the middle
                return
            raise ValueError(f"{LOG_NAME}, line {number + 1}: not a log row: {error}") from error
