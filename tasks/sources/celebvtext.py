"""CelebV-Text: CelebV-HQ's shape, with or without the level `clips` and with or without `.mp4` at the end of names.

    {"oC9r-CTbToE_0_0.mp4": {"meta_video_names": "oC9r-CTbToE_0", "ytb_id": "oC9r-CTbToE",
        "duration": {"start_sec": 58.07, "end_sec": 76.27}, "bbox": {"top": 0.0, ...}, "version": "v0.11"}}

Its description shows boxes in pixels and durations in frames as well: the former have no frame to be scaled from and
the latter no frame rate, so they are told as problems.
"""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.sources.base import SourceSettings
from tasks.sources.celebvhq import CelebvHqSource


class CelebvTextConfig(SourceSettings):
    """CelebV-Text's list."""

    name: Literal["celebvtext"] = "celebvtext"
    file: Path = Field(description="celebvtext_info.json")


class CelebvTextSource(CelebvHqSource):
    """The list of CelebV-Text."""

    name: ClassVar[str] = "celebvtext"
