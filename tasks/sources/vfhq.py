"""VFHQ: a folder of small text files, one per clip, named for what they cut.

    Clip+uWZRSkqJ--g+P0+C2+F8754-8865.txt

    H 1080
    W 1920
    FPS 25.0
    CROP 455 0 1103 648

The name is the video, the person in it, the clip and its frames, first and last, both part of it. Ids hold minus signs,
so names are split at `+`, and frames at the last `-`. Of a line the first word counts, and the last (of CROP the last
four): corners in pixels of a picture of W x H. Some downloaders leave out the first and the last frame, others do not:
`inset: 1` does. A person's number means nothing outside the video, so no identity is known.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.records import Clip, safe_id
from tasks.sources.base import (
    Entry,
    Line,
    ListingProblem,
    Remark,
    Source,
    SourceError,
    SourceSettings,
    make_crop,
    make_frames,
    parsed,
    problem,
    read_lines,
    youtube_video,
)
from tasks.sources.rows import decimal, whole_number

MAX_LINES = 64
WORDS = {"H": 1, "W": 1, "FPS": 1, "CROP": 4}

_NAME = re.compile(r"Clip\+(?P<video>[^+]+)\+P(?P<person>\d+)\+C(?P<clip>\d+)\+F(?P<first>\d+)-(?P<last>\d+)", re.ASCII)


class VfhqConfig(SourceSettings):
    """VFHQ's list."""

    name: Literal["vfhq"] = "vfhq"
    folder: Path = Field(description="folder of the text files, or the one above it that holds meta_info")
    inset: int = Field(0, ge=0, le=1, description="frames to leave out at both ends; 1: as some downloaders do")
    licence: str = Field("unknown", max_length=200, description="licence of the videos, if you know it")


@dataclass(frozen=True)
class _File:
    path: Path

    def problem(self, source: str, message: str, *, lost: bool = True) -> ListingProblem:
        shown = os.fsencode(self.path.name).decode("utf-8", "backslashreplace")
        return problem(source, shown, 0, shown, message, lost=lost)


class VfhqSource(Source):
    """VFHQ's list."""

    name: ClassVar[str] = "vfhq"
    licence: ClassVar[str] = "unknown"

    def __init__(self, config: VfhqConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per file, by name."""
        inner = self.config.folder / "meta_info"
        folder = inner if inner.is_dir() else self.config.folder
        if not folder.is_dir():
            raise SourceError(f"{folder}: no such folder; check the source's folder")
        names = sorted(name for name in os.listdir(folder) if name.endswith(".txt"))
        if not names:
            raise SourceError(f"{folder}: expected files Clip+*.txt, found none; check the source's folder")
        return parsed(self.name, (_File(folder / name) for name in names), self._clip)

    def _clip(self, file: _File) -> Iterator[Clip | Remark]:
        named = _NAME.fullmatch(file.path.stem)
        if named is None:
            raise ValueError("expected a name like Clip+uWZRSkqJ--g+P0+C2+F8754-8865.txt")
        video_id, location = youtube_video(self.name, named["video"])
        fields = self._fields(file.path)
        first, last = (whole_number(named[end], f"{end} frame") for end in ("first", "last"))
        frames, span = make_frames(
            first + self.config.inset, last + 1 - self.config.inset, decimal(fields["FPS"][0], "FPS")
        )
        height, width = (decimal(fields[side][0], side) for side in ("H", "W"))
        if not (0 < height <= 1e6 and 0 < width <= 1e6):
            raise ValueError(f"a picture of {width:g} x {height:g}")
        left, top, right, bottom = (decimal(word, "CROP") for word in fields["CROP"])
        crop, remarks = make_crop(left, top, right, bottom, (width, height))
        yield from remarks
        yield Clip(
            clip_id=safe_id(self.name, file.path.stem.removeprefix("Clip+")),
            source=self.name,
            video_id=video_id,
            location=location,
            span=span,
            licence=self.config.licence,
            frames=frames,
            crop=crop,
        )

    def _fields(self, path: Path) -> dict[str, list[str]]:
        """The words that count, by the first of their line. Raises ValueError naming the line."""
        fields: dict[str, list[str]] = {}
        try:
            lines = read_lines(self.name, path)
            for number, line in enumerate(lines):
                if not isinstance(line, Line) or number >= MAX_LINES:
                    raise ValueError(line.message if isinstance(line, ListingProblem) else f"over {MAX_LINES} lines")
                word, *rest = line.fields
                word = word.rstrip(":")
                if word not in WORDS:
                    continue  # what else such a file may say is not for us
                if len(rest) < WORDS[word] or word in fields:
                    raise ValueError(f"line {line.number}: expected {WORDS[word]} numbers once, after {word}")
                fields[word] = rest[-WORDS[word] :]
        except SourceError as error:
            raise ValueError(f"cannot be read: {error}") from error
        if missing := sorted(set(WORDS) - set(fields)):
            raise ValueError(f"no line with {' or '.join(missing)}")
        return fields
