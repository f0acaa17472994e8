"""Any local folder: every video file below it is one clip, in place and unchanged.

Ids come from the path relative to the folder, so the folder may move. A link that leads out of the folder is refused,
one that leads to another listed file is the same video twice; linked folders are not entered.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.records import Clip, safe_id
from tasks.sources.base import Entry, ListingProblem, Source, SourceError, SourceSettings, problem

MAX_LOCATION_CHARS = 4096


class FolderConfig(SourceSettings):
    """A folder of videos."""

    name: Literal["folder"] = "folder"
    folder: Path = Field(description="folder whose videos are taken, with all folders below it")
    suffixes: tuple[str, ...] = Field(
        (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".gif"),
        min_length=1,
        description="file names that count as videos, in small letters; other files are not looked at",
    )
    licence: str = Field("unknown", max_length=200, description="licence of the videos, if you know it")


class FolderSource(Source):
    """Videos below a folder."""

    name: ClassVar[str] = "folder"
    licence: ClassVar[str] = "unknown"
    local: ClassVar[bool] = True

    def __init__(self, config: FolderConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per video file, in the order of their paths; the span is the whole video."""
        root = local_root(self.config.folder)
        seen: set[str] = set()
        problems: list[ListingProblem] = []
        for item in _files(root, self.config.suffixes, problems):
            try:
                clip = self._clip(item.path, root)
                if clip.clip_id in seen:
                    raise ValueError("a link to a video of this folder, which is listed itself")
            except ValueError as error:
                problems.append(item.problem(self.name, str(error)))
            else:
                seen.add(clip.clip_id)
                yield clip
        yield from problems

    def _clip(self, path: Path, root: Path) -> Clip:
        target = local_target(path, root)
        video_id = safe_id(self.name, target.relative_to(root).as_posix())
        licence = self.config.licence
        return Clip(clip_id=video_id, source=self.name, video_id=video_id, location=target.as_uri(), licence=licence)


def local_root(folder: Path) -> Path:
    """A folder of videos, or SourceError."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; check the source's folder")
    return folder.resolve()


def shown_path(path: Path, root: Path) -> str:
    """A path below the root as a record can hold it."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def local_target(path: Path, root: Path) -> Path:
    """The video that a path below a folder leads to, in that folder, or ValueError."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"a link that leads nowhere ({error.__class__.__name__})") from error
    if not target.is_relative_to(root):
        raise ValueError("a link out of the folder; put the video itself into it")
    if not target.is_file():
        raise ValueError("not a regular file")
    if not is_text(target):
        raise ValueError("a path that is not UTF-8, which no record can hold; rename it")
    if len(location := target.as_uri()) > MAX_LOCATION_CHARS:
        raise ValueError(f"a path of {len(location)} characters; expected at most {MAX_LOCATION_CHARS}")
    return target


def is_text(path: Path) -> bool:
    """Whether a path can be written down: file systems allow any bytes, JSON and SQL do not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class LocalFile:
    """A file below the folder of a data set that lies here in its own layout."""

    path: Path
    root: Path

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders below the root, and the file's name."""
        return self.path.relative_to(self.root).parts

    def problem(self, source: str, message: str, *, lost: bool = True) -> ListingProblem:
        """This file as a problem."""
        shown = shown_path(self.path, self.root)
        return problem(source, shown, 0, shown, message, lost=lost)


def walk(source: str, root: Path, suffixes: Collection[str]) -> Iterator[LocalFile | ListingProblem]:
    """Files with these suffixes below a folder, one folder after the other, by name; linked folders are problems."""
    problems: list[ListingProblem] = []

    def unreadable(error: OSError) -> None:
        shown = shown_path(Path(error.filename), root) if error.filename else ""
        problems.append(problem(source, shown, 0, shown, f"cannot be read: {error.strerror}"))

    for folder, folders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        folders.sort()
        for name in folders:
            if (here / name).is_symlink():
                yield LocalFile(here / name, root).problem(source, "a link to a folder is not followed")
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes:
                yield LocalFile(here / name, root)
    yield from problems


def _files(root: Path, suffixes: Collection[str], problems: list[ListingProblem]) -> list[LocalFile]:
    """Videos and links below a folder, real ones before links, each group by path."""
    found: list[LocalFile] = []
    for item in walk(FolderSource.name, root, suffixes):
        if isinstance(item, LocalFile):
            found.append(item)
        else:
            problems.append(item)
    return sorted(found, key=lambda item: (item.path.is_symlink(), item.path))
