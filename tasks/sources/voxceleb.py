"""VoxCeleb as it is used to train talking heads: `vox-metadata.csv`.

    video_id,start,end,bbox,fps,width,height,partition,person_id
    WMh3ye5tBsE,3657,3994,624-48-1018-553,25,1280,720,train,id10005

start and end are frames at `fps`, end being the frame after the last; the box is x1-y1-x2-y2 in pixels of a picture of
width x height. The partition is not read: splits are made anew, by person. Rows that appear twice are problems.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.records import Clip, safe_id
from tasks.sources.base import (
    Entry,
    Remark,
    Source,
    SourceSettings,
    check_name,
    make_crop,
    make_frames,
    parsed,
    youtube_video,
)
from tasks.sources.rows import Row, decimal, read_rows, whole_number

COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "person_id")


class VoxCelebConfig(SourceSettings):
    """VoxCeleb's clips as a CSV file."""

    name: Literal["voxceleb"] = "voxceleb"
    file: Path = Field(description=f"CSV file with the columns {', '.join(COLUMNS)}")
    licence: str = Field("unknown", max_length=200, description="licence of the videos, if you know it")


class VoxCelebSource(Source):
    """VoxCeleb's clips as a CSV file."""

    name: ClassVar[str] = "voxceleb"
    licence: ClassVar[str] = "unknown"

    def __init__(self, config: VoxCelebConfig) -> None:
        self.config = config

    def entries(self) -> Iterator[Entry]:
        """One clip per row, in the list's order; of rows that are the same, the first."""
        return parsed(self.name, read_rows(self.name, self.config.file, COLUMNS), self._clip)

    def _clip(self, row: Row) -> Iterator[Clip | Remark]:
        fields = row.fields()
        video, box = fields["video_id"], fields["bbox"]
        video_id, location = youtube_video(self.name, video)
        frames, span = make_frames(
            whole_number(fields["start"], "start"), whole_number(fields["end"], "end"), decimal(fields["fps"], "fps")
        )
        corners = [whole_number(part, "bbox") for part in box.split("-")]
        if len(corners) != 4:
            raise ValueError(f"bbox {box[:40]!r}: expected x1-y1-x2-y2")
        left, top, right, bottom = corners
        width, height = (whole_number(fields[side], side) or None for side in ("width", "height"))
        crop, remarks = make_crop(left, top, right, bottom, (width, height))
        yield from remarks
        yield Clip(
            clip_id=safe_id(self.name, video, frames.first, frames.end, box),
            source=self.name,
            video_id=video_id,
            location=location,
            span=span,
            identity=check_name(fields["person_id"]),
            licence=self.config.licence,
            frames=frames,
            crop=crop,
        )
