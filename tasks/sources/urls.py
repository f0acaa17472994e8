"""Any list of URLs: one per line, or CSV with a header.

    url,start,end,name
    https://example.org/talk.mp4,00:54.5,01:01.5,ada

`url` is needed, the rest is not; `Start Timecode` and `End Timecode` are understood as well (EMTD's list). Without a
header each line is one URL. Fields are read line by line: a quoted field cannot hold a line end.

A video's id is made of its `name` where there is one, else of a digest of the URL's path and query (of the YouTube id
alone for YouTube), so that a mirror on another host or port keeps all ids. The host being no part of it, two URLs that
differ in the host alone need names; without, the second is a problem.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from tasks.records import Clip, Span, safe_id
from tasks.sources.base import (
    WEB_SCHEMES,
    Entry,
    Line,
    ListingProblem,
    Source,
    SourceSettings,
    check_name,
    check_url,
    make_span,
    parse_time,
    parsed,
    read_lines,
    video_address,
    youtube_id,
)
from tasks.sources.rows import Row


class UrlsConfig(SourceSettings):
    """A file of URLs."""

    name: Literal["urls"] = "urls"
    file: Path = Field(description="text file: one URL per line, or CSV with the columns url, start, end, name")
    schemes: tuple[str, ...] = Field(WEB_SCHEMES, min_length=1, description="URL schemes that lines may use")
    licence: str = Field("unknown", max_length=200, description="licence of the videos, if you know it")


class UrlsSource(Source):
    """A file of URLs."""

    name: ClassVar[str] = "urls"
    licence: ClassVar[str] = "unknown"

    def __init__(self, config: UrlsConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per line, in the file's order."""
        addresses: dict[str, str] = {}  # video id -> the video that has it

        def parse(record: Row) -> Iterator[Clip]:
            bare = record.columns == ("url",)
            clip = self._clip({"url": record.line.text} if bare else record.fields())
            if addresses.setdefault(clip.video_id, address := video_address(clip.location)) != address:
                raise ValueError("the name, or the path without a name, is that of another URL; give each its own name")
            yield clip

        return parsed(self.name, self._rows(), parse)

    def _rows(self) -> Iterator[Row | ListingProblem]:
        columns: tuple[str, ...] | None = None
        for line in read_lines(self.name, self.config.file):
            if isinstance(line, Line) and columns is None:
                header = _header(line)
                columns = header or ("url",)
                if header:
                    continue
            yield Row(line, columns or ("url",)) if isinstance(line, Line) else line

    def _clip(self, fields: dict[str, str]) -> Clip:
        url = check_url(fields["url"], self.config.schemes)
        parts = (check_name(fields["name"]),) if fields.get("name") else ("video", _address_digest(url))
        span = _span(fields.get("start", ""), fields.get("end", ""))
        whole = span == Span()
        ends = () if whole else (round(span.start_s * 1000), "" if span.end_s is None else round(span.end_s * 1000))
        return Clip(
            clip_id=safe_id(self.name, *parts, *ends),
            source=self.name,
            video_id=safe_id(self.name, *parts),
            location=url,
            span=span,
            licence=self.config.licence,
        )


def _header(line: Line) -> tuple[str, ...] | None:
    """Column names if this line is a header."""
    columns = tuple(column.strip().lower().removesuffix(" timecode") for column in line.text.split(","))
    return columns if "url" in columns and "://" not in line.text else None


def _span(start: str, end: str) -> Span:
    return make_span(parse_time(start) if start else 0.0, parse_time(end) if end else None)


@lru_cache(maxsize=1024)  # the next line is often another clip of the same video
def _address_digest(url: str) -> str:
    """Of what names a video on its host: a mirror gives the same."""
    parts = urlsplit(url)
    address = youtube_id(url) or f"{parts.path}?{parts.query}"
    return hashlib.sha256(address.encode()).hexdigest()
