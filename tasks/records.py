"""What is said about clips: the closed vocabulary of the whole pipeline.

A clip ends a stage as done, quarantined (impossible, or dropped by a policy) or failed. There is nothing else.
"""

import hashlib
import re
from collections import Counter
from enum import StrEnum
from typing import Any, Self

from pydantic import Field, model_validator

from dualforce_model.captions import MAX_CAPTION_CHARS
from dualforce_model.config import Frozen


class Stage(StrEnum):
    """The three stages that touch clips, in order."""

    ACQUIRE = "acquire"
    CURATE = "curate"
    EXTRACT = "extract"


class Reason(StrEnum):
    """Why a clip is quarantined. The first group are impossibilities (stored facts), the rest a policy's verdicts."""

    GONE = "gone"  # the source says it does not exist (404, deleted)
    PRIVATE = "private"  # there, for whom its owner lets in
    MEMBERS_ONLY = "members_only"  # there, for who pays
    AGE_RESTRICTED = "age_restricted"  # there, for an account of an adult
    GEO_BLOCKED = "geo_blocked"  # there, in other countries
    NOT_MEDIA = "not_media"  # something else than a video came down
    UNDECODABLE = "undecodable"  # truncated or broken: not one usable stretch of frames
    SPAN_OUTSIDE = "span_outside"  # the listed span lies outside the video
    BAD_LISTING = "bad_listing"  # the list's own line cannot be used (scheme, length, numbers)
    NO_FACE = "no_face"  # no face in any sampled frame
    FACE_ELSEWHERE = "face_elsewhere"  # faces, but none where the list says that the head is
    TOO_SHORT = "too_short"
    NO_SOUND = "no_sound"  # no sound stream, or digital silence
    NO_SPEECH = "no_speech"
    FACE_TOO_SMALL = "face_too_small"
    MULTIPLE_PEOPLE = "multiple_people"
    OCCLUDED = "occluded"
    SHOT_CUT = "shot_cut"
    SOUND_OFFSET = "sound_offset"
    SYNC_UNSURE = "sync_unsure"  # lips and sound do not show that they belong together
    BLURRED = "blurred"
    TOO_DARK = "too_dark"
    TURNED_AWAY = "turned_away"
    NOISY = "noisy"
    LIPS_STILL = "lips_still"
    SEVERAL_IDENTITIES = "several_identities"  # the main face does not stay the same person's
    DUPLICATE = "duplicate"  # the same pictures and sound as an earlier clip of the list
    NOT_MEASURED = "not_measured"  # a policy with when_not_measured: drop met a score without a value


# What is wrong with a file, in the words of dualforce_model.media's errors, and what that makes of a clip.
MEDIA_REASONS: dict[str, Reason] = {
    "not_media": Reason.NOT_MEDIA,
    "no_video": Reason.NOT_MEDIA,
    "undecodable": Reason.UNDECODABLE,
    "over_limit": Reason.UNDECODABLE,
    "span_outside": Reason.SPAN_OUTSIDE,
}


class FailureClass(StrEnum):
    """Broken infrastructure or a bug; retried by class."""

    NETWORK = "network"
    THROTTLED = "throttled"
    BOT_WALL = "bot_wall"
    DISK = "disk"
    TIMEOUT = "timeout"
    CRASH = "crash"
    OUT_OF_MEMORY = "out_of_memory"
    BUG = "bug"


class Impossible(Exception):
    """Raised by a worker: this clip can never pass, and here is what was measured.

    `preview` is a picture that shows why, relative to the media root, where there was anything to see.
    """

    def __init__(self, reason: Reason, measured: str, preview: str | None = None) -> None:
        super().__init__(reason, measured, preview)
        self.reason = reason
        self.measured = measured
        self.preview = preview


class Temporary(Exception):
    """Raised by a worker: infrastructure failed in a known way; worth another attempt.

    `systemic`: the next clip will meet the same (no room on the disk, a wall for robots).
    """

    def __init__(self, failure: FailureClass, message: str, *, systemic: bool = False) -> None:
        super().__init__(failure, message)
        self.failure = failure
        self.message = message
        self.systemic = systemic

    def __str__(self) -> str:
        return f"{self.failure}: {self.message}"


def last_line(traceback: str, failure: FailureClass | None = None) -> str:
    """What a traceback comes to; of a Temporary its message alone, for it says it all itself."""
    line = (traceback.strip().splitlines() or [""])[-1]
    told = f"{Temporary.__module__}.{Temporary.__qualname__}: "
    return line.removeprefix(told).removeprefix(f"{failure}: ") if line.startswith(told) else line


class Span(Frozen):
    """A stretch of a video in seconds; `end_s` None means up to the end of the video."""

    start_s: float = Field(0.0, ge=0.0, le=1e6, description="first instant, seconds into the video")
    end_s: float | None = Field(None, gt=0.0, le=1e6, description="end, seconds into the video; none: to its end")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"the span ends at {self.end_s} s, before its start at {self.start_s} s")
        return self


class Frames(Frozen):
    """A span as the list's own frame numbers: exact where seconds are rounded, and only at the list's frame rate."""

    first: int = Field(ge=0, le=10**9, description="first frame, from 0")
    end: int = Field(gt=0, le=10**9, description="frame after the last")
    fps: float = Field(gt=0.0, le=1000.0, description="frames per second that the list counts at, not the file's")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.first:
            raise ValueError(f"the frames end before {self.end}, not after their first, {self.first}")
        return self


