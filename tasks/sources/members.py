"""Lists in JSON, one entry at a time: a file of any length is read with one entry and a small buffer in memory.

The file is one object of entries by name, or one array of them. A broken entry cannot be stepped over, for nobody knows
where it ends: the rest of the file is then one problem, with the line where reading stopped.
"""

import codecs
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tasks.sources.base import ListingProblem, open_list, problem

CHUNK_BYTES = 1 << 16
MAX_ENTRY_CHARS = 1 << 20
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Member:
    """One entry of a JSON list: its name (its number from 0 in an array), and whatever it holds."""

    file: str
    number: int  # line where it begins
    key: str
    value: Any

    def problem(self, source: str, message: str, *, lost: bool = True) -> ListingProblem:
        """This entry as a problem."""
        return problem(source, self.file, self.number, self.key, message, lost=lost)

    def mapping(self) -> dict[str, Any]:
        """The entry, if it is an object; else ValueError."""
        return mapping_of(self.value, "the entry")


def read_members(
    source: str, path: Path, *, inside: str = "", apart: Collection[str] = (), single: str = ""
) -> Iterator[Member | ListingProblem]:
    """Entries of a JSON file in order.

    Those of an object's member `inside` count as its own; members named in `apart` are stepped over. An object that has
    a member `single` is one entry itself.
    """
    with open_list(path) as file:
        text = _Text(file)
        try:
            yield from _top(path.name, text, inside, apart, single)
        except _BrokenError as error:
            message = f"{error}; the rest of the file cannot be read"
            yield problem(source, path.name, text.line, text.rest(), message)


class _BrokenError(Exception):
    pass


class _Text:
    """A file as text of which the part before `at` is gone, and what comes after is read when asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._json = json.JSONDecoder(parse_int=_int, parse_constant=lambda _: None)
        self._buffer, self._at, self._ended = "", 0, False
        self.line = 1
        self.peek()
        if self._buffer.startswith("\ufeff"):
            self._at = 1

    def rest(self) -> str:
        """The beginning of what was not read."""
        return self._buffer[self._at : self._at + 200]

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            while self._at < len(self._buffer):
                character = self._buffer[self._at]
                if character not in _SPACE:
                    return character
                self.line += character == "\n"
                self._at += 1
            if not self._more(CHUNK_BYTES):
                return ""

    def take(self, *expected: str) -> str:
        """The next character, which must be one of these."""
        found = self.peek()
        if found not in expected:
            wanted = " or ".join(expected)
            raise _BrokenError(f"expected {wanted}, found {repr(found) if found else 'the end of the file'}")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next JSON value."""
        self.peek()
        while True:
            try:
                found, end = self._json.raw_decode(self._buffer, self._at)
            except RecursionError as error:
                raise _BrokenError("brackets nested too deep") from error
            except ValueError as error:
                what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                if len(self._buffer) - self._at > MAX_ENTRY_CHARS:
                    raise _BrokenError(f"no whole entry in {MAX_ENTRY_CHARS} characters ({what})") from error
                if not self._more(max(CHUNK_BYTES, len(self._buffer) - self._at)):
                    raise _BrokenError(f"not JSON ({what})") from error
                continue
            if end == len(self._buffer) and self._more(CHUNK_BYTES):
                continue  # a number may go on
            self.line += self._buffer.count("\n", self._at, end)
            self._at = end
            return found

    def _more(self, num_bytes: int) -> bool:
        """Read on. False at the end of the file."""
        if self._ended:
            return False
        raw = self._file.read(num_bytes)
        self._ended = not raw
        self._buffer = self._buffer[self._at :] + self._decoder.decode(raw, final=self._ended)
        self._at = 0
        return True


def _int(digits: str) -> float:
    """Python refuses to read whole numbers of thousands of digits; no list has one."""
    return int(digits) if len(digits) <= 18 else math.inf


def _top(file: str, text: _Text, inside: str, apart: Collection[str], single: str) -> Iterator[Member | ListingProblem]:
    if text.peek() == "[":
        yield from _elements(file, text)
    elif single:
        line = text.line
        value = text.value()
        entry = isinstance(value, dict) and single in value
        if not entry:
            raise _BrokenError(f"expected an array of entries, or one entry with {single!r}")
        yield Member(file, line, "0", value)
    else:
        yield from _members(file, text, inside, apart)
    if text.peek():
        raise _BrokenError("more after the end of the list")


def _elements(file: str, text: _Text) -> Iterator[Member]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    index = 0
    while True:
        text.peek()
        line = text.line
        yield Member(file, line, str(index), text.value())
        index += 1
        if text.take(",", "]") == "]":
            return


def _members(file: str, text: _Text, inside: str, apart: Collection[str]) -> Iterator[Member]:
    text.take("{")
    if text.peek() == "}":
        text.take("}")
        return
    while True:
        text.peek()
        line = text.line
        key = text.value()
        if not isinstance(key, str):
            raise _BrokenError(f"expected a name in quotes, found {str(key)[:40]!r}")
        text.take(":")
        if key == inside and inside and text.peek() == "{":
            yield from _members(file, text, "", ())
        elif key in apart:
            text.value()
        else:
            yield Member(file, line, key, text.value())
        if text.take(",", "}") == "}":
            return


def mapping_of(value: object, what: str) -> dict[str, Any]:
    """A JSON object, or ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{what}: expected an object, found {_kind(value)}")
    return value


def text_of(value: object, what: str) -> str:
    """Text that is not empty, or ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what}: expected text, found {_kind(value)}")
    return value.strip()


def number_of(value: object, what: str) -> float:
    """A finite number, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{what}: expected a number, found {_kind(value)}")
    return float(value)


def whole_of(value: object, what: str) -> int:
    """A whole number, or ValueError."""
    found = number_of(value, what)
    if not found.is_integer() or abs(found) > 10**9:
        raise ValueError(f"{what}: expected a whole number, found {found:g}")
    return int(found)


def _kind(value: object) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return "nothing" if value is None else repr(value)[:40]
    if isinstance(value, str):
        return "text" if value.strip() else "empty text"
    return "an array" if isinstance(value, list) else "an object"
