"""YuNet: its threshold, and pictures of changing size through one net."""

from collections.abc import Callable

import cv2
import numpy as np

from tasks.detectors import Detector

DetectorOf = Callable[..., Detector]


def litter_memory() -> None:
    """Freed memory full of ones: what a net that reads what nobody wrote is to find."""
    for _ in [np.full(num, 1.0, np.float32) for num in range(1, 4000, 3)]:
        pass


def test_the_score_is_its_own_and_the_threshold_holds(portrait: np.ndarray, detector_of: DetectorOf) -> None:
    (face,) = detector_of("yunet", min_score=0.3)(portrait)
    assert 0.5 < face.score < 1.0
    assert detector_of("yunet", min_score=1.0)(portrait) == []


def test_sizes_may_change_from_picture_to_picture(portrait: np.ndarray, detector_of: DetectorOf) -> None:
    detector = detector_of("yunet")
    before = detector(portrait)
    detector(cv2.resize(portrait, (333, 251)))
    assert detector(portrait) == before


def test_pictures_with_a_short_side_are_answered_from_the_picture_alone(detector_of: DetectorOf) -> None:
    detector = detector_of("yunet", min_score=0.1, min_face=0.02)
    for height, width in [(h, w) for h in (1, 7, 25, 32) for w in (1, 5, 31, 91, 300)] * 3:
        litter_memory()
        assert detector(np.full((height, width, 3), 128, np.uint8)) == [], (height, width)
