"""Face detectors: where faces are in one picture.

detector = make_detector(DetectorConfig(name="opencv_cascade"))
"""

from dualforce_model.config import ConfigError
from tasks.detectors.base import Detector, DetectorConfig, Face
from tasks.detectors.mediapipe import MediaPipe
from tasks.detectors.opencv_cascade import OpenCVCascade
from tasks.detectors.scrfd import Scrfd
from tasks.detectors.yunet import YuNet

DETECTORS: dict[str, type[Detector]] = {
    OpenCVCascade.name: OpenCVCascade,
    Scrfd.name: Scrfd,
    YuNet.name: YuNet,
    MediaPipe.name: MediaPipe,
}


def make_detector(config: DetectorConfig) -> Detector:
    """The detector that a config names, not loaded yet.

    Raises ConfigError listing the names there are, MissingWeightsError with the command that gets what is missing.
    """
    if config.name not in DETECTORS:
        raise ConfigError(f"detector {config.name!r}: no such detector; there are: {', '.join(DETECTORS)}")
    if config.weights is not None and DETECTORS[config.name].weights is None:
        raise ConfigError(f"detector.weights: {config.weights}: {config.name} takes none; leave the setting out")
    return DETECTORS[config.name](config)


__all__ = ["DETECTORS", "Detector", "DetectorConfig", "Face", "OpenCVCascade", "make_detector"]
