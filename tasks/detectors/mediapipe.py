"""MediaPipe's face landmarker: near, upright faces; boxes and landmarks from its mesh of 478 points.

Its library (1.2.2) reports usage statistics to Google while it runs, as its privacy notice says, and offers no switch:
where that may not be, close the way out of the machine or take another detector. No picture is in what it sends, says
the same notice.
"""

import importlib.util
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from dualforce_model.config import ConfigError
from dualforce_model.pretrained import PRETRAINED, Weights, fingerprint
from tasks.detectors.base import DetectorConfig, Face
from tasks.detectors.search import faces_of, shrunk

MAX_FACES = 4  # looked for in one picture; each that is not there costs another search
SAME_FACE = 0.5  # intersection over union of meshes that are one face: at low thresholds it returns some twice
MESH_POINTS = 478
CORNERS = ((33, 133), (263, 362))  # of each eye; their middle does not move with the gaze, as an iris does
NOSE = 1
MOUTH = (61, 291)
WEIGHTS = PRETRAINED["mediapipe"]


class MediaPipe:
    """The landmarker finds a face or does not, at `min_score`; it tells no score, so every face has score 1."""

    name: ClassVar[str] = "mediapipe"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights | None] = WEIGHTS
    landmarks: ClassVar[bool] = True

    def __init__(self, config: DetectorConfig) -> None:
        if importlib.util.find_spec("mediapipe") is None:
            raise ConfigError("detector mediapipe: the package is not installed; pip install 'dualforce[encoders]'")
        self.config = config
        self.path = WEIGHTS.find(config.weights)
        self._meshes: Callable[[np.ndarray], Sequence[Any]] | None = None

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, self.path, self.config)

    def load(self) -> None:
        cv2.setNumThreads(1)  # workers are the parallelism
        net, self._meshes = open_landmarker(WEIGHTS, self.path, self.config.min_score, MAX_FACES)
        weakref.finalize(self, net.close)  # its own __del__ fails when the interpreter ends

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"], near: Sequence[Face] = ()) -> list[Face]:
        assert self._meshes is not None, "load() comes first"
        picture = shrunk(frame, self.config.max_side_px)
        size = np.array(picture.shape[1::-1])
        points = [[(point.x, point.y) for point in mesh] for mesh in self._meshes(picture)]
        meshes = np.array(points, float).reshape(-1, MESH_POINTS, 2) * size
        boxes = np.concatenate([meshes.min(axis=1), meshes.max(axis=1)], axis=1) if len(meshes) else np.zeros((0, 4))
        once = _once(boxes)
        return faces_of(frame, picture, boxes[once], np.ones(len(once)), _landmarks(meshes[once]), self.config)


def _landmarks(meshes: Float[np.ndarray, "n 478 2"]) -> Float[np.ndarray, "n 5 2"]:
    """Middles of the eyes, tip of the nose, corners of the mouth."""
    eyes = [meshes[:, corners].mean(axis=1) for corners in CORNERS]
    return np.stack([*eyes, meshes[:, NOSE], *(meshes[:, corner] for corner in MOUTH)], axis=1)


def _once(boxes: Float[np.ndarray, "n 4"]) -> list[int]:
    """Which boxes are left when the smaller of two on one face is dropped."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    corner_and_size = np.concatenate([boxes[:, :2], sizes], axis=1)
    return [int(index) for index in cv2.dnn.NMSBoxes(corner_and_size, sizes.prod(axis=1), 0.0, SAME_FACE)]


def open_landmarker(
    weights: Weights, path: Path, min_score: float, num_faces: int
) -> tuple[Any, Callable[[np.ndarray], Sequence[Any]]]:
    """The landmarker, and a function from an RGB picture to meshes; nothing is carried from one picture to the next."""
    content = weights.read(path)
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=content),
            running_mode=vision.RunningMode.IMAGE,
            num_faces=num_faces,
            min_face_detection_confidence=min_score,
            min_face_presence_confidence=min_score,
        )
        net = vision.FaceLandmarker.create_from_options(options)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"{weights.name}: its library does not load: {error}; it needs libEGL.so.1 and libGLESv2.so.2 "
            "(Debian and Ubuntu: apt install libegl1 libgles2)"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise weights.damaged(path, error) from error

    def meshes(picture: np.ndarray) -> Sequence[Any]:
        return net.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)).face_landmarks

    return net, meshes
