"""Detectors by name, what all of them promise, and what the cascade sees."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from dualforce_model.config import ConfigError, digest
from tasks.detectors import DETECTORS, Detector, DetectorConfig, OpenCVCascade, make_detector
from tasks.faces import overlap

ConfigOf = Callable[..., DetectorConfig]
DetectorOf = Callable[..., Detector]

WITH_LANDMARKS = ("scrfd", "yunet", "mediapipe")


@pytest.fixture(scope="module")
def cascade() -> Detector:
    detector = make_detector(DetectorConfig())
    detector.load()
    return detector


def test_an_unknown_detector_is_answered_with_the_names_there_are() -> None:
    with pytest.raises(
        ConfigError, match="detector 'retina': no such detector; there are: opencv_cascade, scrfd, yunet"
    ):
        make_detector(DetectorConfig(name="retina"))


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_keeps_the_contract(
    name: str, portrait: np.ndarray, config_of: ConfigOf, detector_of: DetectorOf
) -> None:
    detector = detector_of(name)
    assert detector.name == name
    assert len(detector.fingerprint()) == 32
    assert detector.fingerprint() == make_detector(config_of(name)).fingerprint()
    assert detector.fingerprint() != make_detector(config_of(name, min_face=0.3)).fingerprint()
    faces = detector(portrait)
    assert faces == detector(portrait)
    assert detector(np.full((240, 320, 3), 90, np.uint8)) == []
    assert len(faces) == 1
    x1, y1, x2, y2 = faces[0].box
    assert x1 < 224 < x2  # between her eyes
    assert y1 < 115 < y2
    assert 0 < faces[0].score <= 1
    assert all(type(value) is float for value in (*faces[0].box, faces[0].score))


@pytest.mark.parametrize("name", WITH_LANDMARKS)
def test_landmarks_lie_on_her_face_the_left_one_in_the_picture_first(
    name: str, portrait: np.ndarray, detector_of: DetectorOf
) -> None:
    (face,) = detector_of(name)(portrait)
    assert face.landmarks is not None
    x1, y1, x2, y2 = face.box
    assert all(x1 < x < x2 and y1 < y < y2 for x, y in face.landmarks)
    by_eye = ((204, 102), (247, 104), (225, 128), (203, 141), (246, 143))  # eyes, nose, mouth corners
    assert np.abs(np.array(face.landmarks) - by_eye).max() < 8
    assert {type(value) for point in face.landmarks for value in point} == {float}


@pytest.mark.parametrize("name", WITH_LANDMARKS)
def test_landmarks_of_the_mirrored_picture_are_the_mirrored_ones(
    name: str, portrait: np.ndarray, detector_of: DetectorOf
) -> None:
    detector = detector_of(name)
    (face,), (mirrored,) = detector(portrait), detector(portrait[:, ::-1])
    left, right, nose, mouth_left, mouth_right = face.landmarks or ()
    expected = [(512 - x, y) for x, y in (right, left, nose, mouth_right, mouth_left)]
    assert np.abs(np.array(mirrored.landmarks) - expected).max() < 8


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5, 8.0])
def test_boxes_and_landmarks_are_in_pixels_of_the_picture_given(
    name: str, factor: float, portrait: np.ndarray, detector_of: DetectorOf
) -> None:
    detector = detector_of(name)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    (face,), (known,) = (
        detector(cv2.resize(portrait, None, fx=factor, fy=factor, interpolation=how)),
        detector(portrait),
    )
    assert overlap(tuple(np.array(face.box) / factor), known.box) > 0.8
    if known.landmarks is not None:
        assert np.abs(np.array(face.landmarks) / factor - known.landmarks).max() < 6


@pytest.mark.parametrize("name", DETECTORS)
def test_wide_and_high_pictures_keep_their_proportions(
    name: str, portrait: np.ndarray, detector_of: DetectorOf
) -> None:
    sure = 0.3 if name == "opencv_cascade" else 0.5  # a small face: the cascade is 0.4 sure
    detector = detector_of(name, min_face=0.05, min_score=sure)
    (known,) = detector(portrait)
    for height, width, top, left in ((512, 851, 0, 300), (807, 512, 233, 0)):
        picture = np.full((height, width, 3), 90, np.uint8)
        picture[top : top + 512, left : left + 512] = portrait
        (face,) = detector(picture)
        x1, y1, x2, y2 = known.box
        assert overlap(face.box, (x1 + left, y1 + top, x2 + left, y2 + top)) > 0.7


@pytest.mark.parametrize("name", DETECTORS)
def test_strided_and_read_only_pictures_are_as_good_as_others(
    name: str, portrait: np.ndarray, detector_of: DetectorOf
) -> None:
    detector = detector_of(name)
    padded = np.zeros((600, 1100, 3), np.uint8)
    padded[40:552, 30:542] = portrait
    transposed = np.ascontiguousarray(portrait.transpose(2, 1, 0)).transpose(2, 1, 0)
    sealed = portrait.copy()
    sealed.flags.writeable = False
    for view in (padded[40:552, 30:542], portrait[:, ::-1][:, ::-1], transposed, sealed):
        assert detector(view) == detector(portrait)
    assert np.array_equal(sealed, portrait)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5), (31, 33), (2000, 3000)])
def test_pictures_of_any_size_without_a_face_have_none(
    name: str, size: tuple[int, int], detector_of: DetectorOf
) -> None:
    assert detector_of(name)(np.full((*size, 3), 128, np.uint8)) == []


@pytest.mark.parametrize("name", ["scrfd", "yunet", "mediapipe"])
def test_a_tiny_face_is_found(name: str, portrait: np.ndarray, detector_of: DetectorOf) -> None:
    tiny = cv2.resize(portrait[0:260, 90:350], (72, 72), interpolation=cv2.INTER_AREA)
    (face,) = detector_of(name)(tiny)
    assert face.box[0] < (224 - 90) * 72 / 260 < face.box[2]


@pytest.mark.parametrize("name", WITH_LANDMARKS)
def test_a_face_cut_off_by_the_edge_ends_there(name: str, portrait: np.ndarray, detector_of: DetectorOf) -> None:
    cut = portrait[0:300, 205:500]  # half of an eye is gone
    for face in detector_of(name)(cut):
        assert min(face.box) >= 0
        assert face.box[2] <= 295
        assert face.box[3] <= 300


@pytest.mark.parametrize("name", DETECTORS)
def test_the_largest_comes_first_and_small_ones_are_left_out(
    name: str, portrait: np.ndarray, detector_of: DetectorOf
) -> None:
    face = portrait[0:260, 100:360]
    picture = np.full((260, 520, 3), 90, np.uint8)
    picture[50:230, 40:220] = cv2.resize(face, (180, 180), interpolation=cv2.INTER_AREA)
    picture[:, 260:] = face
    faces = detector_of(name)(picture)
    assert [found.box[0] > 260 for found in faces] == [True, False]
    assert len(detector_of(name, min_face=0.38)(picture)) == 1


def test_settings_from_before_there_were_weights_keep_their_keys() -> None:
    assert "weights" not in DetectorConfig().model_dump(mode="json")
    before = {"name": "opencv_cascade", "min_face": 0.12, "min_score": 0.5, "max_side_px": 480}
    assert digest(DetectorConfig()) == digest(before)


def test_weights_for_the_cascade_are_refused() -> None:
    with pytest.raises(ConfigError, match="opencv_cascade takes none"):
        make_detector(DetectorConfig(weights="some.onnx"))


def test_looking_around_known_faces_finds_them_again_where_they_went(cascade: Detector, portrait: np.ndarray) -> None:
    known = cascade(portrait)
    moved = np.roll(portrait, (12, 20), axis=(0, 1))
    followed = cascade(moved, known)
    assert len(followed) == 1
    x1, y1, x2, y2 = known[0].box
    assert overlap(followed[0].box, (x1 + 20, y1 + 12, x2 + 20, y2 + 12)) > 0.75
    assert cascade(np.zeros_like(portrait), known) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_two_faces_are_two(name: str, portrait: np.ndarray, detector_of: DetectorOf) -> None:
    detector = detector_of(name)
    face = portrait[0:260, 100:360]
    both = np.concatenate([face, face[:, ::-1]], axis=1)
    assert len(detector(both)) == 2
    assert len(detector(both, detector(both))) == 2


def test_the_fingerprint_holds_the_version() -> None:
    class Other(OpenCVCascade):
        version = OpenCVCascade.version + 1

    assert Other(DetectorConfig()).fingerprint() != OpenCVCascade(DetectorConfig()).fingerprint()
