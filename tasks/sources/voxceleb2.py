"""VoxCeleb2 as it comes: cut videos in folders of person and video, `id00012/21Uxsk56VDQ/00001.mp4`.

Folders above a person's (`dev/mp4`) may be there or not. The videos are used where they are; each is a clip as a whole,
of the person whose folder it is in.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.records import Clip, safe_id
from tasks.sources.base import Entry, Source, SourceSettings, parsed
from tasks.sources.folder import LocalFile, local_root, local_target, walk

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")

_PERSON = re.compile(r"id\d{5}", re.ASCII)
_VIDEO = re.compile(r"[A-Za-z0-9_-]{11}", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class VoxCeleb2Config(SourceSettings):
    """A folder with VoxCeleb2's videos."""

    name: Literal["voxceleb2"] = "voxceleb2"
    folder: Path = Field(description="folder that holds the folders of people, or dev/mp4 and the like")
    licence: str = Field("unknown", max_length=200, description="licence of the videos, if you know it")


class VoxCeleb2Source(Source):
    """A folder with VoxCeleb2's videos."""

    name: ClassVar[str] = "voxceleb2"
    licence: ClassVar[str] = "unknown"
    local: ClassVar[bool] = True

    def __init__(self, config: VoxCeleb2Config) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per video file, by person, video and number."""
        root = local_root(self.config.folder)
        return parsed(self.name, walk(self.name, root, SUFFIXES), self._clip)

    def _clip(self, file: LocalFile) -> Iterator[Clip]:
        person, video, number = ("", "", *file.parts)[-3:]
        stem = number.rpartition(".")[0]
        if not (_PERSON.fullmatch(person) and _VIDEO.fullmatch(video) and _NUMBER.fullmatch(stem)):
            raise ValueError("expected person/video/number, like id00012/21Uxsk56VDQ/00001.mp4")
        clip_id = safe_id(self.name, f"{person}_{video}_{stem}")
        yield Clip(
            clip_id=clip_id,
            source=self.name,
            video_id=clip_id,  # the file that is there; what it was cut from is not
            location=local_target(file.path, file.root).as_uri(),
            identity=person,
            licence=self.config.licence,
        )
