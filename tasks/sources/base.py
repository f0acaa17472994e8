"""What every source has in common: a listing of clips and of the lines that could not become clips.

A list comes from strangers. Whatever its bytes are, each line that is not blank ends as a clip or as a problem with
file and line number; reading it never raises, except where the list itself is missing.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, model_validator

from dualforce_model.config import Frozen
from dualforce_model.errors import InputError
from tasks.records import Clip, Quarantined, Reason, Span, Stage, safe_id

MAX_LINE_BYTES = 8192
MAX_NAME_CHARS = 200
MAX_URL_CHARS = 2048
MAX_SPAN_S = 1_000_000.0
SHORTEST_PIECE_S = 2.0  # shorter clips are dropped by every policy, so none is cut on purpose
WEB_SCHEMES = ("http", "https")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CLOCK_TIME = re.compile(r"(?:(\d{1,3}):)?(\d{1,5}):(\d{2}(?:\.\d{1,6})?)", re.ASCII)
_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,6})?", re.ASCII)
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

    @property
    def reason(self) -> Reason:
        """The same for all: the list is at fault."""
        return Reason.BAD_LISTING

    @property
    def problem_id(self) -> str:
        """An id as safe and as stable as a clip's."""
        return safe_id(self.source, f"{self.file}-{self.line}", self.text, self.message)

    def quarantined(self) -> Quarantined:
        """The problem as a verdict, for tables that hold clips and problems alike."""
        measured = f"{self.file}, line {self.line}: {self.message}"
        return Quarantined(clip_id=self.problem_id, stage=Stage.ACQUIRE, reason=self.reason, measured=measured)


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


class Source(Protocol):
    """One data set's list. A new one is a file with such a class, its config, and its lines in `SOURCES`."""

    name: ClassVar[str]
    licence: ClassVar[str]

    def __init__(self, config: Any) -> None: ...

    def listing(self) -> Listing:
        """Read the list. Raises SourceError if there is none; a bad line is a problem, never an exception."""
        ...


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

    def problem(self, source: str, message: str) -> ListingProblem:
        """This line as a problem."""
        return problem(source, self.file, self.number, self.text, message)


def problem(source: str, file: str, number: int, text: str, message: str) -> ListingProblem:
    """A problem whose texts are short, printable and free of passwords."""
    return ListingProblem(
        source=source,
        file=printable(file, 280),
        line=number,
        text=printable(_PASSWORD.sub("//***@", text), 180),
        message=printable(_PASSWORD.sub("//***@", message), 900),
    )


def printable(text: str, limit: int) -> str:
    """Text fit for a table: control characters and lone surrogates escaped, cut to about `limit` characters."""
    shown = text[:limit].encode("utf-8", "backslashreplace").decode()
    shown = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 3] + "..."


def read_lines(source: str, path: Path) -> Iterator[Line | ListingProblem]:
    """Lines of a list that are not blank: UTF-8, with or without byte-order mark, any line end, last one optional."""
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below; the two kinds of failure differ)
    except OSError as error:
        raise SourceError(f"{path}: the list cannot be opened ({error.strerror}); check source settings") from error
    with file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                shown = raw.decode("utf-8", "replace")
                yield problem(source, path.name, number, shown, f"a line is over {MAX_LINE_BYTES} bytes long")
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


def check_name(name: str) -> str:
    """The name of a video as the list writes it, or ValueError. Hostile names are fine: ids are made safe."""
    if not name or len(name) > MAX_NAME_CHARS or _CONTROL.search(name):
        raise ValueError(f"name {printable(name, 40)!r}: expected 1 to {MAX_NAME_CHARS} characters, none of control")
    return name


def check_url(url: str, schemes: Collection[str] = WEB_SCHEMES) -> str:
    """A URL that may be handed to the downloader, or ValueError saying what is wrong with it."""
    if not url or len(url) > MAX_URL_CHARS:
        raise ValueError(f"URL of {len(url)} characters; expected 1 to {MAX_URL_CHARS}")
    if any(character.isspace() for character in url) or _CONTROL.search(url):
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


def youtube_id(url: str) -> str | None:
    """The `v` of a YouTube URL, wherever it stands among the parameters; none for any other URL."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.")
    if host == "youtube.com":
        return parse_qs(parts.query).get("v", [None])[0]
    return (parts.path.strip("/") or None) if host == "youtu.be" else None


def video_address(url: str) -> str:
    """What makes two URLs the same video: the YouTube id, else all but the fragment. Compared, never part of an id."""
    found = youtube_id(url)
    return f"youtube:{found}" if found else urlsplit(url)._replace(fragment="").geturl()


# ------------------------------------------------------------------------------------------------------------- cutting


def cut_spans(clip: Clip, duration_s: float, max_clip_s: float) -> tuple[Clip, ...]:
    """Training clips of a listed span, in order: none longer than `max_clip_s`, nothing in between lost.

    Pieces are `max_clip_s` long; where the last would be under 2 s, it and the one before share their time evenly. A
    span without end, or with one beyond the video, ends with the video. A piece's id is made of the listed span's id
    and the piece's start and end in milliseconds. A span that fits as a whole stays the listed clip, its end resolved;
    one that starts outside the video comes back untouched, for the stage that opens the video to say so.
    """
    if max_clip_s < SHORTEST_PIECE_S:
        raise ValueError(f"max_clip_s {max_clip_s:g}: expected at least {SHORTEST_PIECE_S:g} s")
    start_ms = round(clip.span.start_s * 1000)
    video_ms = math.floor(duration_s * 1000)
    end_ms = video_ms if clip.span.end_s is None else min(round(clip.span.end_s * 1000), video_ms)
    if end_ms <= start_ms:
        return (clip,)
    edges = _edges(start_ms, end_ms, int(max_clip_s * 1000))
    if len(edges) == 2:
        return (_with(clip, span=Span(start_s=clip.span.start_s, end_s=end_ms / 1000)),)
    return tuple(_piece(clip, start, end) for start, end in pairwise(edges))


def _edges(start_ms: int, end_ms: int, longest_ms: int) -> list[int]:
    edges = [*range(start_ms, end_ms, longest_ms), end_ms]
    if len(edges) > 2 and edges[-1] - edges[-2] < SHORTEST_PIECE_S * 1000:
        edges[-2] = (edges[-3] + edges[-1] + 1) // 2
    return edges


def _piece(clip: Clip, start_ms: int, end_ms: int) -> Clip:
    piece_id = safe_id(clip.source, clip.clip_id.removeprefix(f"{clip.source}-"), start_ms, end_ms)
    span = Span(start_s=start_ms / 1000, end_s=end_ms / 1000)
    return _with(clip, clip_id=piece_id, span=span, parent_id=clip.clip_id)


def _with(clip: Clip, **changes: object) -> Clip:
    """A changed copy, validated."""
    return Clip.model_validate({**clip.model_dump(), **changes})
