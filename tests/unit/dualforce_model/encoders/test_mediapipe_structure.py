"""MediaPipe alone as a structure encoder: rows of a track, and what they say of real faces."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.encoders import Landmarking, MediaPipeStructure, make_encoder
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.face_mesh import BLENDSHAPES, NUM_POINTS, FaceMeshConfig, MeshTrack
from dualforce_model.encoders.mediapipe_structure import MP62, rows_of
from dualforce_model.encoders.structure import layout_of, measure
from dualforce_model.layout import STD_FLOOR


def track(degrees: float, zoom: float, count: int = 3) -> MeshTrack:
    """A head turned about the line of sight and enlarged, whose blend shapes count."""
    turn = np.deg2rad(degrees)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, :3] *= 0.5  # whatever scale the matrix has
    pose[:3, 3] = (1.0, -2.0, -40.0)
    points = np.random.default_rng(0).normal(0, 10 * zoom, (NUM_POINTS, 3)) + 100
    shapes = np.arange(52) / 52
    return MeshTrack(
        *(np.repeat(each[None], count, axis=0).astype(np.float32) for each in (points, shapes, pose)),
        seen=np.ones(count, bool),
    )


@given(st.floats(-179, 179), st.floats(0.5, 2))
def test_rows_hold_the_track(degrees: float, zoom: float) -> None:
    fields = MP62.split(rows_of(track(degrees, zoom), width_px=200))
    np.testing.assert_allclose(fields["blendshapes"][1], np.arange(52) / 52, atol=1e-6)
    turn = np.deg2rad(degrees)
    wanted = [np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0]
    np.testing.assert_allclose(fields["rotation"], np.tile(wanted, (3, 1)), atol=1e-5)
    np.testing.assert_allclose(fields["translation"], np.tile([1, -2, -40], (3, 1)), atol=1e-5)
    np.testing.assert_allclose(fields["scale"], 10 * zoom * np.sqrt(2) / 200, rtol=0.1)


def test_its_table_names_every_entry() -> None:
    assert [(part.name, part.start, part.stop) for part in MP62.parts] == [
        ("blendshapes", 0, 52),
        ("rotation", 52, 58),
        ("translation", 58, 61),
        ("scale", 61, 62),
    ]
    assert MP62.std_floor == STD_FLOOR
    assert np.flatnonzero(~MP62.active).tolist() == [BLENDSHAPES.index("_neutral")]


@pytest.fixture(scope="module")
def encoder(shared: Path) -> MediaPipeStructure:
    pytest.importorskip("mediapipe")
    made = make_encoder("mediapipe_structure", {"weights": shared / "models" / "face_landmarker.task"})
    made.load()
    return made


@pytest.fixture(scope="module")
def talking(shared: Path) -> np.ndarray:
    """A second and a half of a real face that speaks."""
    path = shared / "realdata" / "video" / "LivePortrait" / "d18.mp4"
    if not path.is_file():
        pytest.skip(f"needs {path.name} of the shared clips")
    capture = cv2.VideoCapture(str(path))
    frames = [capture.read()[1][:, :, ::-1] for _ in range(37)]
    capture.release()
    return np.stack([cv2.resize(frame, (320, 320), interpolation=cv2.INTER_AREA) for frame in frames])


def test_a_real_face_moves_and_no_row_depends_on_later_ones(encoder: MediaPipeStructure, talking: np.ndarray) -> None:
    rows = encoder(talking)
    assert rows.shape == (37, encoder.num_features) == (37, 62)
    fields = MP62.split(rows)
    jaw = fields["blendshapes"][:, BLENDSHAPES.index("jawOpen")]
    assert 0.1 < np.ptp(jaw) <= 1
    np.testing.assert_allclose(np.linalg.norm(fields["rotation"].reshape(37, 2, 3), axis=2), 1, atol=1e-4)
    assert (fields["translation"][:, 2] < 0).all()  # the camera looks along -z
    assert (fields["scale"] > 0.1).all()
    assert not fields["blendshapes"][:, 0].max() > 1e-3
    np.testing.assert_array_equal(encoder(talking[:9]), rows[:9])
    np.testing.assert_array_equal(encoder(talking[:1]), rows[:1])


def test_the_same_face_nearer_is_larger(encoder: MediaPipeStructure, talking: np.ndarray) -> None:
    far = MP62.split(encoder(talking[:1]))
    near = MP62.split(encoder(cv2.resize(talking[0][40:280, 40:280], (320, 320))[None]))
    assert float(near["scale"][0, 0] / far["scale"][0, 0]) == pytest.approx(320 / 240, rel=0.05)
    assert near["translation"][0, 2] > far["translation"][0, 2]


def test_it_tells_its_table_and_no_key_points_at_rest(encoder: MediaPipeStructure, talking: np.ndarray) -> None:
    assert layout_of(encoder) is MP62
    assert measure(encoder, talking[:1]).canonical is None


def test_landmarks_lie_on_the_face(encoder: MediaPipeStructure, talking: np.ndarray) -> None:
    assert isinstance(encoder, Landmarking)
    shown = encoder.landmarks(talking[:3])
    assert shown.shape == (3, 468, 2)
    left_eye, chin = shown[:, 33], shown[:, 152]
    assert np.all((shown > 0) & (shown < 1))
    assert np.all(left_eye[:, 1] < chin[:, 1])
    halved = np.ascontiguousarray(talking[:3, ::2, ::2])
    np.testing.assert_allclose(encoder.landmarks(halved), shown, atol=0.03)


def test_no_face_is_said(encoder: MediaPipeStructure) -> None:
    with pytest.raises(NoFaceError):
        encoder(np.zeros((3, 64, 64, 3), np.uint8))


def test_the_fingerprint_is_what_decides_the_numbers(encoder: MediaPipeStructure, tmp_path: Path) -> None:
    assert encoder.config.weights is not None
    copy = tmp_path / "face_landmarker.task"
    copy.write_bytes(encoder.config.weights.read_bytes())
    assert MediaPipeStructure(FaceMeshConfig(weights=copy)).fingerprint() == encoder.fingerprint()
    assert MediaPipeStructure(FaceMeshConfig(weights=copy, min_score=0.4)).fingerprint() != encoder.fingerprint()
    copy.write_bytes(b"another")
    assert MediaPipeStructure(FaceMeshConfig(weights=copy)).fingerprint() != encoder.fingerprint()
