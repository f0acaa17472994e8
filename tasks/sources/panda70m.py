"""Panda-70M: CSV with a row per video, whose lists are written as Python writes them.

    videoID,url,timestamp,caption,matching_score[,desirable_filtering,shot_boundary_detection]
    -1hTK0wGrTg,https://...,"[['0:00:19.227', '0:00:28.278'], ...]","['The speaker ...', ...]","[0.509, ...]"

One clip per pair of times. They are read by pattern, never evaluated; scores are only counted. Where there is not one
caption for each pair nobody knows whose they are, so none is used. Ids begin with a minus sign in places. The list says
nothing of people or crops.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from dualforce_model.captions import clean_caption
from tasks.records import Clip, safe_id
from tasks.sources.base import (
    Entry,
    Remark,
    Source,
    SourceSettings,
    check_url,
    make_span,
    parse_time,
    parsed,
    youtube_id,
    youtube_video,
)
from tasks.sources.rows import Row, read_rows

COLUMNS = ("videoID", "url", "timestamp", "caption", "matching_score")
MAX_ROW_BYTES = 131_072  # what the CSV reader takes in one field

_PAIR = r"\[\s*'([0-9:.]{1,16})'\s*,\s*'([0-9:.]{1,16})'\s*\]"
_PAIRS = re.compile(rf"\[\s*{_PAIR}(?:\s*,\s*{_PAIR})*\s*\]", re.ASCII)
_EACH_PAIR = re.compile(_PAIR, re.ASCII)
_TEXT = r"""(?:'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")"""
_TEXTS = re.compile(rf"\[\s*{_TEXT}(?:\s*,\s*{_TEXT})*+\s*\]")  # never goes back: a hostile list costs no time
_EACH_TEXT = re.compile(_TEXT)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_PLAIN = {"n": "\n", "r": "\r", "t": "\t"}  # what else Python escapes stands for itself


class Panda70mConfig(SourceSettings):
    """A list of Panda-70M."""

    name: Literal["panda70m"] = "panda70m"
    file: Path = Field(description="one of the CSV files, e.g. panda70m_validation.csv")


class Panda70mSource(Source):
    """A list of Panda-70M."""

    name: ClassVar[str] = "panda70m"
    licence: ClassVar[str] = "non-commercial research"

    def __init__(self, config: Panda70mConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per pair of times; 6,000 of 2,000 videos for the validation list as published."""
        return parsed(self.name, read_rows(self.name, self.config.file, COLUMNS, MAX_ROW_BYTES), self._clips)

    def _clips(self, row: Row) -> Iterator[Clip | Remark]:
        fields = row.fields()
        video = fields["videoID"]
        video_id, location = youtube_video(self.name, video)
        if (linked := youtube_id(check_url(fields["url"]))) != video:
            raise ValueError(f"the URL is that of another video, {str(linked)[:40]!r}")
        times = fields["timestamp"]
        if not _PAIRS.fullmatch(times):
            raise ValueError(f"timestamp {times[:60]!r}: expected [['0:00:19.227', '0:00:28.278'], ...]")
        pairs = _EACH_PAIR.findall(times)
        captions = _EACH_TEXT.findall(fields["caption"]) if _TEXTS.fullmatch(fields["caption"]) else []
        scores = fields["matching_score"].count(",") + 1
        if not len(pairs) == len(captions) == scores:
            counted = f"{len(pairs)} intervals, {len(captions)} captions, {scores} scores"
            yield Remark(f"{counted}: one of each was expected")
        for index, (start, end) in enumerate(pairs):
            try:
                span = make_span(parse_time(start), parse_time(end))
            except ValueError as error:
                yield Remark(f"interval {index} is left out: {error}")
                continue
            yield Clip(
                clip_id=safe_id(self.name, video, round(span.start_s * 1000), round((span.end_s or 0.0) * 1000)),
                source=self.name,
                video_id=video_id,
                location=location,
                span=span,
                licence=self.licence,
                caption=_caption(captions[index]) if len(captions) == len(pairs) else None,
            )


def _caption(quoted: str) -> str | None:
    """A caption out of its quotes, escapes undone; none if nothing is left of it."""
    return clean_caption(_ESCAPE.sub(_unescaped, quoted[1:-1])) or None


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    if code is None:
        return _PLAIN.get(escape[4], escape[4])
    number = int(code, 16)
    return chr(number) if number <= sys.maxunicode else "\ufffd"
