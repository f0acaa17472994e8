"""What SyncNet sees: per frame one square of 224 px that follows the face, 1.4 times as large as its box, and lower.

Centre and size are smoothed by a median, with the zero padding at both ends that the published scores were made with.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Float, Float64, UInt8

FACE_PX = 224
MARGIN = 0.4  # of half the box's longer side: left and right of it; twice that below
SMOOTHED_FRAMES = 13
OUTSIDE = 110  # grey of what lies outside the picture


def face_pictures(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]], boxes: Float[np.ndarray, "T 4"]
) -> UInt8[np.ndarray, "T 224 224 3"]:
    """The net's picture of every frame, RGB as the frames. Boxes are x1, y1, x2, y2 of the face in their pixels.

    Raises ValueError for fewer than 7 boxes, boxes without extent, and where there are more or fewer frames than boxes.
    """
    squares = face_squares(boxes)
    pictures: np.ndarray = np.empty((len(squares), FACE_PX, FACE_PX, 3), np.uint8)
    for picture, frame, (x1, y1, x2, y2) in zip(pictures, frames, squares.tolist(), strict=True):
        picture[:] = _cut(frame, x1, y1, x2, y2)
    return pictures


def face_squares(boxes: Float[np.ndarray, "T 4"]) -> Float64[np.ndarray, "T 4"]:
    """x1, y1, x2, y2 in whole pixels of what is cut out; it may stick out of the picture."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) <= SMOOTHED_FRAMES // 2 or not np.isfinite(boxes).all():
        least = SMOOTHED_FRAMES // 2 + 1  # of fewer the padding would be the median
        raise ValueError(f"boxes of shape {boxes.shape}: expected finite numbers [T, 4] with T >= {least}")
    extent = boxes[:, 2:] - boxes[:, :2]
    if (extent <= 0).any():
        raise ValueError(f"a box of {extent.min():g} px: expected x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    half = _median(extent.max(axis=1) / 2)
    x, y = (_median(boxes[:, [side, side + 2]].mean(axis=1)) for side in (0, 1))
    # Numbers are cut off as in a picture that was first padded by this much.
    pad = np.floor(half * (1 + 2 * MARGIN))
    edges = (x - half * (1 + MARGIN), y - half, x + half * (1 + MARGIN), y + half * (1 + 2 * MARGIN))
    return np.stack([np.trunc(edge + pad) - pad for edge in edges], axis=1)


def _median(values: Float64[np.ndarray, " T"]) -> Float64[np.ndarray, " T"]:
    """Running median; zeros stand before the first and after the last value."""
    padded = np.pad(values, SMOOTHED_FRAMES // 2)
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHED_FRAMES), axis=1)


def _cut(frame: UInt8[np.ndarray, "H W 3"], *square: float) -> UInt8[np.ndarray, "224 224 3"]:
    """The square of a picture, grey where it sticks out."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (int(edge) for edge in square)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    part: np.ndarray = np.full((y2 - y1, x2 - x1, 3), OUTSIDE, np.uint8)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if left < right and top < bottom:
        part[top - y1 : bottom - y1, left - x1 : right - x1] = frame[top:bottom, left:right]
    return np.asarray(cv2.resize(part, (FACE_PX, FACE_PX), interpolation=cv2.INTER_LINEAR))
