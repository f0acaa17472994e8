"""From faces in single pictures to people over time: tracks, the main one, and the one box a clip is cropped to.

Boxes are x1, y1, x2, y2 in pixels of the source. All functions are pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, Int64, UInt8

from tasks.detectors.base import Face

NUM_LANDMARKS = 5
MIN_OVERLAP = 0.3  # intersection over union of one face in two looked-at frames
REACH = 0.4  # share of the median size that boxes may stick out of the crop before it is widened
FRINGE = 5.0  # percent of the boxes at either end that may be strays


@dataclass(frozen=True)
class Track:
    """One face over time: the frames it was seen in (rising) and its boxes there.

    Landmarks as in `Face`, NaN in a look that gave none; None if no look did.
    """

    frames: Int64[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "n 4"]
    landmarks: Float64[np.ndarray, "n 5 2"] | None = None

    @property
    def sizes_px(self) -> Float64[np.ndarray, " n"]:
        """Side of each box: the root of its area."""
        return np.sqrt((self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1]))

    @property
    def height_px(self) -> float:
        """Median height of the boxes."""
        return float(np.median(self.boxes[:, 3] - self.boxes[:, 1]))


@dataclass(frozen=True)
class SquareBox:
    """A square in the source picture, whole pixels; it may stick out of the picture."""

    x: int
    y: int
    side: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2."""
        return self.x, self.y, self.x + self.side, self.y + self.side

    def scaled(self, factor: float) -> "SquareBox":
        """The same square in a picture `factor` times as large."""
        return SquareBox(round(self.x * factor), round(self.y * factor), max(round(self.side * factor), 1))


def link(sightings: Sequence[tuple[int, Sequence[Face]]], max_gap: int) -> tuple[Track, ...]:
    """Tracks out of the faces seen in frames that were looked at (rising numbers), longest-lived first.

    A face continues the track whose last box it overlaps most, if that was seen at most `max_gap` frames ago.
    """
    open_tracks: list[list[tuple[int, Face]]] = []
    for frame, faces in sightings:
        pairs = [
            (overlap(track[-1][1].box, face.box), index, place)
            for index, track in enumerate(open_tracks)
            if frame - track[-1][0] <= max_gap
            for place, face in enumerate(faces)
        ]
        taken_tracks: set[int] = set()
        taken_faces: set[int] = set()
        for share, index, place in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if share >= MIN_OVERLAP and index not in taken_tracks and place not in taken_faces:
                open_tracks[index].append((frame, faces[place]))
                taken_tracks.add(index)
                taken_faces.add(place)
        open_tracks += [[(frame, face)] for place, face in enumerate(faces) if place not in taken_faces]
    return tuple(sorted((_track(seen) for seen in open_tracks), key=lambda track: -len(track.frames)))


def _track(seen: Sequence[tuple[int, Face]]) -> Track:
    frames, boxes = np.array([frame for frame, _ in seen]), np.array([face.box for _, face in seen], float)
    if all(face.landmarks is None for _, face in seen):
        return Track(frames, boxes)
    points = np.full((len(seen), NUM_LANDMARKS, 2), np.nan)
    for row, (frame, face) in enumerate(seen):
        if face.landmarks is not None:
            if len(face.landmarks) != NUM_LANDMARKS:
                raise ValueError(f"frame {frame}: a face with {len(face.landmarks)} landmarks, not {NUM_LANDMARKS}")
            points[row] = face.landmarks
    return Track(frames, boxes, points)


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return float(shared / (both - shared))


def lasting(tracks: Sequence[Track], every: int, min_looks: int, min_density: float) -> tuple[Track, ...]:
    """Tracks that are people: seen `min_looks` times, and in `min_density` of the looks of their life.

    What a detector sees in a texture comes and goes; what it sees in a face stays.
    """

    def density(track: Track) -> float:
        return len(track.frames) / ((track.frames[-1] - track.frames[0]) / every + 1)

    return tuple(track for track in tracks if len(track.frames) >= min_looks and density(track) >= min_density)


