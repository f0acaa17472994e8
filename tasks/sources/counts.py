"""What a list holds, counted while it is read: nothing of it is fetched, and no more than ids stay in memory."""

from pathlib import Path

from pydantic import Field

from dualforce_model.config import Frozen
from tasks.records import Clip
from tasks.sources import CONFIGS, SOURCES, ListingProblem, Source, config_at, make_source
from tasks.sources.base import Video
from tasks.tables import table

MAX_TOLD = 10_000  # problems that are kept; all are counted
SHOWN = 50  # problems in text for people


class Told(Frozen):
    """A problem, in the words that scripts read."""

    file: str
    line: int = Field(description="from 1; 0: the file as a whole")
    text: str = Field(description="beginning of the line")
    reason: str = Field(description="what was found and what was expected")
    lost: bool = Field(description="no clip came of the line")


class ListCheck(Frozen):
    """Counts and problems of one list."""

    source: str
    path: str
    licence: str
    videos: int = Field(description="videos that the list names, also those without a usable interval")
    video_ids: int = Field(description="different videos among them, by address")
    intervals: int = Field(description="clips")
    clips_with_crop: int
    clips_with_usable_crop: int = Field(description="whose crop lies inside the frame it was measured in")
    clips_with_frames: int = Field(description="whose span the list counts in frames as well")
    clips_with_identity: int
    identities: int
    seconds: float = Field(description="all spans together, as far as the list says where they end")
    open_ended: int = Field(description="clips that go on to the end of their video")
    num_problems: int
    problems: tuple[Told, ...] = Field(description=f"the first {MAX_TOLD:,} of them")

    def text(self) -> str:
        """For people."""
        counted = self.model_dump(exclude={"source", "path", "problems"})
        lines = [f"{self.source}: {self.path}", ""]
        lines += [
            f"  {name.removeprefix('num_').replace('_', ' '):<24}{_shown(value)}" for name, value in counted.items()
        ]
        if self.problems:
            lines.append("")
        for told in self.problems[:SHOWN]:
            lines.append(
                f"  {told.file}, line {told.line}: {told.reason}{'' if told.lost else ' (the clip is listed)'}"
            )
        if self.num_problems > SHOWN:
            lines.append(f"  and {self.num_problems - SHOWN:,} more; --json tells up to {MAX_TOLD:,}")
        return "\n".join(lines)


class SourceRow(Frozen):
    """A source that there is."""

    name: str
    path: str = Field(description="what its list is: a file, or a folder")
    licence: str
    local: bool = Field(description="its videos lie on this machine already")
    what: str


class SourceTable(Frozen):
    """All sources."""

    sources: tuple[SourceRow, ...]

    def text(self) -> str:
        """For people."""
        rows = [(row.name, row.path, "here" if row.local else "fetched", row.licence, row.what) for row in self.sources]
        return table(("source", "list", "videos", "licence", "what"), rows)


class _Tally:
    """The counts so far."""

    def __init__(self) -> None:
        self.clips = self.crops = self.usable = self.frames = self.known = self.open_ended = self.problems = 0
        self.named = 0
        self.seconds = 0.0
        self.addresses: set[str] = set()
        self.video_ids: set[str] = set()
        self.people: set[str] = set()
        self.told: list[Told] = []

    def add(self, entry: Clip | ListingProblem | Video) -> None:
        """Count one entry."""
        if isinstance(entry, Clip):
            self._add_clip(entry)
        elif isinstance(entry, Video):
            self.named += 1
            self.addresses.add(entry.address)
        else:
            self.problems += 1
            if len(self.told) < MAX_TOLD:
                told = entry.model_dump(include={"file", "line", "text", "lost"})
                self.told.append(Told(**told, reason=entry.message))

    def _add_clip(self, clip: Clip) -> None:
        self.clips += 1
        self.video_ids.add(clip.video_id)
        self.frames += clip.frames is not None
        if clip.crop is not None:
            self.crops += 1
            self.usable += not clip.crop.flaw
        if clip.identity is not None:
            self.known += 1
            self.people.add(clip.identity)
        if clip.span.end_s is None:
            self.open_ended += 1
        else:
            self.seconds += clip.span.end_s - clip.span.start_s


def tally(source: Source, path: str) -> ListCheck:
    """Read a list once, keeping none of its clips. Raises SourceError if there is no list."""
    found = _Tally()
    for entry in source.entries():
        found.add(entry)
    by_name = found.named > 0  # most lists name a video only where they cut a clip from it
    return ListCheck(
        source=source.name,
        path=path,
        licence=getattr(source.config, "licence", source.licence),
        videos=found.named if by_name else len(found.video_ids),
        video_ids=len(found.addresses if by_name else found.video_ids),
        intervals=found.clips,
        clips_with_crop=found.crops,
        clips_with_usable_crop=found.usable,
        clips_with_frames=found.frames,
        clips_with_identity=found.known,
        identities=len(found.people),
        seconds=round(found.seconds, 3),
        open_ended=found.open_ended,
        num_problems=found.problems,
        problems=tuple(found.told),
    )


def check_list(name: str, path: Path) -> ListCheck:
    """Counts and problems of the list at a path. Raises SourceError for an unknown source and a missing list."""
    return tally(make_source(config_at(name, path)), str(path))


def all_sources() -> SourceTable:
    """What `sources list` shows."""
    rows = []
    for name, source in SOURCES.items():
        place = "folder" if "folder" in CONFIGS[name].model_fields else "file"
        what = (source.__doc__ or "").partition("\n")[0]
        rows.append(SourceRow(name=name, path=place, licence=source.licence, local=source.local, what=what))
    return SourceTable(sources=tuple(rows))


def _shown(value: object) -> str:
    return value if isinstance(value, str) else f"{value:,}"
