"""HDTF: `<subset>_video_url.txt` and `<subset>_annotion_time.txt` (the typing error is the data set's).

    RD_video_url.txt         Radio11 https://www.youtube.com/watch?v=XtySvTwIOfw
    RD_annotion_time.txt     Radio11.mp4 00:30-01:00 01:30-02:30
    RD_crop_wh.txt           Radio11_1.mp4 557 478 0 478
    RD_resolution.txt        Radio11.mp4 720

One clip per interval. A crop is x, width, y, height of the clip with that number (from 0) in pixels of a video as high
as the resolution file says; those two files may be missing, and a clip without a crop is a clip. The fifth file,
`_crop_ratio.txt`, is for enlarging a box of landmarks and not read. Names that lead to one and the same video share one
download, and their people count as one person, so that no footage can end on both sides of a split.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.records import Clip, CropBox, Span, safe_id
from tasks.sources.base import (
    WEB_SCHEMES,
    Entry,
    Line,
    ListingProblem,
    Source,
    SourceError,
    SourceSettings,
    Video,
    check_name,
    check_url,
    make_crop,
    make_span,
    parse_time,
    problem,
    read_lines,
    video_address,
)
from tasks.sources.rows import whole_number

URLS = "_video_url.txt"
TIMES = "_annotion_time.txt"
CROPS = "_crop_wh.txt"
HEIGHTS = "_resolution.txt"


class HdtfConfig(SourceSettings):
    """Where the lists of HDTF are, and which of them to take."""

    name: Literal["hdtf"] = "hdtf"
    folder: Path = Field(description="folder of the list files")
    subsets: tuple[str, ...] = Field(
        (), description="RD, WDA, WRA, or others that follow the format; empty: all there are"
    )
    schemes: tuple[str, ...] = Field(WEB_SCHEMES, min_length=1, description="URL schemes that lines may use")


@dataclass
class _Video:
    line: Line
    name: str
    url: str
    intervals: list[tuple[Line, str]] = field(default_factory=list)
    crops: dict[int, CropBox] = field(default_factory=dict)


class HdtfSource(Source):
    """The lists of HDTF."""

    name: ClassVar[str] = "hdtf"
    licence: ClassVar[str] = "CC BY 4.0"

    def __init__(self, config: HdtfConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """436 clips of 369 videos for the lists as published, 421 with a crop; what is odd about them as problems."""
        problems: list[ListingProblem] = []
        videos = [(subset, video) for subset in self._subsets() for video in self._read(subset, problems).values()]
        yield from problems
        video_ids: dict[str, str] = {}
        for subset, video in videos:
            video_ids.setdefault(video_address(video.url), safe_id(self.name, f"{subset}_{video.name}"))
        people = _people(video for _, video in videos)
        seen: set[str] = set()
        for subset, video in videos:
            yield Video(f"{subset}_{video.name}", video_address(video.url))
            found: list[tuple[Line, Clip]] = []
            for outcome in self._clips(subset, video, video_ids[video_address(video.url)], people[video.name]):
                if isinstance(outcome, ListingProblem):
                    yield outcome
                    continue
                line, clip = outcome
                if clip.clip_id in seen:
                    yield line.problem(self.name, f"{clip.span.start_s:g} to {clip.span.end_s:g} s: listed twice")
                    continue
                seen.add(clip.clip_id)
                found.append(outcome)
                yield clip
            yield from self._overlaps(found)

    def _overlaps(self, found: list[tuple[Line, Clip]]) -> Iterator[ListingProblem]:
        """Intervals of a video that begin before an earlier one has ended."""
        in_order = sorted(found, key=lambda outcome: outcome[1].span.start_s)
        longest: Span | None = None  # of those so far, the one that ends last
        for line, clip in in_order:
            if longest is not None and clip.span.start_s < (longest.end_s or 0.0):
                one, other = (f"{span.start_s:g} to {span.end_s:g} s" for span in (longest, clip.span))
                yield line.problem(self.name, f"{one} and {other} overlap: the same footage in two clips", lost=False)
            if longest is None or (clip.span.end_s or 0.0) > (longest.end_s or 0.0):
                longest = clip.span

    def _subsets(self) -> tuple[str, ...]:
        found = tuple(sorted(path.name.removesuffix(URLS) for path in self.config.folder.glob(f"*{URLS}")))
        missing = sorted(set(self.config.subsets) - set(found))
        if missing or not found:
            raise SourceError(
                f"{self.config.folder}: expected files {', '.join(f'{name}{URLS}' for name in missing) or f'*{URLS}'}, "
                f"found {', '.join(found) or 'none'}; check the source's folder and subsets"
            )
        return self.config.subsets or found

    def _read(self, subset: str, problems: list[ListingProblem]) -> dict[str, _Video]:
        """Videos of a subset by name, each with its intervals as text."""
        videos: dict[str, _Video] = {}
        for line in self._lines(self.config.folder / f"{subset}{URLS}", problems):
            try:
                video = self._video(line)
                if video.name in videos:
                    raise ValueError(f"{video.name} has a URL already, in line {videos[video.name].line.number}")
            except ValueError as error:
                problems.append(line.problem(self.name, str(error)))
            else:
                videos[video.name] = video
        times = self.config.folder / f"{subset}{TIMES}"
        if not times.is_file():
            problems.append(
                problem(self.name, times.name, 0, "", "no such file; none of the subset's videos has an interval")
            )
            return videos
        for line in self._lines(times, problems):
            name, *intervals = line.fields
            named = videos.get(name.removesuffix(".mp4"))
            if named is None:
                problems.append(line.problem(self.name, f"no usable URL for this name in {subset}{URLS}"))
            elif not intervals:
                problems.append(line.problem(self.name, "a name without an interval"))
            else:
                named.intervals += [(line, interval) for interval in intervals]
        self._read_crops(subset, videos, problems)
        return videos

    def _read_crops(self, subset: str, videos: dict[str, _Video], problems: list[ListingProblem]) -> None:
        """Give the videos the crops of their clips. What is wrong with one costs the crop, not the clip."""
        found: list[ListingProblem] = []
        heights: dict[str, float] = {}
        for line in self._lines_if_any(subset, HEIGHTS, found):
            try:
                name, height = _height(line)
                if heights.setdefault(name, height) != height:
                    raise ValueError(f"{name} has a height already, {heights[name]:g}")
            except ValueError as error:
                found.append(line.problem(self.name, str(error)))
        for line in self._lines_if_any(subset, CROPS, found):
            try:
                name, index, (left, width, top, height) = _crop(line)
                video = videos.get(name)
                if video is None or index >= len(video.intervals):
                    raise ValueError(f"a crop of clip {index} of {name}, which {subset}{TIMES} does not have")
                if index in video.crops:
                    raise ValueError(f"clip {index} of {name} has a crop already")
                frame = (None, heights.get(name))
                box, remarks = make_crop(left, top, left + width, top + height, frame)
                if box is not None:
                    video.crops[index] = box
                found += [line.problem(self.name, remark.message) for remark in remarks]
            except ValueError as error:
                found.append(line.problem(self.name, str(error)))
        problems += [one.model_copy(update={"lost": False}) for one in found]

    def _lines_if_any(self, subset: str, suffix: str, problems: list[ListingProblem]) -> Iterator[Line]:
        path = self.config.folder / f"{subset}{suffix}"
        return self._lines(path, problems) if path.is_file() else iter(())

    def _lines(self, path: Path, problems: list[ListingProblem]) -> Iterator[Line]:
        for line in read_lines(self.name, path):
            if isinstance(line, Line):
                yield line
            else:
                problems.append(line)

    def _video(self, line: Line) -> _Video:
        if len(line.fields) != 2:
            raise ValueError(f"expected a name and a URL, found {len(line.fields)} fields")
        name, url = line.fields
        return _Video(line, check_name(name.removesuffix(".mp4")), check_url(url, self.config.schemes))

    def _clips(
        self, subset: str, video: _Video, video_id: str, identity: str
    ) -> Iterator[tuple[Line, Clip] | ListingProblem]:
        usable = False
        for index, (line, interval) in enumerate(video.intervals):
            try:
                span = _span(interval)
            except ValueError as error:
                yield line.problem(self.name, f"interval {interval[:60]!r}: {error}")
                continue
            usable = True
            yield (
                line,
                Clip(
                    clip_id=safe_id(self.name, f"{subset}_{video.name}", *(round(second * 1000) for second in span)),
                    source=self.name,
                    video_id=video_id,
                    location=video.url,
                    span=Span(start_s=span[0], end_s=span[1]),
                    identity=identity,
                    licence=self.licence,
                    crop=video.crops.get(index),
                ),
            )
        if not usable:
            yield video.line.problem(self.name, f"no {'usable ' if video.intervals else ''}interval in {subset}{TIMES}")


def _height(line: Line) -> tuple[str, float]:
    if len(line.fields) != 2:
        raise ValueError(f"expected a name and a height, found {len(line.fields)} fields")
    height = whole_number(line.fields[1], "height")
    if height == 0:
        raise ValueError("a height of 0 pixels; crops of this video cannot be used")
    return line.fields[0].removesuffix(".mp4"), height


def _crop(line: Line) -> tuple[str, int, list[int]]:
    """Name, number of the clip, and x, width, y, height."""
    if len(line.fields) != 5:
        raise ValueError(f"expected a name and x, width, y, height, found {len(line.fields)} fields")
    name, _, index = line.fields[0].removesuffix(".mp4").rpartition("_")
    numbers = [whole_number(text, "crop") for text in line.fields[1:]]
    return name, whole_number(index, "number of the clip"), numbers


def _span(interval: str) -> tuple[float, float]:
    start, dash, end = interval.partition("-")
    if not dash:
        raise ValueError("expected start-end")
    span = make_span(parse_time(start), parse_time(end))
    assert span.end_s is not None
    return span.start_s, span.end_s


def person(name: str) -> str:
    """Who a video's name says it shows: without clip index and number (`JimMcGovern1` and `JimMcGovern` are one)."""
    return re.sub(r"\d+$", "", re.sub(r"_\d+$", "", name)) or name


def _people(videos: Iterator[_Video]) -> dict[str, str]:
    """Video name -> person; people who share a video are one, named for the first of them in the alphabet."""
    leader: dict[str, str] = {}

    def find(who: str) -> str:
        while leader.setdefault(who, who) != who:
            who = leader[who]
        return who

    names: list[str] = []
    seen_at: dict[str, str] = {}
    for video in videos:
        names.append(video.name)
        one = find(person(video.name))
        other = find(seen_at.setdefault(video_address(video.url), one))
        leader[max(one, other)] = min(one, other)
    return {name: find(person(name)) for name in names}