class CropBox(Frozen):
    """A listed crop in pixels of the frame it was measured in; a frame of 1 x 1 means fractions of any frame.

    It is what the list says, and may lie outside its own frame: `scaled` has no answer then.
    """

    left: float = Field(ge=0.0, le=1e6)
    top: float = Field(ge=0.0, le=1e6)
    right: float = Field(gt=0.0, le=1e6)
    bottom: float = Field(gt=0.0, le=1e6)
    frame_width: float | None = Field(None, gt=0.0, le=1e6, description="none: unknown, scaled like the height")
    frame_height: float | None = Field(None, gt=0.0, le=1e6, description="none: unknown, so the box fits no video")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.right <= self.left or self.bottom <= self.top:
            raise ValueError(f"a crop from {self.left:g}, {self.top:g} to {self.right:g}, {self.bottom:g} is empty")
        return self

    @property
    def flaw(self) -> str:
        """Why the box cannot be used at all; empty if it can."""
        if self.frame_height is None:
            return "the size of the frame that the crop was measured in is unknown"
        if self.bottom > self.frame_height:
            return f"the crop ends at {self.bottom:g}, below a frame {self.frame_height:g} high"
        if self.frame_width is not None and self.right > self.frame_width:
            return f"the crop ends at {self.right:g}, beyond a frame {self.frame_width:g} wide"
        return ""

    def scaled(self, width_px: int, height_px: int) -> tuple[float, float, float, float] | None:
        """Left, top, right and bottom in pixels of a real frame; none for a box that does not fit into it."""
        if self.flaw or self.frame_height is None:
            return None
        down = height_px / self.frame_height
        across = down if self.frame_width is None else width_px / self.frame_width
        box = (self.left * across, self.top * down, self.right * across, self.bottom * down)
        return box if box[2] <= width_px + 0.5 else None


class Clip(Frozen):
    """One listed span of one video, or a training clip cut from it (then `parent_id` is the listed span's id)."""

    clip_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$")
    source: str = Field(description="name of the data set's list, as in SOURCES")
    video_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$", description="id of the video it is cut from")
    location: str = Field(max_length=4096, description="URL or path of the video; never part of any id")
    span: Span = Span()
    identity: str | None = Field(None, max_length=200, description="who speaks, where the list says so")
    licence: str = Field("unknown", max_length=200)
    parent_id: str | None = None
    frames: Frames | None = Field(None, description="the same span in frames, where the list counts frames")
    crop: CropBox | None = Field(None, description="where the list says the head is")
    caption: str | None = Field(
        None, min_length=1, max_length=MAX_CAPTION_CHARS, description="what the list says is to be seen; clean"
    )


def safe_id(source: str, name: str, *parts: object) -> str:
    """An id that is stable, unique and safe as a file name whatever the list holds.

    Readable head (letters, digits, - and _ of the name, at most 40) plus 12 hex digits over everything. The caller
    passes what identifies the thing in its source (name, span), never host, port or path.
    """
    text = "\x1f".join([source, name, *[str(part) for part in parts]])
    head = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:40].strip("-_") or "clip"
    prefix = re.sub(r"[^A-Za-z0-9]+", "", source)[:16] or "source"
    return f"{prefix}-{head}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


class Score(Frozen):
    """One measured property of a clip, or why it could not be measured here."""

    method: str = Field(description="how it was measured, or would have been")
    value: float | None = Field(None, description="none: not measured on this machine")


class Done(Frozen):
    """A clip passed a stage. `value` is what the stage has to say about it (paths, digests, scores, locations)."""

    clip_id: str
    key: str = Field(description="what it was made from; a different key makes it stale")
    value: dict[str, Any] = {}


class Quarantined(Frozen):
    """A verdict: an impossibility or a policy's drop, with the measured value and the threshold."""

    clip_id: str
    stage: Stage
    reason: Reason
    measured: str
    threshold: str = ""


class Failed(Frozen):
    """Infrastructure or a bug; `attempts` counts what this clip has been charged with so far."""

    clip_id: str
    stage: Stage
    failure: FailureClass
    traceback: str
    attempts: int = Field(1, ge=0, description="0 where nothing but a systemic failure happened")


class StageResult(Frozen):
    """What one stage did with its clips. Refuses to exist unless every input clip is in it exactly once."""

    stage: Stage
    inputs: tuple[str, ...]
    done: tuple[Done, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    failed: tuple[Failed, ...] = ()

    @model_validator(mode="after")
    def _conserved(self) -> Self:
        outcomes = [item.clip_id for group in (self.done, self.quarantined, self.failed) for item in group]
        twice = sorted(clip for clip, count in Counter(outcomes).items() if count > 1)
        lost = sorted(set(self.inputs) - set(outcomes))
        unknown = sorted(set(outcomes) - set(self.inputs))
        if twice or lost or unknown or len(set(self.inputs)) != len(self.inputs):
            raise ValueError(
                f"{self.stage}: every input clip must end exactly once; lost {lost[:5]}, twice {twice[:5]}, "
                f"never given {unknown[:5]} (of {len(self.inputs)} inputs)"
            )
        return self


class Attempt(Frozen):
    """What the worker pool hands back for one job: exactly one of the three outcomes is set."""

    job_id: str
    value: dict[str, Any] | None = None
    impossible: tuple[Reason, str] | None = None
    preview: str | None = Field(None, description="picture of what is impossible, relative to the media folder")
    failure: tuple[FailureClass, str] | None = None
    systemic: bool = Field(False, description="the failure is one that the next clip will meet too")
    crowded: bool = Field(False, description="something is missing for want of memory: worth a try alone")
    seconds: float = 0.0

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        if sum(item is not None for item in (self.value, self.impossible, self.failure)) != 1:
            raise ValueError(f"{self.job_id}: an attempt has exactly one outcome")
        return self
