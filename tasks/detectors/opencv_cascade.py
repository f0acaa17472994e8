"""OpenCV's bundled cascade: upright, frontal faces; no landmarks, no turned heads, nothing to download."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import UInt8

from dualforce_model import storage
from dualforce_model.config import digest
from dualforce_model.encoders.cascade import CASCADE, detect_faces
from tasks.detectors.base import DetectorConfig, Face
from tasks.detectors.weights import Weights

SMALLEST_PX = 24  # side of the pattern the cascade was trained on
SURROUNDINGS = 1.7  # side of what is searched around a known face, in sizes of the face
SMALLER = 0.7  # smallest size that a known face may have next time
NESTED = 0.5  # of a box's own area: the cascade likes to find small faces inside large ones


class OpenCVCascade:
    """The frontal-face cascade. It says yes or no, so every face has score 1."""

    name: ClassVar[str] = "opencv_cascade"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights | None] = None

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
        boxes = [box for face in near for box in _around(gray, face, scale)] if near else _boxes(gray, smallest_px)
        kept: list[np.ndarray] = []
        for box in sorted(boxes, key=lambda box: -float(box[2])):
            if not any(_share_inside(box, larger) > NESTED for larger in kept):
                kept.append(box)
        corners = [(float(v) * scale for v in (x, y, x + w, y + h)) for x, y, w, h in kept]
        return [Face((x1, y1, x2, y2), 1.0) for x1, y1, x2, y2 in corners]


def _boxes(gray: UInt8[np.ndarray, "h w"], smallest_px: int) -> list[np.ndarray]:
    return [box.astype(float) for box in detect_faces(gray, smallest_px)]


def _around(gray: UInt8[np.ndarray, "h w"], face: Face, scale: float) -> list[np.ndarray]:
    """The box that a known face has now, or none: a small part of the work of the whole picture."""
    x1, y1, x2, y2 = (value / scale for value in face.box)
    margin = (SURROUNDINGS - 1) / 2 * (x2 - x1)
    left, top = max(int(x1 - margin), 0), max(int(y1 - margin), 0)
    part = gray[top : int(y2 + margin) + 1, left : int(x2 + margin) + 1]
    corner = np.array([left, top, 0, 0])
    found = [box + corner for box in _boxes(part, max(round(SMALLER * (x2 - x1)), SMALLEST_PX))]
    known = np.array([x1, y1, x2 - x1, y2 - y1])
    # The one that agrees best: single looks also find foreheads and whole heads.
    return sorted(found, key=lambda box: -_share_inside(box, known) * _share_inside(known, box))[:1]


def _share_inside(box: np.ndarray, other: np.ndarray) -> float:
    """Share of a box (x, y, width, height) that lies inside another."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    return float(max(width, 0) * max(height, 0)) / float(box[2] * box[3])
