"""OpenCV's bundled frontal-face cascade: the face detector that needs no download.

Coordinates are pixels of the picture given, boxes are x, y, width, height (square).
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

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
    if gray.ndim != 2 or gray.dtype != np.uint8:
        raise ValueError(f"the picture is {gray.dtype} {gray.shape}: expected uint8 [H, W] (grey)")
    size = max(int(min_size_px), 1)
    found = _classifier().detectMultiScale(
        np.ascontiguousarray(gray), scaleFactor=SCALE_STEP, minNeighbors=MIN_NEIGHBOURS, minSize=(size, size)
    )
    boxes = np.asarray(found, dtype=np.int64).reshape(-1, 4)
    # Threads inside OpenCV may report in any order; equal pictures must give equal arrays.
    order = np.lexsort((boxes[:, 1], boxes[:, 0], -boxes[:, 2]))
    return boxes[order]
