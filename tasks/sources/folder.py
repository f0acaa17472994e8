"""Any local folder: every video file below it is one clip, in place and unchanged.

Ids come from the path relative to the folder, so the folder may move. A link that leads out of the folder is refused,
one that leads to another listed file is the same video twice; linked folders are not entered.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from dualforce_model.config import Frozen
from tasks.records import Clip, safe_id
from tasks.sources.base import Listing, ListingProblem, SourceError, problem

MAX_LOCATION_CHARS = 4096


class FolderConfig(Frozen):
    """A folder of videos."""

    name: Literal["folder"] = "folder"
    folder: Path = Field(description="folder whose videos are taken, with all folders below it")
    suffixes: tuple[str, ...] = Field(
        (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv"),
        min_length=1,
        description="file names that count as videos, in small letters; other files are not looked at",
    )
    licence: str = Field("unknown", max_length=200, description="licence of the videos, if you know it")


class FolderSource:
    """Videos below a folder."""

    name: ClassVar[str] = "folder"
    licence: ClassVar[str] = "unknown"

    def __init__(self, config: FolderConfig) -> None:
        self.config = config

    def listing(self) -> Listing:
        """One clip per video file, in the order of their paths; the span is the whole video."""
        if not self.config.folder.is_dir():
            raise SourceError(f"{self.config.folder}: no such folder; check the source's folder")
        root = self.config.folder.resolve()
        clips: dict[str, Clip] = {}
        problems: list[ListingProblem] = []
        for path in _files(root, problems):
            if path.suffix.lower() not in self.config.suffixes:
                continue
            relative = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
            try:
                clip = self._clip(path, root)
                if clip.clip_id in clips:
                    raise ValueError("a link to a video of this folder, which is listed itself")
            except ValueError as error:
                problems.append(problem(self.name, relative, 0, relative, str(error)))
            else:
                clips[clip.clip_id] = clip
        return Listing(clips=tuple(clips.values()), problems=tuple(problems))

    def _clip(self, path: Path, root: Path) -> Clip:
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
        location = target.as_uri()
        if len(location) > MAX_LOCATION_CHARS:
            raise ValueError(f"a path of {len(location)} characters; expected at most {MAX_LOCATION_CHARS}")
        video_id = safe_id(self.name, target.relative_to(root).as_posix())
        return Clip(
            clip_id=video_id, source=self.name, video_id=video_id, location=location, licence=self.config.licence
        )


def is_text(path: Path) -> bool:
    """Whether a path can be written down: file systems allow any bytes, JSON and SQL do not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(root: Path, problems: list[ListingProblem]) -> Iterator[Path]:
    """Files and links below a folder, real ones before links, each group by path; linked folders become problems."""

    def unreadable(error: OSError) -> None:
        found = Path(error.filename or root)
        problems.append(problem(FolderSource.name, found.name, 0, found.name, f"cannot be read: {error.strerror}"))

    found: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=unreadable):
        here = Path(folder)
        found += [here / name for name in names]
        for link in sorted(here / name for name in folders if (here / name).is_symlink()):
            relative = link.relative_to(root).as_posix()
            problems.append(problem(FolderSource.name, relative, 0, relative, "a link to a folder is not followed"))
    return iter(sorted(found, key=lambda path: (path.is_symlink(), path)))
