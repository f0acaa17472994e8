"""SCRFD through insightface's own class: faces of any size, turned heads too, five landmarks.

The class is handed an open session, so insightface's downloads are never reached.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import UInt8

from dualforce_model.pretrained import Weights, fingerprint
from tasks.detectors.base import DetectorConfig, Face
from tasks.detectors.search import faces_of, shrunk
from tasks.onnx_session import open_session

STRIDE_PX = 32  # of the coarsest grid: sides must be multiples of it
NUM_OUTPUTS = (6, 9, 10, 15)  # three or five grids, without and with landmarks
WEIGHTS = Weights(
    name="scrfd",
    setting="detector.weights",
    pattern="det_*.onnx",
    folder="buffalo_l",
    origin="InsightFace (github.com/deepinsight/insightface), model pack buffalo_l of the release model-zoo",
    licence="non-commercial research only",
    url="https://github.com/deepinsight/insightface/releases/download/model-zoo/buffalo_l.zip",
)


class Scrfd:
    """Any SCRFD: `det_10g.onnx` of buffalo_l, `det_500m.onnx` of buffalo_s. The score is the net's own."""

    name: ClassVar[str] = "scrfd"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights | None] = WEIGHTS
    landmarks: ClassVar[bool] = True

    def __init__(self, config: DetectorConfig) -> None:
        self.config = config
        self.path = WEIGHTS.find(config.weights)
        self._net: Any = None

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, self.path, self.config)

    def load(self) -> None:
        cv2.setNumThreads(1)  # workers are the parallelism
        self._net = _open(self.path)

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"], near: Sequence[Face] = ()) -> list[Face]:
        assert self._net is not None, "load() comes first"
        fixed: tuple[int, int] | None = self._net.static_input_size  # width, height
        picture = shrunk(frame, min((self.config.max_side_px, *(fixed or ()))))
        canvas = _canvas(picture, fixed)
        found, landmarks = self._net.detect(canvas, canvas.shape[1::-1], det_thresh=self.config.min_score)
        return faces_of(frame, picture, found[:, :4], found[:, 4], landmarks, self.config)


def _canvas(picture: UInt8[np.ndarray, "h w 3"], fixed: tuple[int, int] | None) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture in BGR at the upper left of a black one whose size the net takes."""
    height, width = picture.shape[:2]
    across, down = fixed or (-(-width // STRIDE_PX) * STRIDE_PX, -(-height // STRIDE_PX) * STRIDE_PX)
    canvas = np.zeros((down, across, 3), np.uint8)
    canvas[:height, :width] = picture[:, :, ::-1]
    return canvas


def _open(path: Path) -> Any:
    """insightface's SCRFD on one CPU thread, tried once. The package is imported here: it takes half a second."""
    from insightface.model_zoo.scrfd import SCRFD

    session = open_session(WEIGHTS, path)
    (taken,), outputs = session.get_inputs(), session.get_outputs()
    if len(outputs) not in NUM_OUTPUTS or len(taken.shape) != 4:
        found = f"it takes {taken.shape} and gives {len(outputs)} outputs"
        raise WEIGHTS.damaged(path, f"{found}; SCRFD takes one picture and gives 6, 9, 10 or 15")
    net = SCRFD(session=session)
    blank = _canvas(np.zeros((STRIDE_PX, STRIDE_PX, 3), np.uint8), net.static_input_size)
    try:
        found, landmarks = net.detect(blank, blank.shape[1::-1], det_thresh=0.0)
    except Exception as error:  # from onnxruntime, or from numpy about shapes
        raise WEIGHTS.damaged(path, error) from error
    if found.shape[1:] != (5,) or (landmarks is not None and landmarks.shape[1:] != (5, 2)):
        raise WEIGHTS.damaged(path, f"its boxes have the shape {found.shape}, expected [n, 5]")
    if not np.isfinite(found).all():
        raise WEIGHTS.damaged(path, "its boxes are not numbers")
    return net
