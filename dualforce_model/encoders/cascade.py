"""OpenCV's bundled frontal-face cascade: the face detector that needs no download.

Coordinates are pixels of the picture given, boxes are x, y, width, height (square).
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, Int64, UInt8

CASCADE = "haarcascade_frontalface_default.xml"
SCALE_STEP = 1.1
MIN_NEIGHBOURS = 4


@cache
def _classifier() -> cv2.CascadeClassifier:
    """The cascade, read once per process (it keeps scratch memory: one per thread would be needed for threads)."""
    path = Path(cv2.data.haarcascades) / CASCADE
    classifier = cv2.CascadeClassifier(str(path))
    if classifier.empty():
        raise FileNotFoundError(f"{path}: OpenCV's cascade is missing; install opencv-python==4.14.0.94 (5.x has none)")
    return classifier


def detect_faces(gray: UInt8[np.ndarray, "H W"], min_size_px: int) -> Int64[np.ndarray, "n 4"]:
    """Boxes x, y, width, height of upright frontal faces at least `min_size_px` wide, the largest first."""
    size = _checked(gray, min_size_px)
    found = _classifier().detectMultiScale(
        np.ascontiguousarray(gray), scaleFactor=SCALE_STEP, minNeighbors=MIN_NEIGHBOURS, minSize=(size, size)
    )
    boxes = np.asarray(found, dtype=np.int64).reshape(-1, 4)
    return boxes[_in_order(boxes)]


def weigh_faces(
    gray: UInt8[np.ndarray, "H W"], min_size_px: int
) -> tuple[Int64[np.ndarray, "n 4"], Float64[np.ndarray, " n"]]:
    """The same boxes with what the last stage of the cascade adds up to: about 0 for textures, 5 to 13 for faces."""
    size = _checked(gray, min_size_px)
    found, _, sums = _classifier().detectMultiScale3(
        np.ascontiguousarray(gray),
        scaleFactor=SCALE_STEP,
        minNeighbors=MIN_NEIGHBOURS,
        minSize=(size, size),
        outputRejectLevels=True,
    )
    boxes, weights = np.asarray(found, dtype=np.int64).reshape(-1, 4), np.asarray(sums, dtype=np.float64).reshape(-1)
    order = _in_order(boxes)
    return boxes[order], weights[order]


def _checked(gray: UInt8[np.ndarray, "H W"], min_size_px: int) -> int:
    if gray.ndim != 2 or gray.dtype != np.uint8:
        raise ValueError(f"the picture is {gray.dtype} {gray.shape}: expected uint8 [H, W] (grey)")
    return max(int(min_size_px), 1)


def _in_order(boxes: Int64[np.ndarray, "n 4"]) -> Int64[np.ndarray, " n"]:
    """Threads inside OpenCV may report in any order; equal pictures must give equal arrays."""
    return np.lexsort((boxes[:, 1], boxes[:, 0], -boxes[:, 2]))
