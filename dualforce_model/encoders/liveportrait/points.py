"""Dense landmarks of the face in every frame of a crop: what the motion extractor's square is set by.

Legend: T frames, n landmarks. The first landmarks are InsightFace's 106 (in the box of its SCRFD) or 68 of MediaPipe's
mesh; LivePortrait's own net of 203 refines either. Boxes and points are in pixels of the frame.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from pydantic import Field

from dualforce_model.config import ConfigError, Frozen
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.liveportrait.crops import DRIVING, REFINING, Square, face_square, to_crop
from dualforce_model.encoders.liveportrait.landmarks import NUM_DENSE
from dualforce_model.encoders.scrfd import on_canvas, open_scrfd
from dualforce_model.onnx_session import open_session, tried
from dualforce_model.pretrained import PRETRAINED

NUM_FIRST = 106
FIRST_PX = 192  # side of what `2d106det.onnx` sees
FIRST_SCALE = 1.5  # of that, over the larger side of the face's box
DETECT_PX = 320  # largest side of what is searched for a face: it fills a good part of a crop
MIN_SCORE = 0.5  # of SCRFD, as its makers use it
MAX_GROWTH = 2.0  # of the face's square since it was last looked for; more is no face
MAX_SHIFT = 0.5  # of that square's side, from its centre
ANSWER = 2  # which output of `landmark.onnx` holds the points
DETECTOR = replace(PRETRAINED["scrfd"], setting="landmark_weights.detector")
FIRST = replace(PRETRAINED["insightface_landmarks"], setting="landmark_weights.first")
DENSE = replace(PRETRAINED["liveportrait_landmarks"], setting="landmark_weights.dense")
# fmt: off
MESH_68 = (  # which points of MediaPipe's mesh stand where the usual 68 do
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw, from the picture's left
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,  # lips
)
# fmt: on


class LandmarkWeights(Frozen):
    """Where the nets of the landmarks lie."""

    detector: Path | None = Field(None, description="SCRFD, det_*.onnx, or its folder; null: the default folder")
    first: Path | None = Field(None, description="2d106det.onnx or its folder; null: the default folder")
    dense: Path | None = Field(None, description="LivePortrait's landmark.onnx or its folder; null: the default folder")
    mesh: Path | None = Field(None, description="face_landmarker.task or its folder; null: the default folder")


class FirstLandmarks:
    """InsightFace's 106 points of the largest face."""

    def __init__(self, weights: LandmarkWeights) -> None:
        if importlib.util.find_spec("insightface") is None:
            raise ConfigError(
                "landmarks insightface: the package is not installed; pip install 'dualforce[encoders]', or take "
                "landmarks mediapipe"
            )
        self.paths = {"scrfd": DETECTOR.find(weights.detector), "2d106det": FIRST.find(weights.first)}
        self._detector: Any = None
        self._net: Any = None

    def load(self) -> None:
        """Open both nets. Raises DamagedWeightsError."""
        self._detector = open_scrfd(DETECTOR, self.paths["scrfd"])
        self._net, path = open_session(FIRST, self.paths["2d106det"]), self.paths["2d106det"]
        blank = np.zeros((1, 3, FIRST_PX, FIRST_PX), np.float32)
        answers = tried(FIRST, path, self._net, {self._net.get_inputs()[0].name: blank})
        if [answer.shape for answer in answers] != [(1, 2 * NUM_FIRST)]:
            found = [answer.shape for answer in answers]
            raise FIRST.damaged(path, f"it answers {found}, expected [(1, {2 * NUM_FIRST})]")

    def find(self, frame: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "106 2"] | None:
        """Points of an RGB frame; None where no face is found."""
        box = self._box(frame)
        return None if box is None else self.within(frame, box)

    def within(self, frame: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"]) -> Float32[np.ndarray, "106 2"]:
        """Points of the face in a box (x1, y1, x2, y2)."""
        assert self._net is not None, "load() comes first"
        side = max(float((box[2:] - box[:2]).max()) * FIRST_SCALE, 1.0)
        x, y = (box[:2] + box[2:]) / 2
        placed = to_crop(Square(float(x), float(y), side), FIRST_PX)
        picture = cv2.warpAffine(frame, placed, (FIRST_PX, FIRST_PX), flags=cv2.INTER_LINEAR)
        feed = picture.transpose(2, 0, 1)[None].astype(np.float32)  # 0 to 255: the net itself brings them to its scale
        (said,) = self._net.run(None, {self._net.get_inputs()[0].name: feed})
        return _back((said.reshape(NUM_FIRST, 2) + 1) * (FIRST_PX // 2), placed)

    def _box(self, frame: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " 4"] | None:
        assert self._detector is not None, "load() comes first"
        fixed: tuple[int, int] | None = self._detector.static_input_size
        zoom = min(1.0, min((DETECT_PX, *(fixed or ()))) / max(frame.shape[:2]))
        size = (max(round(frame.shape[1] * zoom), 1), max(round(frame.shape[0] * zoom), 1))
        picture = frame if zoom == 1.0 else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        canvas = on_canvas(picture, fixed)
        boxes, _ = self._detector.detect(canvas, canvas.shape[1::-1], det_thresh=MIN_SCORE)
        if not len(boxes):
            return None
        corners = boxes[:, :4] * np.tile([frame.shape[1] / size[0], frame.shape[0] / size[1]], 2)
        return np.asarray(corners[np.argmax(np.prod(corners[:, 2:] - corners[:, :2], axis=1))])


class DenseLandmarks:
    """LivePortrait's net of 203 points, which is shown where the face is by coarser ones, or by its own of before."""

    def __init__(self, weights: LandmarkWeights) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise ConfigError(
                "dense landmarks: the package onnxruntime is not installed; pip install 'dualforce[encoders]', or set "
                "refine to false"
            )
        self.path = DENSE.find(weights.dense)
        self._net: Any = None

    def load(self) -> None:
        """Open the net. Raises DamagedWeightsError."""
        self._net = open_session(DENSE, self.path)
        side = REFINING.side_px
        blank = {self._net.get_inputs()[0].name: np.zeros((1, 3, side, side), np.float32)}
        sizes = [answer.size for answer in tried(DENSE, self.path, self._net, blank)]
        if len(sizes) <= ANSWER or sizes[ANSWER] != 2 * NUM_DENSE:
            raise DENSE.damaged(self.path, f"its answers hold {sizes} numbers; the third should hold {2 * NUM_DENSE}")

    def refine(
        self, frame: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "n 2"]
    ) -> Float32[np.ndarray, "203 2"]:
        """The 203 points of the face that these (68, 106 or 203) lie on."""
        assert self._net is not None, "load() comes first"
        side = REFINING.side_px
        placed = to_crop(face_square(points, REFINING), side)
        picture = cv2.warpAffine(frame, placed, (side, side), flags=cv2.INTER_LINEAR)
        feed = (picture.transpose(2, 0, 1)[None] / 255).astype(np.float32)
        said = self._net.run(None, {self._net.get_inputs()[0].name: feed})[ANSWER]
        return _back(said.reshape(NUM_DENSE, 2) * side, placed)


class Followed(NamedTuple):
    """The face through a clip."""

    points: list[Float32[np.ndarray, "n 2"] | None]  # of every frame; None: looked for and not found
    seen: list[bool]  # whether it is there, by what was looked for: points that were followed prove nothing


def follow(
    frames: UInt8[np.ndarray, "T H W 3"], first: FirstLandmarks, dense: DenseLandmarks | None, every: int
) -> Followed:
    """Points of every frame: looked for in every `every`-th and where there were none or odd ones, else followed.

    Only the dense net can follow; without it they are looked for in all. Frame t's depend on frames 0 .. t alone;
    whether a face is seen between two searches is known after the second.
    """
    points: list[np.ndarray | None] = []
    found: dict[int, bool] = {}  # by the frames that were searched
    square: Square | None = None  # of the last search
    for t, frame in enumerate(frames):
        last = points[-1] if t % every else None
        here = None if dense is None or last is None else _near(dense.refine(frame, last), square)
        if here is None:
            here = _search(frame, first, dense)
            square = None if here is None else _square(here)
            found[t] = here is not None
        points.append(here)
    return Followed(points, _seen(frames, first, found))


def mesh_landmarks(points: Float[np.ndarray, "T 478 3"]) -> Float32[np.ndarray, "T 68 2"]:
    """The usual 68 of MediaPipe's meshes. All 478 would not do: they reach up to the hair, and set the size."""
    return np.ascontiguousarray(points[:, MESH_68, :2], np.float32)


def gapless(
    found: Sequence[Float32[np.ndarray, "n 2"] | None], seen: Sequence[bool], min_seen: float
) -> Float32[np.ndarray, "T n 2"]:
    """Points of every frame; where there are none, those of the last frame before that has some, else of the first.

    Raises NoFaceError where less than `min_seen` of the frames, or none, show a face.
    """
    count = sum(seen)
    if not count or count < min_seen * len(seen):
        raise NoFaceError(f"a face in {count} of {len(seen)} frames; expected one in {min_seen:.0%} or more")
    kept: list[np.ndarray] = []
    last = next(points for points in found if points is not None)
    for points in found:
        last = last if points is None else points
        assert last is not None, "the first that is seen fills the frames before it"
        kept.append(last)
    return np.stack(kept)


def _search(
    frame: UInt8[np.ndarray, "H W 3"], first: FirstLandmarks, dense: DenseLandmarks | None
) -> Float32[np.ndarray, "n 2"] | None:
    """Points where a face is found, refined where there is a net for that."""
    looked = first.find(frame)
    square = None if looked is None else _square(looked)
    if looked is None or square is None:
        return None
    return looked if dense is None else _near(dense.refine(frame, looked), square)


def _near(points: Float32[np.ndarray, "n 2"], square: Square | None) -> Float32[np.ndarray, "n 2"] | None:
    """The points where they may be of the face that had this square a moment ago, else None."""
    now = _square(points)
    if now is None or square is None:
        return None
    grown = max(now.side, square.side) / min(now.side, square.side)
    moved = float(np.hypot(now.x - square.x, now.y - square.y))
    return points if grown <= MAX_GROWTH and moved <= MAX_SHIFT * square.side else None


def _square(points: Float32[np.ndarray, "n 2"]) -> Square | None:
    """The face's square; None of points that are no numbers, or all within a pixel."""
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1:
        return None
    return face_square(points, DRIVING)


def _seen(frames: UInt8[np.ndarray, "T H W 3"], first: FirstLandmarks, found: dict[int, bool]) -> list[bool]:
    """Whether each frame shows a face: all between two that do, and up to where it was lost between one that does and
    one that does not, which is looked for by halving. The last frame is looked at in any case.
    """
    end = len(frames) - 1
    looked = found if end in found else {**found, end: first.find(frames[end]) is not None}
    seen = [looked.get(t, False) for t in range(len(frames))]
    times = sorted(looked)
    for before, after in pairwise(times):
        if not looked[before]:
            continue  # the next frame was searched
        there, gone = (after, after) if looked[after] else (before, after)
        while gone - there > 1:
            middle = (there + gone) // 2
            there, gone = (middle, gone) if first.find(frames[middle]) is not None else (there, middle)
        seen[before : there + 1] = [True] * (there + 1 - before)
    return seen


def _back(points: Float[np.ndarray, "n 2"], placed: Float[np.ndarray, "2 3"]) -> Float32[np.ndarray, "n 2"]:
    """Points of a crop as points of the frame that `placed` took to it."""
    inverse = cv2.invertAffineTransform(placed)
    return np.asarray(points @ inverse[:, :2].T + inverse[:, 2], np.float32)
