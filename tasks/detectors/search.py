"""What every net's search begins and ends with: the picture made small enough, the finds made faces of the picture."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from dualforce_model.errors import InputError
from tasks.detectors.base import DetectorConfig, Face

NUM_LANDMARKS = 5


def shrunk(frame: UInt8[np.ndarray, "H W 3"], max_side_px: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture, contiguous, at most `max_side_px` on a side; never enlarged."""
    height, width = frame.shape[:2]
    factor = max_side_px / max(height, width)
    if factor >= 1:
        return np.ascontiguousarray(frame)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return np.asarray(cv2.resize(np.ascontiguousarray(frame), size, interpolation=cv2.INTER_AREA))


def faces_of(
    frame: UInt8[np.ndarray, "H W 3"],
    searched: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, " n"],
    landmarks: Float[np.ndarray, "n 5 2"] | None,
    config: DetectorConfig,
) -> list[Face]:
    """Faces in pixels of the frame, the largest first.

    Boxes (x1, y1, x2, y2) and landmarks are in pixels of the picture that was searched. Boxes end at the frame's edges;
    faces lower than `min_face` are left out.
    """
    for values in (boxes, scores, landmarks):
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{config.name}: its net gave boxes that are not numbers; get its weights anew")
    height, width = frame.shape[:2]
    scale = np.array([width / searched.shape[1], height / searched.shape[0]])
    corners = np.clip(boxes.astype(float) * np.tile(scale, 2), 0, (width, height, width, height))
    sizes = corners[:, 2:] - corners[:, :2]
    smallest_px = config.min_face * min(height, width)
    kept = [
        index
        for index in np.argsort(-sizes.prod(axis=1), kind="stable")
        if sizes[index, 0] > 0 and sizes[index, 1] >= smallest_px
    ]
    return [
        Face(
            tuple(corners[index].tolist()),
            float(np.clip(scores[index], 0, 1)),
            None if landmarks is None else _in_order((landmarks[index] * scale).tolist()),
        )
        for index in kept
    ]


def _in_order(points: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Eyes, nose, mouth corners, the left one in the picture first: heads may stand on theirs."""
    left, right, nose, *mouth = [(float(x), float(y)) for x, y in points]
    return (*sorted((left, right)), nose, *sorted(mouth))
