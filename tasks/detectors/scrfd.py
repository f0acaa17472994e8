"""SCRFD: faces of any size, turned heads too, five landmarks."""

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import UInt8

from dualforce_model.encoders.scrfd import on_canvas, open_scrfd
from dualforce_model.pretrained import PRETRAINED, Weights, fingerprint
from tasks.detectors.base import DetectorConfig, Face
from tasks.detectors.search import faces_of, shrunk

WEIGHTS = PRETRAINED["scrfd"]


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
        self._net = open_scrfd(WEIGHTS, self.path)

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"], near: Sequence[Face] = ()) -> list[Face]:
        assert self._net is not None, "load() comes first"
        fixed: tuple[int, int] | None = self._net.static_input_size  # width, height
        picture = shrunk(frame, min((self.config.max_side_px, *(fixed or ()))))
        canvas = on_canvas(picture, fixed)
        found, landmarks = self._net.detect(canvas, canvas.shape[1::-1], det_thresh=self.config.min_score)
        return faces_of(frame, picture, found[:, :4], found[:, 4], landmarks, self.config)
