"""MEAD: a folder of videos, in the layout of its release or of the common copies at 256 px, or a copy's list of frames.

    M003/video/left_30/angry/level_3/001.mp4                                  the release
    M030_front_angry_level3_001.mp4                                           copies
    M003/M003_01_1_output_01/000.jpg 0 0 M003/M003_73_1_output_01/150.jpg 7 0  frames

Paths say actor, view, emotion, level and take; lines say a frame, its emotion and level, a target frame and, except in
the test list, the target's. Videos are used where they are, each as a whole; the actor is the identity. Many copies
have no sound, which curate finds out. A list of frames becomes one clip per sequence, `<folder>/<sequence>.mp4`.
"""

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
    Remark,
    Source,
    SourceSettings,
    parsed,
    read_lines,
)
from tasks.sources.folder import LocalFile, local_root, local_target, walk
from tasks.sources.rows import whole_number

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
EMOTIONS = ("angry", "disgust", "contempt", "fear", "happy", "sad", "surprised", "neutral")  # ids 0 to 7 of the lists
ALSO = {"disgusted": "disgust"}
VIEWS = ("front", "down", "top", "left_30", "left_60", "right_30", "right_60")

_ACTOR = re.compile(r"[MW]\d{3}", re.ASCII)
_COPY = re.compile(
    r"(?P<actor>[MW]\d{3})_(?P<view>[a-z]+(?:_\d\d)?)_(?P<emotion>[a-z]+)_level(?P<level>\d)_(?P<take>\d{1,6})"
)
_FRAME = re.compile(
    r"(?P<sequence>(?P<actor>[MW]\d{3})/(?P=actor)_[A-Za-z0-9_]{1,80})/(?P<number>\d{1,6})\.(?:jpg|png)"
)


class MeadConfig(SourceSettings):
    """MEAD's videos, or those that a list of frames names."""

    name: Literal["mead"] = "mead"
    folder: Path = Field(description="folder of the videos")
    frame_list: Path | None = Field(None, description="video_list.txt of a copy; none: every video of the folder")
    licence: str = Field("unknown", max_length=200, description="licence of the videos, if you know it")


class MeadSource(Source):
    """MEAD's videos, or those that a list of frames names."""

    name: ClassVar[str] = "mead"
    licence: ClassVar[str] = "unknown"
    local: ClassVar[bool] = True

    def __init__(self, config: MeadConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per video file, by path; or one per sequence of the list, in its order."""
        root = local_root(self.config.folder)
        if self.config.frame_list is None:
            return parsed(self.name, walk(self.name, root, SUFFIXES), self._video)
        sequences = _Sequences()
        lines = read_lines(self.name, self.config.frame_list)
        return parsed(self.name, lines, lambda line: self._sequence(line, root, sequences))

    def _video(self, file: LocalFile) -> Iterator[Clip | Remark]:
        take = _take(file)
        name = f"{take.actor}_{take.view}_{take.emotion}_level{take.level}_{take.number}"
        if take.emotion == "neutral" and take.level != "1":
            yield Remark(f"neutral at level {take.level}; MEAD has it at level 1 only")
        yield self._clip(name, take.actor, local_target(file.path, file.root))

    def _sequence(self, line: Line, root: Path, known: "_Sequences") -> Iterator[Clip | Remark]:
        if len(line.fields) not in (4, 6):
            raise ValueError(f"expected 4 or 6 fields, found {len(line.fields)}")
        source, emotion, level, target, *rest = line.fields
        frame = _frame(source)
        _frame(target)  # a target is to move towards, not to learn from: that it is well formed is enough
        for which, top in ((emotion, len(EMOTIONS) - 1), (level, 3), *zip(rest, (len(EMOTIONS) - 1, 3), strict=False)):
            if whole_number(which, "emotion or level") > top:
                raise ValueError(f"emotion or level {which}: expected 0 to {top}")
        sequence = frame["sequence"]
        begins, oddity = known.follow(sequence, int(frame["number"]))
        if oddity:
            yield Remark(oddity)
        if begins:
            yield self._clip(sequence.rpartition("/")[2], frame["actor"], root / f"{sequence}.mp4")

    def _clip(self, name: str, actor: str, path: Path) -> Clip:
        clip_id = safe_id(self.name, name)
        return Clip(
            clip_id=clip_id,
            source=self.name,
            video_id=clip_id,
            location=path.as_uri(),
            identity=actor,
            licence=self.config.licence,
        )


@dataclass(frozen=True)
class _Take:
    actor: str
    view: str
    emotion: str
    level: str
    number: str


def _take(file: LocalFile) -> _Take:
    """What a path says, in either layout, or ValueError."""
    stem = file.path.stem
    copy = _COPY.fullmatch(stem)
    if copy is not None:
        take = _Take(copy["actor"], copy["view"], copy["emotion"], copy["level"], copy["take"])
    else:
        folders = ("",) * 5 + file.parts[:-1]
        actor, view, emotion, level = folders[-5] if folders[-4] == "video" else folders[-4], *folders[-3:]
        if not (_ACTOR.fullmatch(actor) and re.fullmatch(r"level_\d", level, re.ASCII) and stem.isdecimal()):
            raise ValueError("expected M003/video/front/angry/level_1/001.mp4, or M003_front_angry_level1_001.mp4")
        take = _Take(actor, view, emotion, level[-1], stem)
    emotion = ALSO.get(take.emotion, take.emotion)
    if emotion not in EMOTIONS or take.view not in VIEWS or take.level not in "123":
        raise ValueError(
            f"view {take.view[:20]!r}, emotion {take.emotion[:20]!r}, level {take.level!r}: expected one of "
            f"{', '.join(VIEWS)}; {', '.join(EMOTIONS)}; 1 to 3"
        )
    return _Take(take.actor, take.view, emotion, take.level, take.number)


def _frame(text: str) -> re.Match[str]:
    found = _FRAME.fullmatch(text)
    if found is None:
        raise ValueError(f"frame {text[:60]!r}: expected actor/sequence/number.jpg")
    return found


class _Sequences:
    """Which sequences a list of frames has named so far, and how far the one at hand has come."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._last = ("", -1)

    def follow(self, sequence: str, number: int) -> tuple[bool, str]:
        """Whether this frame begins a sequence, and what is odd about its place in it."""
        before, last = self._last
        self._last = (sequence, number)
        if sequence == before:
            return False, "" if number == last + 1 else f"frame {number} follows frame {last}"
        if sequence in self._seen:
            return False, "a frame of a sequence that was left before"
        self._seen.add(sequence)
        return True, "" if number == 0 else f"the sequence begins at frame {number}, not 0"
