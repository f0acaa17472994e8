"""The mesh through a clip: what fills its gaps, what it refuses, and what its package does on real pictures."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from dualforce_model.config import ConfigError
from dualforce_model.encoders import face_mesh
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.face_mesh import (
    BLENDSHAPES,
    NUM_BLENDSHAPES,
    NUM_POINTS,
    FaceMesh,
    FaceMeshConfig,
    Look,
    LooksAtHand,
    followed,
)
from dualforce_model.pretrained import DamagedWeightsError, MissingWeightsError


def look(mark: int) -> Look:
    return Look(
        np.full((NUM_POINTS, 3), mark, np.float32),
        np.full(NUM_BLENDSHAPES, mark, np.float32),
        np.full((4, 4), mark, np.float32),
    )


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_a_gap_has_the_last_seen_face(seen: list[bool]) -> None:
    track = followed([look(index) if there else None for index, there in enumerate(seen)], min_seen=0)
    assert track.seen.tolist() == seen
    for index in range(len(seen)):
        before = [each for each in range(index + 1) if seen[each]]
        expected = before[-1] if before else seen.index(True)
        for values in (track.points[index], track.blendshapes[index], track.poses[index]):
            assert (values == expected).all()


def test_a_clip_without_a_face_is_told_with_the_share_that_was_seen() -> None:
    with pytest.raises(NoFaceError, match=r"no face in any of 3 frames; expected one in 50% or more"):
        followed([None] * 3, min_seen=0.5)
    with pytest.raises(NoFaceError, match=r"a face in 1 of 4 frames \(25%\) only; expected one in 50% or more"):
        followed([None, look(1), None, None], min_seen=0.5)
    assert len(followed([None, look(1)], min_seen=0.5).points) == 2
    with pytest.raises(NoFaceError):
        followed([None], min_seen=0)


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)  # what Python itself takes for "not there"
    with pytest.raises(ConfigError, match=r"mediapipe is not installed; pip install 'dualforce\[encoders\]'"):
        FaceMesh()


def test_weights_that_are_not_there_or_damaged(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    with pytest.raises(MissingWeightsError, match=r"face_landmarker\.task"):
        FaceMesh(FaceMeshConfig(weights=tmp_path))
    for content in (b"", b"no model at all", b"PK\x03\x04 torn"):
        (tmp_path / "face_landmarker.task").write_bytes(content)
        with pytest.raises(DamagedWeightsError, match=str(tmp_path)):
            FaceMesh(FaceMeshConfig(weights=tmp_path)).load()


def test_frames_that_are_still_held_are_looked_at_once() -> None:
    looks = LooksAtHand()
    asked: list[str] = []

    def seen(frames: np.ndarray, how: str = "so") -> list[Look | None]:
        return looks(frames, how, lambda: asked.append(how) or [look(len(asked))])

    frames = np.zeros((2, 4, 4, 3), np.uint8)
    first = seen(frames)
    assert seen(frames) is first
    seen(frames, "otherwise")
    assert asked == ["so", "otherwise"]
    frames[1, 2] = 7  # written over: another clip
    assert seen(frames) is not first
    assert seen(frames[::2]) is not seen(frames.copy())
    assert asked == ["so", "otherwise", "so", "so", "so"]
    assert len(looks) == 1
    del frames
    assert len(looks) == 0


# ------------------------------------------------------------------------------------------------ the package itself


@pytest.fixture(scope="module")
def mesh(shared: Path) -> FaceMesh:
    pytest.importorskip("mediapipe")
    made = FaceMesh(FaceMeshConfig(weights=shared / "models"))
    try:
        made.load()
    except ConfigError as error:  # a system library is missing
        pytest.skip(str(error))
    return made


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """A portrait that slides to the right, is gone for two frames, and comes back."""
    portrait = np.ascontiguousarray(data.astronaut())
    frames = np.stack([np.roll(portrait, 4 * index, axis=1) for index in range(8)])
    frames[4:6] = 0
    return frames


def test_encoders_that_ask_for_the_same_mesh_share_a_look(
    mesh: FaceMesh, clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(mesh.path, tmp_path / mesh.path.name)
    other = FaceMesh(FaceMeshConfig(weights=tmp_path, min_seen=0.9))
    other.load()
    (tmp_path / mesh.path.name).unlink()  # what was loaded counts, not what lies there by now
    opened: list[Path] = []
    opening = face_mesh._open
    monkeypatch.setattr(
        face_mesh, "_open", lambda content, path, score: opened.append(path) or opening(content, path, score)
    )
    frames = clip[:3].copy()
    first, second = mesh.track(frames), other.track(frames)
    np.testing.assert_array_equal(first.points, second.points)
    assert opened == [mesh.path]
    mesh.track(frames.copy())
    assert opened == [mesh.path] * 2
    with pytest.raises(NoFaceError, match="expected one in 90% or more"):
        other.track(clip)


def test_a_portrait_is_followed(mesh: FaceMesh, clip: np.ndarray) -> None:
    track = mesh.track(clip)
    assert track.seen.tolist() == [True] * 4 + [False] * 2 + [True] * 2
    assert track.points.shape == (8, NUM_POINTS, 3)
    assert track.blendshapes.shape == (8, NUM_BLENDSHAPES)
    assert track.poses.shape == (8, 4, 4)
    assert {each.dtype for each in track[:3]} == {np.dtype(np.float32)}
    assert np.array_equal(track.points[5], track.points[3])
    middles = track.points[:, :, 0].mean(axis=1)
    assert middles[3] - middles[0] == pytest.approx(12, abs=1.5)
    assert middles[7] - middles[0] == pytest.approx(28, abs=1.5)
    face = track.points[0]
    assert (face[:, :2] > 0).all()
    assert (face[:, :2] < 512).all()
    assert 20 < np.ptp(face[:, 2]) < 200  # depth is on the scale of the picture
    assert face[1, 2] < face[234, 2]  # the nose is nearer than an ear
    smile = BLENDSHAPES.index("mouthSmileLeft")
    assert track.blendshapes[0, smile] > 0.5


def test_later_frames_change_nothing_and_clips_know_nothing_of_each_other(mesh: FaceMesh, clip: np.ndarray) -> None:
    whole, part, again = mesh.track(clip), mesh.track(clip[:5]), mesh.track(clip)
    for name in ("points", "blendshapes", "poses", "seen"):
        assert np.array_equal(getattr(whole, name)[:5], getattr(part, name))
        assert np.array_equal(getattr(whole, name), getattr(again, name))
    one = mesh.track(clip[:1])
    assert np.array_equal(one.points[0], whole.points[0])


def test_frames_before_the_first_face_have_that_one(mesh: FaceMesh, clip: np.ndarray) -> None:
    track = mesh.track(clip[4:])
    assert track.seen.tolist() == [False, False, True, True]
    assert np.array_equal(track.points[0], track.points[2])


def test_pictures_without_a_face_and_no_pictures_at_all(mesh: FaceMesh) -> None:
    with pytest.raises(NoFaceError, match="no face in any of 3 frames"):
        mesh.track(np.zeros((3, 64, 48, 3), np.uint8))
    for frames in (
        np.zeros((0, 64, 48, 3), np.uint8),
        np.zeros((3, 0, 48, 3), np.uint8),
        np.zeros((64, 48, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match=r"expected uint8 \[T, H, W, 3\]"):
            mesh.track(frames)


def test_the_digest_is_the_files(mesh: FaceMesh) -> None:
    assert mesh.weights_digest == "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
