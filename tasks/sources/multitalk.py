"""MultiTalk: one JSON file per language, CelebV-HQ's shape with `youtube_id`.

    {"legJntdzhMs_0": {"youtube_id": "legJntdzhMs", "duration": {"start_sec": 639.56, "end_sec": 643.36},
        "bbox": {"top": 0, "bottom": 0.775, "left": 0, "right": 0.4354}, "language": "japanese", "transcript": "..."}}

Transcripts, empty in places, are not read. Spans of a few hundredths of a second are listed and left to the policy.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.sources.base import SourceSettings
from tasks.sources.celebvhq import CelebvHqSource
from tasks.sources.members import text_of


class MultiTalkConfig(SourceSettings):
    """MultiTalk's list of one language."""

    name: Literal["multitalk"] = "multitalk"
    file: Path = Field(description="JSON file of one language")


class MultiTalkSource(CelebvHqSource):
    """One language's list of MultiTalk."""

    name: ClassVar[str] = "multitalk"

    def who(self, fields: dict[str, Any]) -> str:
        """The YouTube id in an entry's fields."""
        return text_of(fields.get("youtube_id"), "youtube_id")
