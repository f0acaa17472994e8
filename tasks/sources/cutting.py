"""How a listed span becomes training clips."""

import math
from itertools import pairwise

from tasks.records import Clip, Frames, Span, safe_id

SHORTEST_PIECE_S = 2.0  # shorter clips are dropped by every policy, so none is cut on purpose


def cut_spans(clip: Clip, duration_s: float, max_clip_s: float) -> tuple[Clip, ...]:
    """Training clips of a listed span, in order: none longer than `max_clip_s`, nothing in between lost.

    Pieces are `max_clip_s` long; where the last would be under 2 s, it and the one before share their time evenly. A
    span without end, or with one beyond the video, ends with the video. A piece's id is made of the listed span's id
    and the piece's start and end in milliseconds; a piece of a span that the list counts in frames has frames as well.
    A span that fits as a whole stays the listed clip, its end resolved; one that starts outside the video comes back
    untouched, for the stage that opens the video to say so.
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
        span = Span(start_s=clip.span.start_s, end_s=end_ms / 1000)
        return (_with(clip, span=span, frames=_frames(clip, start_ms, end_ms)),)
    return tuple(_piece(clip, start, end) for start, end in pairwise(edges))


def _edges(start_ms: int, end_ms: int, longest_ms: int) -> list[int]:
    edges = [*range(start_ms, end_ms, longest_ms), end_ms]
    if len(edges) > 2 and edges[-1] - edges[-2] < SHORTEST_PIECE_S * 1000:
        edges[-2] = (edges[-3] + edges[-1] + 1) // 2
    return edges


def _piece(clip: Clip, start_ms: int, end_ms: int) -> Clip:
    piece_id = safe_id(clip.source, clip.clip_id.removeprefix(f"{clip.source}-"), start_ms, end_ms)
    span = Span(start_s=start_ms / 1000, end_s=end_ms / 1000)
    return _with(clip, clip_id=piece_id, span=span, parent_id=clip.clip_id, frames=_frames(clip, start_ms, end_ms))


def _frames(clip: Clip, start_ms: int, end_ms: int) -> Frames | None:
    """The list's frames that a stretch of the span holds; where one piece ends the next begins."""
    if clip.frames is None:
        return None
    begun_ms, last = round(clip.span.start_s * 1000), clip.frames.end
    first, end = (
        min(clip.frames.first + round((edge - begun_ms) * clip.frames.fps / 1000), last) for edge in (start_ms, end_ms)
    )
    return clip.frames.model_copy(update={"first": first, "end": end}) if first < end else None


def _with(clip: Clip, **changes: object) -> Clip:
    """A changed copy, validated."""
    return Clip.model_validate({**clip.model_dump(), **changes})
