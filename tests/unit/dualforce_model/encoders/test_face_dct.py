"""The structure encoder and the face box that it stands on."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from dualforce_model.encoders import FaceDctConfig, FaceDctStructure
from dualforce_model.encoders.cascade import detect_faces
from dualforce_model.encoders.face_dct import low_frequencies
from dualforce_model.encoders.face_track import FaceTrackConfig, find_face, patches, shrink, to_gray, track_face

SIZE = 96


def _portrait(x: float = 0.0, y: float = 0.0, size: int = SIZE) -> np.ndarray:
    """A face crop of the astronaut; shifted by shares of its side."""
    side = 190
    left, top = int(128 + x * side), int(15 + y * side)
    return cv2.resize(astronaut()[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """A head that drifts to the right by a tenth of the picture."""
    return np.stack([_portrait(-0.1 * t / 24) for t in range(25)])


def test_the_cascade_finds_the_face() -> None:
    boxes = detect_faces(cv2.cvtColor(astronaut(), cv2.COLOR_RGB2GRAY), 60)
    x, y, width, height = boxes[0]
    assert boxes.dtype == np.int64
    assert width == height
    assert abs(x + width / 2 - 223) < 20
    assert abs(y + height / 2 - 115) < 20


def test_boxes_are_the_largest_first_and_none_where_there_is_no_face() -> None:
    two = np.concatenate(
        [astronaut()[:256, 100:356], cv2.resize(astronaut()[:256, 100:356], (128, 256))[:, :128]], axis=1
    )
    widths = detect_faces(cv2.cvtColor(np.ascontiguousarray(two), cv2.COLOR_RGB2GRAY), 30)[:, 2]
    assert list(widths) == sorted(widths, reverse=True)
    assert detect_faces(np.full((80, 80), 128, np.uint8), 20).shape == (0, 4)


def test_a_colour_picture_is_refused_by_the_cascade() -> None:
    with pytest.raises(ValueError, match="grey"):
        detect_faces(np.zeros((8, 8, 3), np.uint8), 4)


def test_the_track_follows_smoothly(clip: np.ndarray) -> None:
    track = track_face([to_gray(frame) for frame in clip], FaceTrackConfig())
    assert 0.05 < track[-1, 0] - track[0, 0] < 0.12
    assert np.abs(np.diff(track, axis=0)).max() < 0.02


def test_the_track_knows_no_future(clip: np.ndarray) -> None:
    grays = [to_gray(frame) for frame in clip]
    whole, part = track_face(grays, FaceTrackConfig()), track_face(grays[:9], FaceTrackConfig())
    assert np.array_equal(whole[:9], part)


def test_without_a_face_the_box_is_the_default() -> None:
    config = FaceTrackConfig(default_x=0.4, default_y=0.6, default_size=0.7)
    track = track_face([np.full((96, 96), 90, np.uint8)] * 3, config)
    np.testing.assert_allclose(track, np.tile([0.4, 0.6, 0.7], (3, 1)), atol=1e-6)


def test_a_lost_face_keeps_its_box(clip: np.ndarray) -> None:
    grays = [to_gray(frame) for frame in clip[:3]] + [np.full((96, 96), 90, np.uint8)] * 6
    track = track_face(grays, FaceTrackConfig())
    assert np.array_equal(track[-1], track[2])


def test_another_thing_far_away_does_not_move_the_box() -> None:
    config = FaceTrackConfig(every=1)
    picture = cv2.cvtColor(astronaut(), cv2.COLOR_RGB2GRAY)
    right, left = picture[:220, 60:280], picture[:220, 160:380]
    track = track_face([left, right, right], config)
    assert find_face(right, config.min_face) is not None
    assert np.array_equal(track[0], track[-1])


def test_patches_are_centred_and_scaled() -> None:
    ramp = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1))  # grey value = 2 x
    (patch,) = patches([ramp], np.array([[0.5, 0.5, 0.5]], np.float32), (0.5, 0.5), (0.5, 0.5), 8)
    values = (patch + 1) * 127.5
    np.testing.assert_allclose(values.mean(axis=0), 2 * (64 - 0.5 + (np.arange(8) - 3.5) * 4), atol=0.6)
    assert np.ptp(values, axis=0).max() < 1e-3


def test_shrinking_never_enlarges() -> None:
    assert shrink(np.zeros((96, 64), np.uint8)).shape == (96, 64)
    assert shrink(np.zeros((512, 256), np.uint8)).shape == (128, 64)


def test_a_picture_alone_gives_frame_0(clip: np.ndarray) -> None:
    encoder = FaceDctStructure()
    whole = encoder(clip)
    assert whole.shape == (25, 32)
    assert len(encoder.layout) == encoder.num_features == 32
    assert np.array_equal(encoder(clip[:1]), whole[:1])
    assert np.array_equal(encoder(clip[:10]), whole[:10])


def test_values_are_of_unit_order_and_alike_at_other_sizes() -> None:
    encoder = FaceDctStructure()
    small, large = encoder(_portrait(size=96)[None])[0], encoder(_portrait(size=512)[None])[0]
    assert np.abs(small).max() < 2
    assert np.corrcoef(small, large)[0, 1] > 0.95


def test_a_darker_mouth_changes_the_mouth_alone(clip: np.ndarray) -> None:
    still = np.repeat(clip[:1], 5, axis=0)
    opened = still.copy()
    opened[2:, 66:72, 42:56] //= 4
    encoder = FaceDctStructure()
    difference = np.abs(encoder(opened) - encoder(still))
    mouth = np.array([name.startswith("mouth") for name in encoder.layout])
    assert difference[3:, mouth].max() > 0.1
    assert difference[:, ~mouth].max() < difference[:, mouth].max() / 4  # the cascade's box may move by a pixel
    assert difference[:2].max() == 0


def test_low_frequencies_come_first_and_vertical_ones_before() -> None:
    assert low_frequencies(6) == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]


def test_the_number_of_entries_follows_the_config() -> None:
    encoder = FaceDctStructure(FaceDctConfig(num_mouth=10, num_eye=2))
    assert encoder(_portrait()[None]).shape == (1, encoder.num_features) == (1, 17)


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)]
)
def test_other_frames_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        FaceDctStructure()(frames)