def main_track(tracks: Sequence[Track]) -> Track:
    """The face that is largest for longest. Raises ValueError where there is none."""
    if not tracks:
        raise ValueError("no track: there is no main face among no faces")
    return max(tracks, key=lambda track: (float(track.sizes_px.sum()), -int(track.frames[0])))


def most_at_once(tracks: Sequence[Track], num_frames: int) -> int:
    """Largest number of tracks alive in one frame."""
    return int(alive(tracks, num_frames).max())


def alive(tracks: Sequence[Track], num_frames: int) -> Int64[np.ndarray, " T"]:
    """Number of tracks between their first look and their last, in every frame."""
    changes: np.ndarray = np.zeros(num_frames + 1, np.int64)
    for track in tracks:
        changes[track.frames[0]] += 1
        changes[track.frames[-1] + 1] -= 1
    return np.cumsum(changes)[:num_frames]


def per_frame(track: Track, num_frames: int) -> Float64[np.ndarray, "T 4"]:
    """A box for every frame: straight lines between looks, the nearest look before the first and after the last."""
    frames = np.arange(num_frames)
    return np.stack([np.interp(frames, track.frames, track.boxes[:, side]) for side in range(4)], axis=1)


def stable_box(track: Track, expand: float, width: int, height: int) -> SquareBox:
    """One square for the whole clip: median centre, `expand` times the median size, wider if the face wanders.

    Moved into the picture where it fits; where it does not, it sticks out and the crop is padded.
    """
    size = float(np.median(track.sizes_px))
    low = np.percentile(track.boxes[:, :2], FRINGE, axis=0)
    high = np.percentile(track.boxes[:, 2:], 100 - FRINGE, axis=0)
    wandering = float((high - low).max()) + (expand - 1) * REACH * size
    side = round(max(expand * size, wandering))
    centre = np.median((track.boxes[:, :2] + track.boxes[:, 2:]) / 2, axis=0)
    if wandering > expand * size:
        centre = (low + high) / 2
    return SquareBox(_inside(centre[0], side, width), _inside(centre[1], side, height), side)


def centre_box(width: int, height: int) -> SquareBox:
    """The largest square in the middle of a picture; of an odd pixel left over, the larger part is right or below."""
    side = min(width, height)
    return SquareBox((width - side) // 2, (height - side) // 2, side)


def _inside(centre: float, side: int, length: int) -> int:
    """First pixel of a stretch around a centre, moved inside [0, length) if it fits."""
    first = round(centre - side / 2)
    return min(max(first, 0), length - side) if side <= length else first


def patch(frame: UInt8[np.ndarray, "H W 3"], box: Float64[np.ndarray, " 4"]) -> UInt8[np.ndarray, "h w 3"]:
    """What a box shows of a picture, at least one pixel; a copy, so that the picture itself can go."""
    height, width = frame.shape[:2]
    x1, y1 = np.clip(np.floor(box[:2]).astype(int), 0, (width - 1, height - 1))
    x2, y2 = np.clip(np.ceil(box[2:]).astype(int), (x1 + 1, y1 + 1), (width, height))
    return frame[y1:y2, x1:x2].copy()


def cut(frame: UInt8[np.ndarray, "H W 3"], box: SquareBox, size_px: int) -> UInt8[np.ndarray, "s s 3"]:
    """The square at size_px x size_px; outside the picture its edge pixels are repeated."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = box.corners
    part = frame[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    margins = (max(-y1, 0), max(y2 - height, 0), max(-x1, 0), max(x2 - width, 0))
    if any(margins):
        part = cv2.copyMakeBorder(part, *margins, cv2.BORDER_REPLICATE)
    shrinking = box.side >= size_px
    return np.asarray(
        cv2.resize(part, (size_px, size_px), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
    )
