"""What a list says of a clip beyond its span, held against the video: which face is meant, which frames are.

A listed box is where the list says the head is, mostly larger than any detector's box of the face.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from tasks.faces import Track, overlap
from tasks.records import Frames, Impossible, Reason, Span

SAME_RATE = 5e-4  # rates this near are one, written with more or fewer digits: 23.98 and 24000/1001, never 24
MIN_INSIDE = 0.5  # share of a face that lies in the listed box, for it to be the one that is meant

Corners = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the source


def exact_span(span: Span, frames: Frames, fps: float) -> Span:
    """The listed frames in seconds of a video of this rate; the span as it is where the list counts at another rate.

    Lists round rates: at 23.98 for 24000/1001 a span an hour into the video begins 0.6 s too early.
    """
    if fps <= 0 or abs(fps - frames.fps) > SAME_RATE * frames.fps:
        return span
    return Span(start_s=frames.first / fps, end_s=frames.end / fps)


def listed_track(tracks: Sequence[Track], box: Corners) -> Track:
    """The face that a listed box means: of those inside it, the one that fills it best for longest.

    Raises Impossible where all faces are elsewhere.
    """
    shares = [float(np.median(inside(track.boxes, box))) for track in tracks]
    meant = [track for track, share in zip(tracks, shares, strict=True) if share >= MIN_INSIDE]
    if not meant:
        text = f"no face in the listed box {', '.join(f'{side:.0f}' for side in box)}"
        nearest = f"the nearest of {len(tracks)} lies in it to {max(shares):.0%}; {MIN_INSIDE:.0%} are needed"
        raise Impossible(Reason.FACE_ELSEWHERE, f"{text}: {nearest}")
    return max(meant, key=lambda track: (sum(overlap(seen, box) for seen in track.boxes), -int(track.frames[0])))


def inside(boxes: Float64[np.ndarray, "n 4"], box: Corners) -> Float64[np.ndarray, " n"]:
    """Share of each box that lies inside another."""
    shared = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    areas: np.ndarray = np.clip(shared, 0, None).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas
