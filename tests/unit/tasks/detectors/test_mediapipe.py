"""The landmarker's package and libraries: named when they are not there; its threshold and its mesh."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dualforce_model.config import ConfigError
from tasks.detectors import Detector, DetectorConfig, make_detector

ConfigOf = Callable[..., DetectorConfig]
DetectorOf = Callable[..., Detector]


def test_without_the_package_the_run_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)  # what Python itself takes for "not there"
    with pytest.raises(ConfigError, match=r"not installed; pip install 'dualforce\[encoders\]'"):
        make_detector(DetectorConfig(name="mediapipe"))


def test_a_system_library_that_does_not_load_is_named(tmp_path: Path, config_of: ConfigOf) -> None:
    config = config_of("mediapipe")
    (tmp_path / "libEGL.so.1").write_bytes(b"")
    code = (
        "import sys; from tasks.detectors import *\n"
        "detector = make_detector(DetectorConfig(name='mediapipe', weights=sys.argv[1]))\n"
        "try: detector.load()\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(config.weights)],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert out.stdout.startswith("ConfigError mediapipe: its library does not load: ")
    assert "libegl1 libgles2" in out.stdout


def test_it_ends_without_a_complaint(config_of: ConfigOf, detector_of: DetectorOf) -> None:
    detector_of("mediapipe")  # skips where it cannot load
    code = (
        "import sys; from tasks.detectors import *\n"
        "detector = make_detector(DetectorConfig(name='mediapipe', weights=sys.argv[1])); detector.load()"
    )
    command = [sys.executable, "-c", code, str(config_of("mediapipe").weights)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "Traceback" not in out.stderr


@pytest.mark.parametrize("min_score", [0.1, 0.5])
def test_a_face_is_there_once_however_low_the_threshold(
    min_score: float, portrait: np.ndarray, detector_of: DetectorOf
) -> None:
    (face,) = detector_of("mediapipe", min_score=min_score)(portrait)
    assert face.score == 1.0


def test_the_threshold_is_the_detectors(portrait: np.ndarray, detector_of: DetectorOf) -> None:
    assert detector_of("mediapipe", min_score=1.0)(portrait) == []
