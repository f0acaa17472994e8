"""The stand-in for FLAME: which number is where, and that its head turns as FLAME's does."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from dualforce_model import flame
from dualforce_model.config import ConfigError
from dualforce_model.encoders import Encoder, make_encoder
from dualforce_model.encoders.face_mesh import BLENDSHAPES, NUM_BLENDSHAPES, FaceMesh, FaceMeshConfig
from dualforce_model.encoders.mediapipe_flame import EXPRESSION, MediaPipeFlame, eyelids, jaw
from dualforce_model.media import read_frames


def shapes(**weights: float) -> np.ndarray:
    """One frame's blend shapes."""
    found = np.zeros((1, NUM_BLENDSHAPES), np.float32)
    for name, weight in weights.items():
        found[0, BLENDSHAPES.index(name)] = weight
    return found


def test_expression_has_its_50_slots_filled_by_names() -> None:
    layout = MediaPipeFlame.layout
    assert len(EXPRESSION) == flame.LAYOUT["expression"].stop - flame.LAYOUT["expression"].start
    assert {BLENDSHAPES[index] for index in EXPRESSION} == set(BLENDSHAPES) - {"_neutral", "jawOpen"}
    assert (layout.name, layout.version, layout.num_entries) == ("blendshapes159", 1, flame.NUM_PARAMETERS)
    assert {part.name: slice(part.start, part.stop) for part in layout.parts} == dict(flame.LAYOUT)
    measured = layout.active
    assert not measured[flame.LAYOUT["shape"]].any()
    assert not measured[flame.LAYOUT["camera"]].any()
    assert measured.sum() == flame.NUM_MOTION


def test_the_jaw_opens_about_x_and_goes_to_the_faces_own_left_about_y() -> None:
    np.testing.assert_allclose(jaw(shapes(jawOpen=0.5)), [[0.175, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(jaw(shapes(jawLeft=1.0)), [[0, 0.1, 0]], atol=1e-6)
    np.testing.assert_allclose(jaw(shapes(jawRight=1.0)), [[0, -0.1, 0]], atol=1e-6)
    np.testing.assert_allclose(eyelids(shapes(eyeBlinkLeft=1.0)), [[1, 0]])


@pytest.fixture(scope="module")
def encoder(shared: Path) -> MediaPipeFlame:
    pytest.importorskip("mediapipe")
    made: MediaPipeFlame = make_encoder("mediapipe_flame", {"weights": shared / "models"})
    try:
        made.load()
    except ConfigError as error:  # a system library is missing
        pytest.skip(str(error))
    return made


def test_a_portrait_and_its_mirror_image(encoder: MediaPipeFlame, shared: Path) -> None:
    """A head of other axes would not turn over so: pitch stays, yaw and roll change sides."""
    portrait = np.ascontiguousarray(data.astronaut())
    here, there = encoder(portrait[None])[0], encoder(np.ascontiguousarray(portrait[:, ::-1])[None])[0]
    pose = flame.LAYOUT["pose"]
    np.testing.assert_allclose(here[pose] * (1, -1, -1), there[pose], atol=0.05)
    assert np.abs(here[pose][2]) > 0.05
    mesh = FaceMesh(FaceMeshConfig(weights=shared / "models"))
    mesh.load()
    points = mesh.track(portrait[None]).points[0]
    across = points[263, :2] - points[33, :2]  # outer corners of the eyes, from the picture's left to its right
    tilt = -np.arctan2(across[1], across[0])  # y is up in FLAME, down in the picture
    assert here[pose][2] == pytest.approx(tilt, abs=0.06)


def test_head_and_jaw_of_a_real_clip_turn_the_way_the_picture_does(encoder: MediaPipeFlame, shared: Path) -> None:
    """A nose that goes to the picture's right is a positive turn about y, lips that part a positive one of the jaw."""
    frames = np.stack(list(islice(read_frames(shared / "realdata" / "video" / "smirk" / "dafoe.mp4"), 0, 80, 5)))
    rows = encoder(frames)
    mesh = FaceMesh(FaceMeshConfig(weights=shared / "models"))
    mesh.load()
    points = mesh.track(frames).points[:, :, :2]
    eyes = (points[:, 33] + points[:, 263]) / 2
    nose = points[:, 1, 0] - eyes[:, 0]
    lips = np.linalg.norm(points[:, 13] - points[:, 14], axis=1)
    turn, opening = rows[:, flame.LAYOUT["pose"]][:, 1], rows[:, flame.LAYOUT["jaw"]][:, 0]
    assert np.rad2deg(np.ptp(turn)) > 20
    assert np.corrcoef(nose, turn)[0, 1] > 0.9
    assert np.corrcoef(lips, opening)[0, 1] > 0.7


def test_rows_are_what_training_reads(encoder: MediaPipeFlame) -> None:
    assert isinstance(encoder, Encoder)
    track = encoder.track(np.ascontiguousarray(data.astronaut())[None].repeat(5, axis=0))
    assert track.parameters.shape == (5, encoder.num_features)
    assert track.parameters.dtype == np.float32
    assert flame.motion(track.parameters).shape == (5, flame.NUM_MOTION)
    assert track.eyelids is not None
    assert ((track.eyelids >= 0) & (track.eyelids <= 1)).all()
    assert track.seen.all()


def test_where_the_weights_lie_does_not_matter(encoder: MediaPipeFlame, shared: Path) -> None:
    file = make_encoder("mediapipe_flame", {"weights": shared / "models" / "face_landmarker.task"})
    assert file.fingerprint() == encoder.fingerprint()
    other = make_encoder("mediapipe_flame", {"weights": shared / "models", "min_score": 0.3})
    assert other.fingerprint() != encoder.fingerprint()
