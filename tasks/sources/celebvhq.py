"""CelebV-HQ: `celebvhq_info.json`, or the same clips as CSV.

    {"meta_info": {...}, "clips": {"M2Ohb0FAaJU_1": {"ytb_id": "M2Ohb0FAaJU",
        "duration": {"start_sec": 81.62, "end_sec": 86.17},
        "bbox": {"top": 0.0, "bottom": 0.8815, "left": 0.1964, "right": 0.6922}, ...}}}

    ,VideoId,SaveIdName,Time,Bbox
    0,M2Ohb0FAaJU,M2Ohb0FAaJU_1.mp4,"(81.62, 86.17)","[0.0, 0.8815, 0.1964, 0.6922]"

Boxes are fractions of the frame. Attributes are not read: nothing here asks for them, and their types change from clip
to clip. Ids hold `_` and `-`, so a video's id is `ytb_id`, never a part of the key. CelebV-Text and MultiTalk publish
the same shape with other words.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.records import Clip, CropBox, safe_id
from tasks.sources.base import (
    Entry,
    Remark,
    Source,
    SourceSettings,
    check_name,
    make_crop,
    make_span,
    open_list,
    parsed,
    youtube_video,
)
from tasks.sources.members import Member, mapping_of, number_of, read_members, text_of
from tasks.sources.rows import Row, decimal, read_rows

COLUMNS = ("VideoId", "SaveIdName", "Time", "Bbox")
NO_CLIPS = ("meta_info", "mete_info")  # older copies of the list spell it so
SIDES = ("left", "top", "right", "bottom")

_BRACKETS = re.compile(r"[(\[]([^()\[\]]*)[)\]]")


class CelebvHqConfig(SourceSettings):
    """CelebV-HQ's list."""

    name: Literal["celebvhq"] = "celebvhq"
    file: Path = Field(description="celebvhq_info.json, or a CSV file with VideoId, SaveIdName, Time and Bbox")


class CelebvHqSource(Source):
    """The list of CelebV-HQ, and of what is published in its shape."""

    name: ClassVar[str] = "celebvhq"
    licence: ClassVar[str] = "non-commercial research"
    config: SourceSettings

    def __init__(self, config: Any) -> None:
        self.config = config
        self.file: Path = config.file

    def entries(self) -> Iterator[Entry]:
        """35,666 clips of 13,844 videos for the list as published; in its order."""
        with open_list(self.file) as file:
            begins = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        known: set[int] = set()
        if begins[:1] in (b"{", b"["):
            members = read_members(self.name, self.file, inside="clips", apart=NO_CLIPS)
            return parsed(self.name, members, lambda member: self._member(member, known))
        rows = read_rows(self.name, self.file, COLUMNS)
        return parsed(self.name, rows, lambda row: self._row(row, known))

    def who(self, fields: dict[str, Any]) -> str:
        """The YouTube id in an entry's fields."""
        return text_of(fields.get("ytb_id"), "ytb_id")

    def _member(self, member: Member, known: set[int]) -> Iterator[Clip | Remark]:
        fields = member.mapping()
        duration = mapping_of(fields.get("duration"), "duration")
        if "start_sec" not in duration and "start_frame" in duration:
            raise ValueError("a duration in frames, and no frame rate to make seconds of; expected start_sec, end_sec")
        span = (number_of(duration.get("start_sec"), "start_sec"), number_of(duration.get("end_sec"), "end_sec"))
        crop, remarks = _box(fields.get("bbox"))
        yield from remarks
        clip = self._clip(member.key, self.who(fields), span, crop)
        yield from _oddities(clip, member.key, self.who(fields), known)
        yield clip

    def _row(self, row: Row, known: set[int]) -> Iterator[Clip | Remark]:
        fields = row.fields()
        start_s, end_s = _numbers(fields["Time"], 2, "Time")
        top, bottom, left, right = _numbers(fields["Bbox"], 4, "Bbox")
        crop, remarks = _box({"left": left, "top": top, "right": right, "bottom": bottom})
        yield from remarks
        clip = self._clip(fields["SaveIdName"], fields["VideoId"], (start_s, end_s), crop)
        yield from _oddities(clip, fields["SaveIdName"], fields["VideoId"], known)
        yield clip

    def _clip(self, key: str, video: str, span: tuple[float, float], crop: CropBox | None) -> Clip:
        name = check_name(key.removesuffix(".mp4"))
        video_id, location = youtube_video(self.name, video)
        if span[0] < 0:
            raise ValueError(f"the interval begins at {span[0]:g} s, before the video")
        return Clip(
            clip_id=safe_id(self.name, name),
            source=self.name,
            video_id=video_id,
            location=location,
            span=make_span(*span),
            licence=self.licence,
            crop=crop,
        )


def _oddities(clip: Clip, key: str, video: str, known: set[int]) -> Iterator[Remark]:
    """`known` holds hashes of what earlier clips show: two that met by chance would cost a remark, no clip."""
    if not key.startswith(f"{video}_"):
        yield Remark(f"the name does not begin with the video's id, {video}; the id is believed")
    shown = hash((video, clip.span.start_s, clip.span.end_s, *(clip.crop or ())))
    if shown in known:
        yield Remark("the same time and box of the same video as an earlier clip, under another name")
    known.add(shown)


def _box(value: object) -> tuple[CropBox | None, tuple[Remark, ...]]:
    """A box of fractions, or of pixels of a frame of unknown size; what is wrong with it costs the box alone."""
    try:
        fields = mapping_of(value, "bbox")
        left, top, right, bottom = (number_of(fields.get(side), f"bbox {side}") for side in SIDES)
    except ValueError as error:
        return None, (Remark(f"no crop: {error}"),)
    fractions = max(left, top, right, bottom) <= 1.0
    return make_crop(left, top, right, bottom, (1.0, 1.0) if fractions else (None, None))


def _numbers(text: str, count: int, what: str) -> list[float]:
    found = _BRACKETS.fullmatch(text)
    parts = found[1].split(",") if found else []
    if len(parts) != count:
        raise ValueError(f"{what}: expected {count} numbers in brackets")
    return [decimal(part.strip(), what) for part in parts]
