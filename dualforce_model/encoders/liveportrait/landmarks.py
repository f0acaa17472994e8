"""What dense landmarks say: where eyes and lips are, and how far they are open.

Three sets are known by their number of points: 68 (the usual one), 106 (InsightFace's `2d106det`) and 203
(LivePortrait's own `landmark.onnx`, the only one that openness is measured on).
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64

NUM_DENSE = 203
TINY = 1e-6  # added to a width before it divides


class Places(NamedTuple):
    """Which points lie around the left eye and the right eye (the picture's), and which are the lips' corners."""

    left_eye: tuple[int, ...]
    right_eye: tuple[int, ...]
    lips: tuple[int, int]


PLACES: Mapping[int, Places] = MappingProxyType(
    {
        68: Places((36, 39), (42, 45), (48, 54)),
        106: Places((33, 35, 40, 39), (87, 89, 94, 93), (52, 61)),
        203: Places((0, 6, 12, 18), (24, 30, 36, 42), (48, 66)),
    }
)
# Of 203 points: from where to where it opens, and from where to where it is wide.
EYES = (((6, 18), (0, 12)), ((30, 42), (24, 36)))
LIPS = ((90, 102), (48, 66))


class Openness(NamedTuple):
    """Height over width: eyes 0 to about 0.6, lips 0 to about 0.7."""

    eyes: Float32[np.ndarray, "T 2"]  # left, right
    lips: Float32[np.ndarray, "T 1"]


def eyes_and_lips(points: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "2 2"]:
    """The middle between the eyes, and that of the lips, in pixels. Raises ValueError for a set that is not known."""
    if points.ndim != 2 or points.shape[1] != 2 or len(points) not in PLACES or not np.isfinite(points).all():
        raise ValueError(f"landmarks of shape {points.shape}: expected finite numbers [n, 2], n of {sorted(PLACES)}")
    places = PLACES[len(points)]
    left, right, lips = (points[list(place)].mean(axis=0, dtype=np.float64) for place in places)
    return np.stack([(left + right) / 2, lips])


def openness(points: Float[np.ndarray, "T 203 2"]) -> Openness:
    """How far eyes and lips are open in every frame; turning, moving or scaling the points changes nothing."""
    if points.ndim != 3 or points.shape[1:] != (NUM_DENSE, 2) or not np.isfinite(points).all():
        raise ValueError(f"landmarks of shape {points.shape}: expected finite numbers [T, {NUM_DENSE}, 2]")
    left, right = (_ratio(points, *eye) for eye in EYES)
    return Openness(np.stack([left, right], axis=1), _ratio(points, *LIPS)[:, None])


def _ratio(
    points: Float[np.ndarray, "T n 2"], height: tuple[int, int], width: tuple[int, int]
) -> Float32[np.ndarray, " T"]:
    high, wide = (np.linalg.norm(points[:, a] - points[:, b], axis=-1) for a, b in (height, width))
    return np.asarray(high / (wide + TINY), np.float32)
