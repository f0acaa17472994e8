"""Lists in CSV: a header that names the columns, then one record per line.

Fields are read line by line: a quoted field cannot hold a line end, so a quote that is never closed costs one line.
"""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.sources.base import MAX_LINE_BYTES, Line, ListingProblem, read_lines


@dataclass(frozen=True)
class Row:
    """A line under a header."""

    line: Line
    columns: tuple[str, ...]

    def fields(self) -> dict[str, str]:
        """Column name -> field, without white space around it. Raises ValueError for a line that is no row."""
        values = split_row(self.line)
        if len(values) != len(self.columns):
            raise ValueError(f"expected {len(self.columns)} fields ({', '.join(self.columns)}), found {len(values)}")
        return {column: value.strip() for column, value in zip(self.columns, values, strict=True)}

    def problem(self, source: str, message: str, *, lost: bool = True) -> ListingProblem:
        """This row as a problem."""
        return self.line.problem(source, message, lost=lost)


def split_row(line: Line) -> list[str]:
    """The fields of a line of CSV, or ValueError."""
    try:
        return next(csv.reader([line.text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"not a line of CSV: {error}") from error


def read_rows(
    source: str, path: Path, needed: Collection[str], max_bytes: int = MAX_LINE_BYTES
) -> Iterator[Row | ListingProblem]:
    """Rows below the header, which must name the needed columns; lines before it are problems."""
    columns: tuple[str, ...] | None = None
    for line in read_lines(source, path, max_bytes):
        if not isinstance(line, Line):
            yield line
        elif columns is not None:
            yield Row(line, columns)
        else:
            try:
                columns = header_of(line, needed)
            except ValueError as error:
                yield line.problem(source, str(error))


def header_of(line: Line, needed: Collection[str]) -> tuple[str, ...]:
    """The columns that a line names, or ValueError if some are missing or named twice."""
    columns = tuple(column.strip() for column in split_row(line))
    if missing := [column for column in needed if column not in columns]:
        raise ValueError(f"expected a header with the columns {', '.join(needed)}; missing: {', '.join(missing)}")
    if len(set(columns)) != len(columns):
        raise ValueError("a header that names a column twice")
    return columns


def whole_number(text: str, what: str) -> int:
    """A whole number of a list, without sign, or ValueError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ValueError(f"{what} {text[:40]!r}: expected a whole number of at most 9 digits")
    return int(text)


def decimal(text: str, what: str) -> float:
    """A number of a list, or ValueError; no sign but minus, no exponent, no infinity."""
    digits = text.removeprefix("-").replace(".", "", 1)
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise ValueError(f"{what} {text[:40]!r}: expected a number")
    return float(text)
