"""YuNet through OpenCV: small and fast, turned heads too, five landmarks, a permissive licence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import UInt8

from dualforce_model.pretrained import PRETRAINED, Weights, fingerprint
from tasks.detectors.base import DetectorConfig, Face
from tasks.detectors.search import faces_of, shrunk

SAME_FACE = 0.3  # intersection over union of boxes that are one face
MAX_CANDIDATES = 5000
ROW = 15  # x, y, width, height; five points; score
LEAST_PX = 64  # at 32 and less a grid has one row, and OpenCV 4.14 answers with what lay in memory
WEIGHTS = PRETRAINED["yunet"]


class YuNet:
    """OpenCV's FaceDetectorYN. The score is the net's own."""

    name: ClassVar[str] = "yunet"
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
        self._net = _open(self.path, self.config.min_score)

    def __call__(self, frame: UInt8[np.ndarray, "H W 3"], near: Sequence[Face] = ()) -> list[Face]:
        assert self._net is not None, "load() comes first"
        picture = shrunk(frame, self.config.max_side_px)
        height, width = picture.shape[:2]
        canvas = np.zeros((max(height, LEAST_PX), max(width, LEAST_PX), 3), np.uint8)
        canvas[:height, :width] = picture[:, :, ::-1]
        self._net.setInputSize(canvas.shape[1::-1])
        _, rows = self._net.detect(canvas)
        if rows is None:
            return []
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        landmarks = rows[:, 4:14].reshape(-1, 5, 2)
        return faces_of(frame, picture, boxes, rows[:, 14], landmarks, self.config)


def _open(path: Path, min_score: float) -> Any:
    """The net, tried once on a blank picture: OpenCV notices a wrong model only when it runs."""
    content = np.frombuffer(WEIGHTS.read(path), np.uint8)
    size = (LEAST_PX, LEAST_PX)
    try:
        net = cv2.FaceDetectorYN.create(
            "onnx", content, np.zeros(0, np.uint8), size, min_score, SAME_FACE, MAX_CANDIDATES
        )
        _, rows = net.detect(np.zeros((*size, 3), np.uint8))
    except cv2.error as error:
        raise WEIGHTS.damaged(path, error) from error
    assert rows is None or rows.shape[1] == ROW, "FaceDetectorYN gives boxes, five points and a score"
    return net
