"""What SMIRK and DECA see: an upright square around the face's landmarks, 224 px, every frame cut for itself."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

PICTURE_PX = 224
SMIRK_SCALE = 1.4  # side over the mean extent of the mesh
DECA_SCALE = 1.25
DECA_LANDMARKS = 1.1  # what 68 landmarks, brows to chin, lack of a head
BOX_DOWN = 0.12  # of the mean extent: a detector's box sits higher than the face


class CropSquare(NamedTuple):
    """Centre and whole side, in pixels."""

    x: float
    y: float
    side: int


def mesh_square(points: Float[np.ndarray, "478 d"], scale: float = SMIRK_SCALE) -> CropSquare:
    """SMIRK's square, around MediaPipe's mesh. Raises ValueError for points without extent, or that are no numbers."""
    x, y, extent = _middle(_extents(points))
    return _square(x, y, extent * scale)


def landmarks_square(points: Float[np.ndarray, "68 d"], scale: float = DECA_SCALE) -> CropSquare:
    """DECA's square, around 68 landmarks. Raises ValueError as `mesh_square` does."""
    x, y, extent = _middle(_extents(points))
    return _square(x, y, extent * DECA_LANDMARKS * scale)


def box_square(box: Float[np.ndarray, " 4"], scale: float = DECA_SCALE) -> CropSquare:
    """DECA's square where only a detector's box (left, top, right, bottom) is known."""
    x, y, extent = _middle(box.astype(np.float64))
    return _square(x, y + BOX_DOWN * extent, extent * scale)


def to_crop(square: CropSquare) -> Float64[np.ndarray, "3 3"]:
    """Takes pixels of the frame to those of the crop: the square's corners to those of its corner pixels."""
    zoom = (PICTURE_PX - 1) / square.side
    left, top = square.x - square.side / 2, square.y - square.side / 2
    return np.array([[zoom, 0, -zoom * left], [0, zoom, -zoom * top], [0, 0, 1]])


def cut(frame: UInt8[np.ndarray, "H W 3"], square: CropSquare) -> Float64[np.ndarray, "224 224 3"]:
    """The square of a frame, 0 to 255, not rounded; what lies outside of the frame is black."""
    from skimage.transform import warp  # slow to import, and only extracting needs it

    if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise ValueError(f"a picture is {frame.dtype} {frame.shape}: expected uint8 [H, W, 3]")
    back = np.linalg.inv(to_crop(square))
    return np.asarray(warp(frame, back, output_shape=(PICTURE_PX, PICTURE_PX), preserve_range=True))


def smirk_picture(
    frame: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "478 d"]
) -> Float32[np.ndarray, "224 224 3"]:
    """What SMIRK sees of a frame, 0 to 1: it was trained on whole steps of 1/255, cut off, not rounded."""
    return np.asarray(cut(frame, mesh_square(points)).astype(np.uint8) / np.float32(255), np.float32)


def deca_picture(
    frame: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "68 d"]
) -> Float32[np.ndarray, "224 224 3"]:
    """What DECA and EMOCA see of a frame, 0 to 1."""
    return np.asarray(cut(frame, landmarks_square(points)) / 255, np.float32)


def _extents(points: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " 4"]:
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points):
        raise ValueError(f"landmarks of shape {points.shape}: expected [n, 2 or 3]")
    xy = points[:, :2].astype(np.float64)
    return np.concatenate([xy.min(axis=0), xy.max(axis=0)])


def _middle(box: Float64[np.ndarray, " 4"]) -> tuple[float, float, float]:
    """Centre, and the mean of width and height."""
    left, top, right, bottom = box.tolist()
    return (left + right) / 2, (top + bottom) / 2, (right - left + bottom - top) / 2


def _square(x: float, y: float, side: float) -> CropSquare:
    if not np.isfinite((x, y, side)).all() or side < 1:
        raise ValueError(f"a face of {side:g} px at ({x:g}, {y:g}): expected one of some pixels")
    return CropSquare(x, y, int(side))
