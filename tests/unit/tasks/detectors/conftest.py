"""Detectors ready to look, each with the small public model that lies beside the project."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from dualforce_model.config import ConfigError
from tasks.detectors import DETECTORS, Detector, DetectorConfig, make_detector

MODELS = {
    "scrfd": "det_500m.onnx",
    "yunet": "face_detection_yunet_2023mar.onnx",
    "mediapipe": "face_landmarker.task",
}

ConfigOf = Callable[..., DetectorConfig]
DetectorOf = Callable[..., Detector]


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """A real face in a 512 x 512 picture."""
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture
def config_of(request: pytest.FixtureRequest) -> ConfigOf:
    """The configuration of a detector by name, with real weights; skips by name where they are not here."""

    def config(name: str, **settings: object) -> DetectorConfig:
        if DETECTORS[name].weights is None:
            return DetectorConfig(name=name, **settings)
        path: Path = request.getfixturevalue("shared") / "models" / MODELS[name]
        if not path.is_file():
            pytest.skip(f"{name} needs {path.name} in the folder of shared models")
        return DetectorConfig(name=name, weights=path, **settings)

    return config


@pytest.fixture
def detector_of(config_of: ConfigOf) -> DetectorOf:
    """A loaded detector by name; skips by name where the system lacks a library that it needs."""
    return lambda name, **settings: _loaded(config_of(name, **settings))


@lru_cache(maxsize=16)
def _loaded(config: DetectorConfig) -> Detector:
    try:
        detector = make_detector(config)
        detector.load()
    except ConfigError as error:
        if config.name != "mediapipe":
            raise
        pytest.skip(str(error))
    return detector
