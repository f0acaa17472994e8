"""OpenCV's bundled cascade: upright, frontal faces; no landmarks, no turned heads, nothing to download."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import UInt8

from dualforce_model import storage
from dualforce_model.config import digest
from dualforce_model.encoders.cascade import CASCADE, weigh_faces
from dualforce_model.pretrained import Weights
from tasks.detectors.base import DetectorConfig, Face

SMALLEST_PX = 24  # side of the pattern the cascade was trained on
SURROUNDINGS = 1.7  # side of what is searched around a known face, in sizes of the face
SMALLER = 0.7  # smallest size that a known face may have next time
SURE = 9.0  # sum of the last stage that no texture reaches
KNOWN = 0.5  # share of `min_score` at which a face that was there a moment ago is still one
NESTED = 0.5  # of a box's own area: the cascade likes to find small faces inside large ones


Found = tuple[np.ndarray, float]  # box (x, y, width, height) and score


class OpenCVCascade:
    """The frontal-face cascade. The score is the sum of its last stage over SURE, cut at 1.

    On real clips faces sum to 5 to 13, and what it takes for a face in cloth, hands and animals to less than 4.5. A
    face that was there a moment ago is believed at half of `min_score`: turned or blurred for a while, it sums to 2.5.
    """

    name: ClassVar[str] = "opencv_cascade"
    version: ClassVar[int] = 2
    weights: ClassVar[Weights | None] = None
    landmarks: ClassVar[bool] = False

    def __init__(self, config: DetectorConfig) -> None:
        self.config = config

    def fingerprint(self) -> str:
        weights = storage.file_digest(Path(cv2.data.haarcascades) / CASCADE)
        return digest(self.name, self.version, weights, self.config)

    def load(self) -> None:
        cv2.setNumThreads(1)  # workers are the parallelism

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"], near: Sequence[Face] = ()) -> list[Face]:
        gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        scale = max(max(frame.shape[:2]) / self.config.max_side_px, 1.0)
        if scale > 1:
            gray = cv2.resize(gray, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        smallest_px = max(round(self.config.min_face * min(gray.shape)), SMALLEST_PX)
        if near:
            least = self.config.min_score * KNOWN
            found = [one for face in near for one in _around(gray, face, scale, least)]
        else:
            found = _faces(gray, smallest_px, self.config.min_score)
        kept: list[Found] = []
        for box, score in sorted(found, key=lambda one: -float(one[0][2])):
            if not any(_share_inside(box, larger) > NESTED for larger, _ in kept):
                kept.append((box, score))
        return [Face(_corners(box * scale), score) for box, score in kept]


def _corners(box: np.ndarray) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in box)
    return x, y, x + width, y + height


def _faces(gray: UInt8[np.ndarray, "h w"], smallest_px: int, least: float) -> list[Found]:
    """Boxes with a score of at least `least`."""
    boxes, sums = weigh_faces(gray, smallest_px)
    scores = np.clip(sums / SURE, 0.0, 1.0)
    return [(box.astype(float), float(score)) for box, score in zip(boxes, scores, strict=True) if score >= least]


def _around(gray: UInt8[np.ndarray, "h w"], face: Face, scale: float, least: float) -> list[Found]:
    """The box that a known face has now, or none: a small part of the work of the whole picture."""
    x1, y1, x2, y2 = (value / scale for value in face.box)
    margin = (SURROUNDINGS - 1) / 2 * (x2 - x1)
    left, top = max(int(x1 - margin), 0), max(int(y1 - margin), 0)
    part = gray[top : int(y2 + margin) + 1, left : int(x2 + margin) + 1]
    corner = np.array([left, top, 0, 0])
    smallest_px = max(round(SMALLER * (x2 - x1)), SMALLEST_PX)
    found = [(box + corner, score) for box, score in _faces(part, smallest_px, least)]
    known = np.array([x1, y1, x2 - x1, y2 - y1])
    # The one that agrees best: single looks also find foreheads and whole heads.
    return sorted(found, key=lambda one: -_share_inside(one[0], known) * _share_inside(known, one[0]))[:1]


def _share_inside(box: np.ndarray, other: np.ndarray) -> float:
    """Share of a box (x, y, width, height) that lies inside another."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return float(max(width, 0) * max(height, 0)) / float(box[2] * box[3])
