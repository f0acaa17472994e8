"""Where the face is in each frame of a face crop, without jitter.

Boxes are centre x, centre y, size as shares of the frame's width, height and width: [0.5, 0.5, 0.7] is a face in the
middle that fills 70 % of the width. The track is causal: frame t's box depends on frames 0 .. t alone, so one picture
gives what a clip that begins with it gives, and nothing of the future leaks into a feature.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from dualforce_model.config import Frozen
from dualforce_model.encoders.cascade import detect_faces

DETECT_SIDE_PX = 128  # larger crops are shrunk to this before the search: boxes need no more, and it is 3 ms a frame
MAX_JUMP = 0.35  # of the face's size between two searches; what lies farther away is another thing
MAX_RESIZE = 1.3
CLOSELY = 1.5  # the cascade needs windows of neighbouring sizes to be sure


class FaceTrackConfig(Frozen):
    """Settings of the box track."""

    every: int = Field(2, ge=1, le=25, description="frames between two searches")
    smoothing: float = Field(0.25, gt=0.0, le=1.0, description="share of each new box in the smoothed one")
    min_face: float = Field(0.3, ge=0.1, le=0.9, description="smallest face searched for, share of the crop's side")
    default_x: float = Field(0.5, ge=0.0, le=1.0, description="centre assumed until a face is found, share of width")
    default_y: float = Field(0.5, ge=0.0, le=1.0, description="centre assumed until a face is found, share of height")
    default_size: float = Field(0.65, ge=0.1, le=1.0, description="size assumed until a face is found, share of width")


def to_gray(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w"]:
    """Grey picture of at most `DETECT_SIDE_PX` on a side."""
    return shrink(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY))


def shrink(plane: UInt8[np.ndarray, "H W ..."]) -> UInt8[np.ndarray, "h w ..."]:
    """The plane, or picture, shrunk by area so that its larger side is at most `DETECT_SIDE_PX`; never enlarged."""
    factor = DETECT_SIDE_PX / max(plane.shape[:2])
    if factor >= 1:
        return plane
    size = (max(round(plane.shape[1] * factor), 1), max(round(plane.shape[0] * factor), 1))
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)


def find_face(gray: UInt8[np.ndarray, "h w"], min_face: float) -> Float32[np.ndarray, " 3"] | None:
    """Largest face as centre x, centre y, size in shares of the frame; None when the cascade finds none."""
    height, width = gray.shape
    boxes = detect_faces(gray, max(int(min_face * min(height, width)), 24))
    if not len(boxes):
        return None
    x, y, w, h = boxes[0]
    return np.array([(x + w / 2) / width, (y + h / 2) / height, w / width], np.float32)


def track_face(grays: list[np.ndarray], config: FaceTrackConfig, closely: bool = False) -> Float32[np.ndarray, "T 3"]:
    """Smoothed box of every frame. Until a face is found, and if none ever is, it is the configured default.

    `closely`: faces that are too small to be the known one are not searched for, which saves a third of the time.
    """
    box = np.array([config.default_x, config.default_y, config.default_size], np.float32)
    known = False
    track = np.empty((len(grays), 3), np.float32)
    for t, gray in enumerate(grays):
        smallest = float(box[2]) * gray.shape[1] / min(gray.shape) / CLOSELY if closely and known else 0.0
        found = find_face(gray, max(config.min_face, smallest)) if t % config.every == 0 else None
        if found is not None and not known:
            box, known = found, True
        elif found is not None and _same_face(found, box):
            box = box + np.float32(config.smoothing) * (found - box)
        track[t] = box
    return track


def _same_face(found: np.ndarray, box: np.ndarray) -> bool:
    jump = float(np.hypot(found[0] - box[0], found[1] - box[1])) / float(box[2])
    ratio = float(found[2] / box[2])
    return jump < MAX_JUMP and 1 / MAX_RESIZE < ratio < MAX_RESIZE


def patches(
    grays: list[np.ndarray],
    track: Float32[np.ndarray, "T 3"],
    centre: tuple[float, float],
    extent: tuple[float, float],
    size_px: int,
) -> Float32[np.ndarray, "T p p"]:
    """A patch of each frame, resampled to p x p grey values in [-1, 1].

    `centre` and `extent` (width, height) are shares of the face box, whose corner is (0, 0) and far corner (1, 1).
    Sampled at twice the resolution and averaged, so that a patch larger than its samples does not alias.
    """
    fine = 2 * size_px
    out = np.empty((len(grays), size_px, size_px), np.float32)
    for t, (gray, (cx, cy, size)) in enumerate(zip(grays, track, strict=True)):
        height, width = gray.shape
        side = float(size) * width
        left = float(cx) * width + (centre[0] - 0.5 - extent[0] / 2) * side
        top = float(cy) * height + (centre[1] - 0.5 - extent[1] / 2) * side
        step_x, step_y = extent[0] * side / fine, extent[1] * side / fine
        to_source = np.array([[step_x, 0, left + step_x / 2 - 0.5], [0, step_y, top + step_y / 2 - 0.5]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        patch = cv2.warpAffine(
            gray.astype(np.float32), to_source, (fine, fine), flags=flags, borderMode=cv2.BORDER_REPLICATE
        )
        out[t] = patch.reshape(size_px, 2, size_px, 2).mean(axis=(1, 3))
    return out / np.float32(127.5) - np.float32(1)
