"""TalkVid: `filtered_video_clips_with_captions.json`, an array of entries (or one entry alone).

    {"id": "videovideoTr6MMsoWAog-scene1-scene1", "height": 1080, "width": 1920, "fps": 24.0,
     "start-time": 0.1, "start-frame": 0, "end-time": 5.141666666666667, "end-frame": 121, "durations": "5.042s",
     "info": {"Person ID": "597", "Video Link": "https://www.youtube.com/watch?v=Tr6MMsoWAog", ...},
     "description": "The provided image sequence shows an older man in a suit, likely being interviewed ...", ...}

The times are believed. Frames count at a rate that may not be the file's, and in the published example begin 0.1 s
before the times do; they are kept where they agree that far. The id doubles its prefix, so the video's is taken from
the link, and the description is the caption. The list has no crops; sizes and scores are not read, for all of that is
measured anew.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from dualforce_model.captions import clean_caption
from tasks.records import Clip, safe_id
from tasks.sources.base import (
    Entry,
    Remark,
    Source,
    SourceSettings,
    check_name,
    check_url,
    make_frames,
    make_span,
    parsed,
    youtube_id,
    youtube_video,
)
from tasks.sources.members import Member, mapping_of, number_of, read_members, text_of, whole_of

CLOSE_S = 0.15  # how far frames, and the length as text, may be from what the times say

_SECONDS = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s?", re.ASCII)


class TalkVidConfig(SourceSettings):
    """TalkVid's list."""

    name: Literal["talkvid"] = "talkvid"
    file: Path = Field(description="filtered_video_clips_with_captions.json, or a part of it")


class TalkVidSource(Source):
    """TalkVid's list."""

    name: ClassVar[str] = "talkvid"
    licence: ClassVar[str] = "CC BY-NC 4.0"

    def __init__(self, config: TalkVidConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per entry, in the list's order."""
        return parsed(self.name, read_members(self.name, self.config.file, single="id"), self._clip)

    def _clip(self, member: Member) -> Iterator[Clip | Remark]:
        fields = member.mapping()
        name = check_name(text_of(fields.get("id"), "id"))
        info = mapping_of(fields.get("info"), "info")
        video = youtube_id(check_url(text_of(info.get("Video Link"), "Video Link"))) or ""
        video_id, location = youtube_video(self.name, video)
        start_s, end_s = (number_of(fields.get(end), end) for end in ("start-time", "end-time"))
        if start_s < 0:
            raise ValueError(f"start-time {start_s:g}: before the video")
        span = make_span(start_s, end_s)
        told = fields.get("description")
        clip = Clip(
            clip_id=safe_id(self.name, name),
            source=self.name,
            video_id=video_id,
            location=location,
            span=span,
            identity=_person(info.get("Person ID")),
            licence=self.licence,
            caption=clean_caption(told) or None if isinstance(told, str) else None,
        )
        if not (told is None or isinstance(told, str)):
            yield Remark(f"the description is not used: expected text, found {str(told)[:40]!r}")
        yield from _checked(clip, fields, end_s - start_s)


def _checked(clip: Clip, fields: dict[str, Any], length_s: float) -> Iterator[Clip | Remark]:
    """The clip with its frames, and what of the entry contradicts its times."""
    try:
        first, end = (whole_of(fields.get(which), which) for which in ("start-frame", "end-frame"))
        frames, counted = make_frames(first, end, number_of(fields.get("fps"), "fps"))
        counted_s = (counted.end_s or 0.0) - counted.start_s
        if max(abs(counted_s - length_s), abs(counted.start_s - clip.span.start_s)) > CLOSE_S:
            raise ValueError(f"{frames.first} to {frames.end} at {frames.fps:g} fps begin or end elsewhere")
        clip = clip.model_copy(update={"frames": frames})
    except ValueError as error:
        yield Remark(f"the frames are not used, the times are: {error}")
    stated = _SECONDS.fullmatch(str(fields.get("durations")))
    if stated is None or abs(float(stated[1]) - length_s) > CLOSE_S:
        yield Remark(f"durations {str(fields.get('durations'))[:40]!r}: expected {length_s:.3f}s by the times")
    yield clip


def _person(value: object) -> str | None:
    """Text in the list as published; a number in case somebody rewrote it; none where it is not known."""
    if value is None or value == "":
        return None
    return check_name(str(whole_of(value, "Person ID")) if not isinstance(value, str) else value.strip())
