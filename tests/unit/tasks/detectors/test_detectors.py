"""Detectors by name, and what the cascade sees."""

import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model.config import ConfigError
from tasks.detectors import DETECTORS, Detector, DetectorConfig, OpenCVCascade, make_detector
from tasks.faces import overlap


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A real face in a 512 x 512 picture."""
    return np.ascontiguousarray(data.astronaut())


@pytest.fixture(scope="module")
def cascade() -> Detector:
    detector = make_detector(DetectorConfig())
    detector.load()
    return detector


def test_an_unknown_detector_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="detector 'retina': no such detector; there are: opencv_cascade"):
        make_detector(DetectorConfig(name="retina"))


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_keeps_the_contract(name: str, portrait: np.ndarray) -> None:
    detector = make_detector(DetectorConfig(name=name))
    assert detector.name == name
    assert len(detector.fingerprint()) == 32
    assert detector.fingerprint() == make_detector(DetectorConfig(name=name)).fingerprint()
    assert detector.fingerprint() != make_detector(DetectorConfig(name=name, min_face=0.3)).fingerprint()
    detector.load()
    faces = detector(portrait)
    assert faces == detector(portrait)
    assert detector(np.full((240, 320, 3), 90, np.uint8)) == []
    x1, y1, x2, y2 = faces[0].box
    assert x1 < 224 < x2  # between her eyes
    assert y1 < 115 < y2
    assert 0 <= faces[0].score <= 1


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_boxes_are_in_pixels_of_the_picture_given(cascade: Detector, portrait: np.ndarray, factor: float) -> None:
    resized = cv2.resize(portrait, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    box = np.array(cascade(resized)[0].box) / factor
    assert overlap(tuple(box), cascade(portrait)[0].box) > 0.8


def test_looking_around_known_faces_finds_them_again_where_they_went(cascade: Detector, portrait: np.ndarray) -> None:
    known = cascade(portrait)
    moved = np.roll(portrait, (12, 20), axis=(0, 1))
    followed = cascade(moved, known)
    assert len(followed) == 1
    x1, y1, x2, y2 = known[0].box
    assert overlap(followed[0].box, (x1 + 20, y1 + 12, x2 + 20, y2 + 12)) > 0.75
    assert cascade(np.zeros_like(portrait), known) == []


def test_two_faces_are_two(cascade: Detector, portrait: np.ndarray) -> None:
    face = portrait[0:260, 100:360]
    both = np.concatenate([face, face[:, ::-1]], axis=1)
    assert len(cascade(both)) == 2
    assert len(cascade(both, cascade(both))) == 2


def test_the_fingerprint_holds_the_weights() -> None:
    class Other(OpenCVCascade):
        version = 2

    assert Other(DetectorConfig()).fingerprint() != OpenCVCascade(DetectorConfig()).fingerprint()
