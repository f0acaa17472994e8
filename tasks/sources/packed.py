"""Clips of a whole list in a tenth of the memory: numbers in columns, texts that clips share held once."""

import math
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.records import Clip, CropBox

SPAN, FRAMES, CROP = ("start_s", "end_s"), ("first", "end", "fps"), tuple(CropBox.model_fields)
NUMBERS = len(SPAN) + len(FRAMES) + len(CROP)
TEXTS = ("source", "video_id", "location", "identity", "licence", "parent_id")
NONE = math.nan  # which no record takes for a number


class PackedClips(Mapping[str, Clip]):
    """Clips by their id, in the order in which they were added. Each is made anew when it is asked for."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._numbers = array("d")  # NUMBERS for each clip
        self._shared: dict[tuple[str | None, ...], int] = {}  # texts -> their place below
        self._texts: list[tuple[str | None, ...]] = []
        self._places = array("l")  # of each clip among the texts
        self._captions: dict[int, str] = {}  # row -> what no other clip shares

    def add(self, clip: Clip) -> None:
        """Take one more. Raises ValueError for an id that is there already."""
        if clip.clip_id in self._rows:
            raise ValueError(f"a listing holds each clip once; found twice: {clip.clip_id}")
        self._rows[clip.clip_id] = len(self._rows)
        for part, names in ((clip.span, SPAN), (clip.frames, FRAMES), (clip.crop, CROP)):
            for name in names:
                value = None if part is None else getattr(part, name)
                self._numbers.append(NONE if value is None else value)
        texts = tuple(getattr(clip, name) for name in TEXTS)
        place = self._shared.setdefault(texts, len(self._texts))
        if place == len(self._texts):
            self._texts.append(texts)
        self._places.append(place)
        if clip.caption is not None:
            self._captions[self._rows[clip.clip_id]] = clip.caption

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __getitem__(self, clip_id: str) -> Clip:
        row = self._rows[clip_id]
        numbers = [None if math.isnan(value) else value for value in self._numbers[row * NUMBERS : (row + 1) * NUMBERS]]
        parts: dict[str, Any] = {"clip_id": clip_id, "caption": self._captions.get(row)}
        parts["span"] = dict(zip(SPAN, numbers[:2], strict=True))
        if numbers[2] is not None:
            parts["frames"] = dict(zip(FRAMES, numbers[2:5], strict=True))
        if numbers[5] is not None:
            parts["crop"] = dict(zip(CROP, numbers[5:], strict=True))
        return Clip(**parts, **dict(zip(TEXTS, self._texts[self._places[row]], strict=True)))

    def video_id(self, clip_id: str) -> str:
        """Id of the video that a clip is cut from."""
        return str(self._texts[self._places[self._rows[clip_id]]][TEXTS.index("video_id")])

    def of_videos(self) -> Iterator[Clip]:
        """The first clip of each video."""
        seen: set[str] = set()
        for clip_id in self._rows:
            video_id = self.video_id(clip_id)
            if video_id not in seen:
                seen.add(video_id)
                yield self[clip_id]
