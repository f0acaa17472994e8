"""Everything that can be said of a MOVA checkpoint without running it, as a report."""

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from dualforce_model.config import Frozen
from dualforce_model.mova.checkpoint import CheckpointError, Part, inspect
from dualforce_model.mova.defaults import DefaultRow, compare
from dualforce_model.mova.files import Problem
from dualforce_model.mova.trial import TrialReport

MEGABYTE = 1e6
Progress = Callable[[str], None]


class ComponentRow(Frozen):
    """What one component is made of."""

    component: str = Field(description="folder of the checkpoint")
    num_parameters: int = Field(ge=0, description="numbers in its tensors")
    num_tensors: int = Field(ge=0, description="tensors in its files")
    num_files: int = Field(ge=0, description="weight files")
    num_bytes: int = Field(ge=0, description="size of its tensors as stored, bytes")
    dtypes: dict[str, int] = Field(description="tensors per stored type")
    read_s: float | None = Field(None, ge=0, description="seconds to load it; null: not loaded")


class MovaReport(Frozen):
    """What was found in a checkpoint."""

    checkpoint: str = Field(description="folder")
    components: tuple[ComponentRow, ...] = Field(description="one row per component with weights")
    defaults: tuple[DefaultRow, ...] = Field(description="where upstream's code defaults differ, and where not")
    problems: tuple[Problem, ...] = Field(description="what keeps it from working")
    trial: TrialReport | None = Field(None, description="a run of it; null: none was asked for, or it cannot run")

    def text(self) -> str:
        """For people."""
        lines = [f"{self.checkpoint}: {'works' if not self.problems else f'{len(self.problems)} problems'}", ""]
        total = sum(row.num_parameters for row in self.components)
        header = ("component", "parameters", "tensors", "files", "MB", "stored as", "loaded")
        rows = [
            (
                row.component, f"{row.num_parameters:,}", str(row.num_tensors), str(row.num_files),
                f"{row.num_bytes / MEGABYTE:,.1f}", ", ".join(f"{kind} x {num}" for kind, num in row.dtypes.items()),
                "no" if row.read_s is None else f"{row.read_s:.1f} s",
            )
            for row in self.components
        ]  # fmt: skip
        lines += columns((header, *rows, ("all", f"{total:,}", "", "", "", "", "")))
        wrong = [row for row in self.defaults if row.wrong]
        if self.defaults:
            lines += ["", f"Code defaults that would have been wrong: {len(wrong)} of {len(self.defaults)} compared"]
            lines += columns(
                (("component", "field", "code default", "checkpoint"),
                *((row.component, row.field, row.code, row.checkpoint) for row in wrong))
            )  # fmt: skip
        if self.trial is not None:
            lines += ["", f"Ran: {self.trial.text()}"]
        if self.problems:
            lines += ["", "Problems", *(f"  {problem}" for problem in self.problems)]
        return "\n".join(lines)


def columns(rows: tuple[tuple[str, ...], ...]) -> list[str]:
    """Rows of a table, aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def verify(root: Path, load: bool = True, progress: Progress = lambda line: None) -> MovaReport:
    """Check files, shapes and types of a checkpoint by its own settings; load its components one at a time.

    A component whose files are wrong is not loaded. Loading finds unreadable tensors and numbers that are not finite.
    """
    progress("reading settings and headers")
    found = inspect(root)
    problems = list(found.problems)
    seconds: dict[str, float] = {}
    broken = {problem.file.partition("/")[0] for problem in problems}
    for folder, part in found.parts.items():
        if load and part.weights.tensors and folder not in broken:
            progress(f"loading {folder} ({part.weights.num_bytes / MEGABYTE:,.1f} MB)")
            start = time.monotonic()
            problems += _load(root, part)
            seconds[folder] = time.monotonic() - start
    return MovaReport(
        checkpoint=str(root),
        components=tuple(_row(part, seconds.get(folder)) for folder, part in found.parts.items() if part.weights.files),
        defaults=compare({folder: part.told for folder, part in found.parts.items()}),
        problems=tuple(problems),
    )


def _row(part: Part, read_s: float | None) -> ComponentRow:
    weights = part.weights
    return ComponentRow(
        component=part.component.folder,
        num_parameters=sum(math.prod(tensor.shape) for tensor in weights.tensors.values()),
        num_tensors=len(weights.tensors),
        num_files=len(weights.files),
        num_bytes=weights.num_bytes,
        dtypes=dict(sorted(Counter(tensor.dtype for tensor in weights.tensors.values()).items())),
        read_s=read_s,
    )


def _load(root: Path, part: Part) -> list[Problem]:
    """Load a component and let it go again; gives what is wrong with its numbers."""
    problems: list[Problem] = []

    def look(name: str, tensor: Tensor) -> None:
        if not bool(torch.isfinite(tensor).all()):
            place = f"{part.component.folder}/{part.weights.tensors[name].path.name}"
            problems.append(Problem(file=place, subject=name, message="holds numbers that are not finite"))

    try:
        if part.component.build is None:
            for name, tensor in part.tensors(root):
                look(name, tensor)
        else:
            part.load(root, torch.bfloat16, torch.device("cpu"), look)
    except CheckpointError as error:
        problems += error.problems
    return problems
