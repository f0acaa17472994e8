"""What every source has in common: a listing of clips and of the lines that could not become clips.

A list comes from strangers. Whatever its bytes are, each line that is not blank ends as a clip or as a problem with
file and line number; reading it never raises, except where the list itself is missing, or where a strict config asks
for a list without problems.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, model_validator

from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from tasks.records import Clip, CropBox, Frames, Quarantined, Reason, Span, Stage, safe_id

MAX_LINE_BYTES = 8192
MAX_NAME_CHARS = 200
MAX_URL_CHARS = 2048
MAX_SPAN_S = 1_000_000.0
WEB_SCHEMES = ("http", "https")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # half a surrogate pair is no text
_SPACE = re.compile(r"\s")
_CLOCK_TIME = re.compile(r"(?:(\d{1,3}):)?(\d{1,5}):(\d{2}(?:\.\d{1,6})?)", re.ASCII)
_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}", re.ASCII)
_PASSWORD = re.compile(r"//[^/@\s]*@")


class SourceError(InputError):
    """A list that is not there or cannot be opened; the message names it and what to change."""


class ListingProblem(Frozen):
    """One line of a list, or one file of a folder, that cannot become a clip."""

    source: str = Field(description="name of the data set's list, as in SOURCES")
    file: str = Field(max_length=300, description="name of the list file, or path relative to the folder")
    line: int = Field(ge=0, description="line in the file, from 1; 0: the file as a whole")
    text: str = Field(max_length=200, description="beginning of the line, with odd characters escaped")
    message: str = Field(max_length=1000, description="what was found and what was expected")
    lost: bool = Field(True, description="no clip came of it; else the clip is there, and something about it is odd")

    @property
    def reason(self) -> Reason:
        """The same for all: the list is at fault."""
        return Reason.BAD_LISTING

    @property
    def problem_id(self) -> str:
        """An id as safe and as stable as a clip's."""
        return safe_id(self.source, f"{self.file}-{self.line}", self.text, self.message)

    def text_line(self) -> str:
        """The problem in one line, for people."""
        return f"{self._said}{'' if self.lost else ' (the clip is listed)'}"

    def quarantined(self) -> Quarantined:
        """The problem as a verdict, for tables that hold clips and problems alike."""
        return Quarantined(clip_id=self.problem_id, stage=Stage.ACQUIRE, reason=self.reason, measured=self._said)

    @property
    def _said(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{where}: {self.message}"


class Listing(Frozen):
    """Everything a list says: its clips in the list's order, and its problems."""

    clips: tuple[Clip, ...] = ()
    problems: tuple[ListingProblem, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Self:
        twice = [clip_id for clip_id, count in Counter(clip.clip_id for clip in self.clips).items() if count > 1]
        if twice:
            raise ValueError(f"a listing holds each clip once; found twice: {twice[:5]}")
        return self


@dataclass(frozen=True)
class Video:
    """A video that a list names, whether or not clips come of it."""

    name: str
    address: str  # what makes two names the same video


Entry = Clip | ListingProblem | Video


class SourceSettings(Frozen):
    """What the config of every source holds."""

    strict: bool = Field(
        False, description="a list with any problem is refused as a whole; else problems are told and the rest is taken"
    )


class Source(Protocol):
    """One data set's list. A new one is a file with such a class, its config, and its lines in `SOURCES`."""

    name: ClassVar[str]
    licence: ClassVar[str]
    local: ClassVar[bool] = False  # its videos lie on this machine and are used where they are
    config: Any

    def __init__(self, config: Any) -> None: ...

    def entries(self) -> Iterator[Entry]:
        """Read the list, holding as little of it as the format allows; no clip id comes twice.

        Raises SourceError if there is no list; a bad line is a problem, never an exception.
        """
        ...

    def listing(self) -> Listing:
        """The whole list at once. Raises SourceError if there is none, or if it has problems and must not."""
        clips: list[Clip] = []
        problems = self.read(clips.append)
        return Listing(clips=tuple(clips), problems=problems)

    def read(self, take: Callable[[Clip], None]) -> tuple[ListingProblem, ...]:
        """Hand over each clip as it is read; the problems. Raises SourceError as `listing` does, at the end."""
        problems: list[ListingProblem] = []
        for entry in self.entries():
            if isinstance(entry, Clip):
                take(entry)
            elif isinstance(entry, ListingProblem):
                problems.append(entry)
        if problems and self.config.strict:
            first = problems[0]
            raise SourceError(
                f"{len(problems)} problems in a list that must have none, the first in {first.file}, line "
                f"{first.line}: {first.message}; mend the list, or set strict: false to take the rest"
            )
        return tuple(problems)


class Record(Protocol):
    """A line or another unit of a list, able to say what is wrong with it."""

    def problem(self, source: str, message: str, *, lost: bool = True) -> ListingProblem: ...


@dataclass(frozen=True)
class Remark:
    """What is odd about a record whose clip is listed all the same."""

    message: str


RecordT = TypeVar("RecordT", bound=Record)


def parsed(
    source: str,
    records: Iterable[RecordT | ListingProblem],
    parse: Callable[[RecordT], Iterable[Clip | Remark]],
) -> Iterator[Clip | ListingProblem]:
    """Clips of a list's records, in order. A ValueError of `parse` is a record's problem; so is a clip seen before."""
    seen: set[str] = set()
    for record in records:
        if isinstance(record, ListingProblem):
            yield record
            continue
        try:
            for found in parse(record):
                if isinstance(found, Remark):
                    yield record.problem(source, found.message, lost=False)
                elif found.clip_id in seen:
                    yield record.problem(source, f"listed twice: {_span_text(found.span)} of the same video")
                else:
                    seen.add(found.clip_id)
                    yield found
        except ValueError as error:
            yield record.problem(source, str(error))


def _span_text(span: Span) -> str:
    return f"{span.start_s:g} s to {'the end' if span.end_s is None else f'{span.end_s:g} s'}"


# ---------------------------------------------------------------------------------------------------- lines and fields


@dataclass(frozen=True)
class Line:
    """One line of a list file that could be read; `text` is stripped of white space at both ends."""

    file: str
    number: int
    text: str

    @property
    def fields(self) -> list[str]:
        """Parts between spaces or tabs, at least one. Other white space is part of a field."""
        return re.split(r"[ \t]+", self.text)

    def problem(self, source: str, message: str, *, lost: bool = True) -> ListingProblem:
        """This line as a problem."""
        return problem(source, self.file, self.number, self.text, message, lost=lost)


def problem(source: str, file: str, number: int, text: str, message: str, *, lost: bool = True) -> ListingProblem:
    """A problem whose texts are short, printable and free of passwords."""
    return ListingProblem(
        source=source,
        file=printable(file, 280),
        line=number,
        text=printable(_PASSWORD.sub("//***@", text), 180),
        message=printable(_PASSWORD.sub("//***@", message), 900),
        lost=lost,
    )


def printable(text: str, limit: int) -> str:
    """Text fit for a table: control characters and lone surrogates escaped, cut to about `limit` characters."""
    shown = text[:limit].encode("utf-8", "backslashreplace").decode()
    shown = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 3] + "..."


def open_list(path: Path) -> BinaryIO:
    """A list file, to read. Raises SourceError if there is none."""
    if not path.is_file():  # a pipe would be waited for without end
        raise SourceError(f"{path}: {'not a' if path.exists() else 'no such'} file; check the source's file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise SourceError(f"{path}: the list cannot be opened ({error.strerror}); check source settings") from error


def read_lines(source: str, path: Path, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line | ListingProblem]:
    """Lines of a list that are not blank: UTF-8, with or without byte-order mark, any line end, last one optional."""
    with open_list(path) as file:
        number = 0
        while raw := file.readline(max_bytes + 1):
            number += 1
            if len(raw) > max_bytes and not raw.endswith(b"\n"):
                while (rest := file.readline(max_bytes)) and not rest.endswith(b"\n"):
                    pass
                shown = raw.decode("utf-8", "replace")
                yield problem(source, path.name, number, shown, f"a line is over {max_bytes} bytes long")
                continue
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw.strip():
                yield _line(source, path.name, number, raw)


def _line(source: str, file: str, number: int, raw: bytes) -> Line | ListingProblem:
    try:
        text = raw.decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        shown = raw.decode("utf-8", "backslashreplace")
        return problem(source, file, number, shown, f"not UTF-8 at byte {error.start} of the line")
    if found := _CONTROL.search(text.replace("\t", " ")):
        return problem(source, file, number, text, f"control character {found[0]!r} in the line")
    return Line(file, number, text)


def parse_time(text: str) -> float:
    """Seconds from `mm:ss`, `hh:mm:ss`, either with a fraction, or plain seconds. Raises ValueError."""
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    found = _CLOCK_TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"time {printable(text, 40)!r}: expected mm:ss, hh:mm:ss or seconds")
    hours, minutes, seconds = int(found[1] or 0), int(found[2]), float(found[3])
    if seconds >= 60 or (found[1] is not None and minutes >= 60):
        raise ValueError(f"time {text!r}: more than 59 minutes or seconds")
    return 3600.0 * hours + 60.0 * minutes + seconds


def make_span(start_s: float, end_s: float | None) -> Span:
    """A span, or ValueError in the words of a list."""
    if end_s is not None and end_s <= start_s:
        raise ValueError(f"the interval ends at {end_s:g} s, not after its start at {start_s:g} s")
    if max(start_s, end_s or 0.0) > MAX_SPAN_S:
        raise ValueError(f"the interval reaches beyond {MAX_SPAN_S:g} s")
    return Span(start_s=start_s, end_s=end_s)


def make_frames(first: int, end: int, fps: float) -> tuple[Frames, Span]:
    """Frame numbers of a list, from `first` up to but without `end`, and the same in seconds; or ValueError."""
    if not 0.0 < fps <= 1000.0:
        raise ValueError(f"{fps:g} frames per second: expected more than 0, at most 1000")
    if not 0 <= first < end <= 10**9:
        raise ValueError(f"frames {first} to {end}: expected a first one and a later end")
    return Frames(first=first, end=end, fps=fps), make_span(first / fps, end / fps)


def make_crop(
    left: float, top: float, right: float, bottom: float, frame: tuple[float | None, float | None]
) -> tuple[CropBox | None, tuple[Remark, ...]]:
    """A crop box in a frame of this width and height, or none, and what is wrong: faces can be found without it."""
    if not 0 <= left < right <= 1e6 or not 0 <= top < bottom <= 1e6:
        corners = f"{left:g}, {top:g} to {right:g}, {bottom:g}"
        return None, (Remark(f"a crop from {corners}: expected a box inside the picture"),)
    box = CropBox(left=left, top=top, right=right, bottom=bottom, frame_width=frame[0], frame_height=frame[1])
    return box, (Remark(f"the crop cannot be used: {box.flaw}"),) if box.flaw else ()


def check_name(name: str) -> str:
    """The name of a video as the list writes it, or ValueError. Hostile names are fine: ids are made safe."""
    if not name or len(name) > MAX_NAME_CHARS or _CONTROL.search(name):
        raise ValueError(f"name {printable(name, 40)!r}: expected 1 to {MAX_NAME_CHARS} characters, none of control")
    return name


def check_url(url: str, schemes: Collection[str] = WEB_SCHEMES) -> str:
    """A URL that may be handed to the downloader, or ValueError saying what is wrong with it."""
    if not url or len(url) > MAX_URL_CHARS:
        raise ValueError(f"URL of {len(url)} characters; expected 1 to {MAX_URL_CHARS}")
    if _SPACE.search(url) or _CONTROL.search(url):
        raise ValueError("white space or a control character in the URL")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from error
    if parts.scheme.lower() not in schemes:
        raise ValueError(f"scheme {printable(parts.scheme, 20)!r}; expected {' or '.join(schemes)} (setting schemes)")
    if not host:
        raise ValueError("a URL without a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user name or password; secrets belong in the environment (see cookies_env)")
    return url


@lru_cache(maxsize=1024)  # lists cut many clips from one video, mostly one after the other
def youtube_id(url: str) -> str | None:
    """The `v` of a YouTube URL, wherever it stands among the parameters; none for any other URL."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.")
    if host == "youtube.com":
        return parse_qs(parts.query).get("v", [None])[0]
    return (parts.path.strip("/") or None) if host == "youtu.be" else None


def watch_url(video_id: str) -> str:
    """The address of a YouTube video by its id, or ValueError. Ids may begin with a minus: never pass them bare."""
    if not _YOUTUBE_ID.fullmatch(video_id):
        raise ValueError(f"YouTube id {printable(video_id, 40)!r}: expected 11 letters, digits, - or _")
    return f"https://www.youtube.com/watch?v={video_id}"


@lru_cache(maxsize=1024)
def youtube_video(source: str, video_id: str) -> tuple[str, str]:
    """Our id and the address of a YouTube video, or ValueError."""
    return safe_id(source, video_id), watch_url(video_id)


@lru_cache(maxsize=1024)
def video_address(url: str) -> str:
    """What makes two URLs the same video: the YouTube id, else all but the fragment. Compared, never part of an id."""
    found = youtube_id(url)
    return f"youtube:{found}" if found else urlsplit(url)._replace(fragment="").geturl()
