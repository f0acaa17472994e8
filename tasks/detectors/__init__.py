"""Face detectors: where faces are in one picture.

detector = make_detector(DetectorConfig(name="opencv_cascade"))
"""

from dualforce_model.config import ConfigError
from tasks.detectors.base import Detector, DetectorConfig, Face
from tasks.detectors.opencv_cascade import OpenCVCascade

DETECTORS: dict[str, type[Detector]] = {
    OpenCVCascade.name: OpenCVCascade,
}


def make_detector(config: DetectorConfig) -> Detector:
    """The detector that a config names, not loaded yet. Raises ConfigError listing the names there are."""
    if config.name not in DETECTORS:
        raise ConfigError(f"detector {config.name!r}: no such detector; there are: {', '.join(DETECTORS)}")
    return DETECTORS[config.name](config)


__all__ = ["DETECTORS", "Detector", "DetectorConfig", "Face", "OpenCVCascade", "make_detector"]
