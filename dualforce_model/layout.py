"""Rows of numbers by tables that have a name and a version.

Legend: T frames, m entries of a row. A table (`Layout`) is plain data and goes into the metadata of what is stored:
which entry is what never follows from an order that somebody has to know.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from pydantic import Field, model_validator

from dualforce_model.config import Frozen

STD_FLOOR = 1e-3  # an entry that never moves is centred, not blown up; a table whose units are smaller has its own


class Part(Frozen):
    """Some entries of a row that belong together."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="what the numbers are")
    start: int = Field(ge=0, description="its first entry")
    stop: int = Field(ge=1, description="the entry after its last")
    unit: str = Field(description="unit and order of the numbers")
    source: str = Field(description="who measures them")
    at_rest: tuple[int, ...] = Field((), description="entries, counted from start, that hold no signal")


class Layout(Frozen):
    """What each entry of a row is. Another order, meaning or width of anything is another version."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="as configurations spell it")
    version: int = Field(ge=1, description="rises with every change")
    parts: tuple[Part, ...] = Field(min_length=1, description="side by side, from entry 0, without gaps")
    std_floor: float = Field(STD_FLOOR, gt=0.0, le=1.0, description="least deviation that an entry is divided by")

    @model_validator(mode="after")
    def _side_by_side(self) -> Self:
        reached = 0
        for part in self.parts:
            if part.start != reached or part.stop <= part.start:
                raise ValueError(f"{part.name} is [{part.start}:{part.stop}]; expected one that starts at {reached}")
            if any(not 0 <= entry < part.stop - part.start for entry in part.at_rest):
                raise ValueError(f"{part.name}: at_rest {part.at_rest} is not inside of it")
            reached = part.stop
        if len({part.name for part in self.parts}) != len(self.parts):
            raise ValueError(f"parts are {[part.name for part in self.parts]}; expected each name once")
        return self

    @property
    def num_entries(self) -> int:
        """m, the width of a row."""
        return self.parts[-1].stop

    @property
    def active(self) -> Bool[np.ndarray, " m"]:
        """Entries that hold signal."""
        mask = np.ones(self.num_entries, np.bool_)
        for part in self.parts:
            mask[[part.start + entry for entry in part.at_rest]] = False
        return mask

    def join(self, fields: Mapping[str, Float[np.ndarray, "T n"]]) -> Float32[np.ndarray, "T m"]:
        """Rows of the named fields, unchanged. Raises ValueError unless they are the table's, of one length, finite."""
        names = [part.name for part in self.parts]
        if sorted(fields) != sorted(names):
            raise ValueError(f"fields are {sorted(fields)}: expected those of {self.name}, {sorted(names)}")
        count = len(fields[names[0]])
        for part in self.parts:
            expected = [count, part.stop - part.start]
            if list(fields[part.name].shape) != expected:
                raise ValueError(f"{self.name}.{part.name} is {list(fields[part.name].shape)}: expected {expected}")
        remedy = "whoever measured it is at fault"
        kept = [single(fields[name], f"{self.name}.{name}", remedy) for name in names]
        return np.concatenate(kept, axis=1)

    def split(self, rows: Float[np.ndarray, "T m"]) -> dict[str, Float32[np.ndarray, "T n"]]:
        """Inverse of `join`. Raises ValueError for rows of another width, or that hold no numbers."""
        if rows.ndim != 2 or rows.shape[1] != self.num_entries:
            raise ValueError(f"rows are {list(rows.shape)}: expected [T, {self.num_entries}], as in {self.name}")
        kept = single(rows, f"a row of {self.name}", "whoever made it is at fault")
        return {part.name: kept[:, part.start : part.stop] for part in self.parts}

    def floored(self, std: Float[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """Deviations to divide by: a data set's, none under the floor."""
        if std.shape != (self.num_entries,) or not (np.isfinite(std).all() and (std >= 0).all()):
            raise ValueError(f"deviations of shape {std.shape}: expected {self.num_entries} of {self.name}, 0 or more")
        return np.maximum(std.astype(np.float64), self.std_floor)


def single(numbers: Float[np.ndarray, "*n"], what: str, remedy: str) -> Float32[np.ndarray, "*n"]:
    """The numbers in 32 bits. Raises ValueError where that leaves no numbers."""
    with np.errstate(over="ignore"):  # what is too large becomes infinity, and that is refused
        kept: np.ndarray = numbers.astype(np.float32)
    if not np.isfinite(kept).all():
        raise ValueError(f"{what} holds NaN, infinity, or more than 32 bits can; {remedy}")
    return kept
