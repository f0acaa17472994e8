"""What the motion extractor sees: a square around the face's landmarks, cut to 512 px, then 256.

A clip's square stands still and upright, so that turning and moving of the head stay in the numbers; a single picture's
may turn with the face. Squares come from dense landmarks: five points are too few to set a size by.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float64, UInt8

from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.liveportrait.landmarks import eyes_and_lips

PICTURE_PX = 256
CUT_PX = 512
NO_AXIS_PX = 1e-3  # eyes as near as this to the lips give no direction


class CropForm(NamedTuple):
    """A way to cut."""

    scale: float  # side over the larger extent of the landmarks, measured along the face
    shift: float  # of the side, from the middle of the landmarks towards the lips
    turned: bool  # whether the face is made upright
    side_px: int


SOURCE = CropForm(2.3, -0.125, turned=True, side_px=CUT_PX)
DRIVING = CropForm(2.2, -0.1, turned=False, side_px=CUT_PX)
REFINING = CropForm(1.5, -0.1, turned=True, side_px=224)  # what `landmark.onnx` sees: its points come back / 224


class Square(NamedTuple):
    """Centre and side in pixels, and by how much it is turned (clockwise in the picture)."""

    x: float
    y: float
    side: float
    radians: float = 0.0


def face_square(points: Float[np.ndarray, "n 2"], form: CropForm) -> Square:
    """The square of one picture's 68, 106 or 203 landmarks. Raises ValueError for others, NoFaceError for one point."""
    eyes, lips = eyes_and_lips(points)
    length = float(np.linalg.norm(lips - eyes))
    down = (lips - eyes) / length if length > NO_AXIS_PX else np.array([0.0, 1.0])
    right = np.array([down[1], -down[0]])
    middle = points.mean(axis=0, dtype=np.float64)
    along = (points - middle) @ np.stack([right, down], axis=1)
    least, most = along.min(axis=0), along.max(axis=0)
    side = float((most - least).max()) * form.scale
    if side < 1:
        raise NoFaceError(f"landmarks span {side / form.scale:g} px, nearly one point: expected those of a face")
    across, downwards = (least + most) / 2
    x, y = middle + right * across + down * (downwards + form.shift * side)
    return Square(float(x), float(y), side, float(np.arctan2(right[1], right[0])) if form.turned else 0.0)


def mean_square(landmarks: Float[np.ndarray, "T n 2"], form: CropForm = DRIVING) -> Square:
    """The one square of a clip: the mean of those of its frames. Raises ValueError for no frames, or a turned form."""
    if landmarks.ndim != 3 or not len(landmarks):
        raise ValueError(f"landmarks of shape {landmarks.shape}: expected [T, n, 2] with T >= 1")
    if form.turned:
        raise ValueError("squares that turn with the face have no mean: expected an upright form, such as DRIVING")
    return Square(*np.mean([face_square(points, form) for points in landmarks], axis=0).tolist())


def to_crop(square: Square, side_px: int) -> Float64[np.ndarray, "2 3"]:
    """Takes pixels of the picture to those of the crop, as columns [x, y, 1]."""
    zoom = side_px / square.side
    cosine, sine = zoom * np.cos(square.radians), zoom * np.sin(square.radians)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    return np.column_stack([linear, side_px / 2 - linear @ (square.x, square.y)])


def source_picture(
    image: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "n 2"], form: CropForm = SOURCE
) -> UInt8[np.ndarray, "256 256 3"]:
    """The net's picture of a single one, RGB as that; what lies outside of it is black."""
    return _cut(image, face_square(points, form), form.side_px)


def driving_pictures(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]], landmarks: Float[np.ndarray, "T n 2"], form: CropForm = DRIVING
) -> UInt8[np.ndarray, "T 256 256 3"]:
    """The net's pictures of a clip, RGB as its frames, all cut out alike.

    Raises ValueError where there are more or fewer frames than landmarks, and as `mean_square` does.
    """
    square = mean_square(landmarks, form)
    pictures: np.ndarray = np.empty((len(landmarks), PICTURE_PX, PICTURE_PX, 3), np.uint8)
    for picture, frame in zip(pictures, frames, strict=True):
        picture[:] = _cut(frame, square, form.side_px)
    return pictures


def picture_in(
    frame: UInt8[np.ndarray, "H W 3"], square: Square, form: CropForm = DRIVING
) -> UInt8[np.ndarray, "256 256 3"]:
    """The net's picture of a frame, cut out by the given square."""
    return _cut(frame, square, form.side_px)


def _cut(frame: UInt8[np.ndarray, "H W 3"], square: Square, side_px: int) -> UInt8[np.ndarray, "256 256 3"]:
    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"a picture is {frame.dtype} {frame.shape}: expected uint8 [H, W, 3]")
    cut = cv2.warpAffine(frame, to_crop(square, side_px), (side_px, side_px), flags=cv2.INTER_LINEAR)
    # Upstream has INTER_AREA for pictures and INTER_LINEAR for clips; halving is the mean of four pixels in both.
    return np.asarray(cv2.resize(cut, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA))
