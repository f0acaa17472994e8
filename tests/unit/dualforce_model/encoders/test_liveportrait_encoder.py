"""LivePortrait as a structure encoder: landmarks that are known, a square that stands still, rows and key points."""

import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dualforce_model.encoders import Landmarking, LivePortraitConfig, LivePortraitStructure, make_encoder
from dualforce_model.encoders.base import NoFaceError
from dualforce_model.encoders.liveportrait import DRIVING, LP70, LP128, face_square
from dualforce_model.encoders.liveportrait.crops import Square
from dualforce_model.encoders.liveportrait.layouts import lp70_motion, lp128_motion
from dualforce_model.encoders.liveportrait.motion import Motion, rotation
from dualforce_model.encoders.liveportrait.points import (
    DenseLandmarks,
    FirstLandmarks,
    LandmarkWeights,
    _near,
    follow,
    gapless,
    mesh_landmarks,
)
from dualforce_model.encoders.structure import FaceSquare, layout_of, measure
from dualforce_model.pretrained import DamagedWeightsError, MissingWeightsError
from tests.unit.dualforce_model.encoders.landmark_nets import (
    face_points,
    save_dense,
    save_detector,
    save_first,
    save_motion_extractor,
)
from tests.unit.dualforce_model.encoders.tiny import make_scarce

SIDE, CELL = 256, 32
Places = list[tuple[int, int] | None]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all four, whose landmarks depend on where the face is alone."""
    folder = tmp_path_factory.mktemp("nets")
    save_detector(folder / "det_10g.onnx")
    save_first(folder / "2d106det.onnx")
    save_dense(folder / "landmark.onnx")
    save_motion_extractor(folder / "motion_extractor.safetensors")
    return folder


@pytest.fixture(scope="module")
def config_of(nets: Path) -> Callable[..., LivePortraitConfig]:
    """Settings with these nets."""

    def made(**settings: Any) -> LivePortraitConfig:
        weights = {"detector": nets, "first": nets, "dense": nets, **settings.pop("landmark_weights", {})}
        return LivePortraitConfig(
            weights=nets / "motion_extractor.safetensors", landmark_weights=LandmarkWeights(**weights), **settings
        )

    return made


@pytest.fixture(scope="module")
def encoder_of(config_of: Callable[..., LivePortraitConfig]) -> Callable[..., LivePortraitStructure]:
    """Loaded encoders by their settings."""

    @lru_cache(maxsize=4)
    def made(**settings: Any) -> LivePortraitStructure:
        encoder = LivePortraitStructure(config_of(**settings))
        encoder.load()
        return encoder

    return made


def clip(places: Places) -> np.ndarray:
    """Frames with a face (a red cell for our detector) in these cells, or none, on a background that differs."""
    draw = np.random.default_rng(0)
    frames = np.empty((len(places), SIDE, SIDE, 3), np.uint8)
    for frame, place in zip(frames, places, strict=True):
        small = draw.integers(40, 160, (16, 16, 1), dtype=np.uint8)
        frame[:] = cv2.resize(small, (SIDE, SIDE))[..., None]
        if place is not None:
            column, row = place
            frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = (255, 0, 0)
    return frames


def middle(place: tuple[int, int]) -> np.ndarray:
    return (np.array(place) + 0.5) * CELL


@given(
    st.sampled_from(["lp70", "lp128"]),
    st.tuples(st.floats(50, 200), st.floats(50, 200), st.floats(40, 300)),
    st.tuples(st.floats(50, 200), st.floats(50, 200), st.floats(40, 300)),
    st.integers(0, 2**32 - 1),
)
def test_rows_told_in_another_square_draw_the_same_points(
    layout: str, own: tuple[float, ...], other: tuple[float, ...], seed: int
) -> None:
    draw = np.random.default_rng(seed)
    table, motion_of = {"lp70": (LP70, lp70_motion), "lp128": (LP128, lp128_motion)}[layout]
    rows = draw.normal(0, 0.3, (3, table.num_entries)).astype(np.float32)
    canonical = draw.normal(0, 0.3, 63).astype(np.float32)
    encoder = LivePortraitStructure.__new__(LivePortraitStructure)  # no weights are needed to calculate
    encoder._config = LivePortraitConfig.model_construct(layout=layout)
    told_in, wanted = FaceSquare(*own), FaceSquare(*other)
    moved = encoder.in_square(rows, told_in, wanted)
    points = [
        np.array([square.x, square.y]) + square.side / 2 * drawn(motion_of(each, canonical))
        for each, square in ((rows, told_in), (moved, wanted))
    ]
    np.testing.assert_allclose(points[1], points[0], atol=1e-2)
    np.testing.assert_array_equal(encoder.in_square(rows, told_in, told_in), rows)


def drawn(motion: Motion) -> np.ndarray:
    """Where the net's own renderer has the key points, in units of half the square's side."""
    turned = np.einsum("tij,tjk->tik", motion.kp, rotation(motion.degrees)) + motion.exp
    return np.asarray(motion.scale[:, None] * turned + motion.t[:, None])[..., :2]


# ------------------------------------------------------------------------------------------------------ landmarks


def test_106_points_are_those_that_insightface_itself_finds(nets: Path, tmp_path: Path) -> None:
    """Of a net whose answer depends on every pixel that it is shown, and on their scale."""
    landmark = pytest.importorskip("insightface.model_zoo.landmark")
    app = pytest.importorskip("insightface.app.common")
    path = save_first(tmp_path / "2d106det.onnx", slope=1e-3)
    ours = FirstLandmarks(LandmarkWeights(detector=nets, first=path))
    ours.load()
    theirs = landmark.Landmark(str(path))
    frame = np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8)
    for box in ([40.0, 30.0, 130.0, 160.0], [-20.0, 10.0, 60.5, 66.0], [200.0, 90.0, 330.0, 240.0]):
        wanted = theirs.get(frame[:, :, ::-1], app.Face(bbox=np.array(box)))
        np.testing.assert_allclose(ours.within(frame, np.array(box)), wanted, atol=2e-3)


def test_the_face_of_a_frame_is_found_where_it_is(nets: Path) -> None:
    first = FirstLandmarks(LandmarkWeights(detector=nets, first=nets))
    first.load()
    (frame, empty) = clip([(3, 4), None])
    found = first.find(frame)
    assert found is not None
    np.testing.assert_allclose((found.min(axis=0) + found.max(axis=0)) / 2, middle((3, 4)), atol=0.1)
    np.testing.assert_allclose(found.max(axis=0) - found.min(axis=0), 96, atol=0.1)
    assert first.find(empty) is None
    larger = first.find(cv2.resize(frame, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_NEAREST))  # is shrunk for it
    assert larger is None or np.isfinite(larger).all()


def test_a_real_detector_finds_a_real_face(nets: Path, shared: Path) -> None:
    data = pytest.importorskip("skimage.data")
    first = FirstLandmarks(LandmarkWeights(detector=shared / "models" / "det_500m.onnx", first=nets))
    first.load()
    for enlarged in (1, 2):
        frame = np.ascontiguousarray(np.kron(data.astronaut(), np.ones((enlarged, enlarged, 1), np.uint8)))
        found = first.find(frame)
        assert found is not None
        np.testing.assert_allclose(found.mean(axis=0) / enlarged, (222, 115), atol=25)  # the middle of her face
        assert 60 < np.ptp(found, axis=0).max() / enlarged < 180
    assert first.find(np.zeros_like(frame)) is None


def test_refining_again_changes_nothing_and_a_turned_frame_turns_the_points(nets: Path) -> None:
    first, dense = (
        FirstLandmarks(LandmarkWeights(detector=nets, first=nets)),
        DenseLandmarks(LandmarkWeights(dense=nets)),
    )
    first.load()
    dense.load()
    (frame,) = clip([(3, 4)])
    once = dense.refine(frame, first.find(frame))
    assert once.shape == (203, 2)
    np.testing.assert_allclose((once.min(axis=0) + once.max(axis=0)) / 2, middle((3, 4)), atol=0.1)
    np.testing.assert_allclose(dense.refine(frame, once), once, atol=0.1)
    turn = cv2.getRotationMatrix2D(middle((3, 4)).tolist(), 25.0, 1.0)
    turned = dense.refine(frame, once @ turn[:, :2].T + turn[:, 2])
    np.testing.assert_allclose(turned, once @ turn[:, :2].T + turn[:, 2], atol=0.1)


places = st.lists(st.none() | st.tuples(st.integers(2, 4), st.integers(2, 4)), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def finders(nets: Path) -> tuple[FirstLandmarks, DenseLandmarks]:
    first, dense = (
        FirstLandmarks(LandmarkWeights(detector=nets, first=nets)),
        DenseLandmarks(LandmarkWeights(dense=nets)),
    )
    first.load()
    dense.load()
    return first, dense


@settings(max_examples=15)
@given(places=places, every=st.integers(1, 4), refined=st.booleans(), data=st.data())
def test_points_of_a_frame_do_not_depend_on_later_ones(
    finders: tuple[FirstLandmarks, DenseLandmarks], places: Places, every: int, refined: bool, data: st.DataObject
) -> None:
    first, dense = finders
    frames = clip(places)
    found, seen = follow(frames, first, dense if refined else None, every)
    until = data.draw(st.integers(1, len(places)))
    part = follow(frames[:until], first, dense if refined else None, every).points
    for one, other in zip(part, found, strict=False):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    searched = [not refined or t % every == 0 for t in range(len(places))]
    for t, (place, points) in enumerate(zip(places, found, strict=True)):
        if searched[t] or (t and found[t - 1] is None):
            assert (points is None) == (place is None)
        if searched[t] and points is not None:
            np.testing.assert_allclose((points.min(axis=0) + points.max(axis=0)) / 2, middle(place), atol=0.2)
        if searched[t] or t == len(places) - 1:
            assert seen[t] == (place is not None)


@pytest.mark.parametrize(("there", "every"), [(1, 100), (10, 100), (10, 7), (23, 100), (59, 20), (60, 100)])
def test_points_that_are_followed_are_no_face_that_is_seen(
    finders: tuple[FirstLandmarks, DenseLandmarks], there: int, every: int
) -> None:
    frames = clip([(3, 3)] * there + [None] * (60 - there))
    found = follow(frames, *finders, every)
    assert found.seen == [True] * there + [False] * (60 - there)
    assert all(points is not None for points in found.points[:there])
    if there < 30:
        with pytest.raises(NoFaceError, match=rf"a face in {there} of 60 frames"):
            gapless(*found, 0.5)


def test_odd_points_are_looked_for_again(nets: Path, tmp_path: Path) -> None:
    """Of a net that follows in the dark and is thrown off by light."""
    first = FirstLandmarks(LandmarkWeights(detector=nets, first=nets))
    dense = DenseLandmarks(LandmarkWeights(dense=save_dense(tmp_path / "landmark.onnx", slope=2.0)))
    first.load()
    dense.load()
    frames = clip([(3, 3)] * 8)
    frames[(frames != (255, 0, 0)).any(axis=-1)] = 0
    frames[3:6] = 255
    found = follow(frames, first, dense, 100)
    assert found.seen == [points is not None for points in found.points] == [True] * 3 + [False] * 3 + [True] * 2


@given(grown=st.floats(0.2, 5.0), moved=st.floats(-2.0, 2.0), axis=st.integers(0, 1), broken=st.booleans())
def test_points_are_near_within_twice_the_size_and_half_a_side(
    grown: float, moved: float, axis: int, broken: bool
) -> None:
    points = face_points(203) * 100
    square = face_square(points, DRIVING)
    middle = np.array([square.x, square.y])
    other = (points - middle) * grown + middle
    other[:, axis] += moved * square.side
    near = 0.5 <= grown <= 2 and abs(moved) <= 0.5
    assume(min(abs(grown - 0.5), abs(grown - 2), abs(abs(moved) - 0.5)) > 1e-3)
    other[7, 0] = np.nan if broken else other[7, 0]
    found = _near(other.astype(np.float32), square)
    assert (found is not None) == (near and not broken)


def test_points_that_are_one_are_no_face() -> None:
    assert _near(np.full((203, 2), 5.0, np.float32), Square(5.0, 5.0, 1.0)) is None


@given(seen=st.lists(st.booleans(), min_size=1, max_size=20), least=st.floats(0, 1))
def test_gaps_are_filled_from_before_and_the_first_from_after(seen: list[bool], least: float) -> None:
    found = [np.full((2, 2), t, np.float32) if there else None for t, there in enumerate(seen)]
    if not any(seen) or sum(seen) < least * len(seen):
        with pytest.raises(NoFaceError, match=rf"a face in {sum(seen)} of {len(seen)} frames"):
            gapless(found, seen, least)
        return
    points = gapless(found, seen, least)[:, 0, 0]
    for t, which in enumerate(points.astype(int)):
        assert seen[which]
        assert which == max((s for s in range(t + 1) if seen[s]), default=seen.index(True))


def test_the_68_of_a_mesh_are_named_once_and_lie_within() -> None:
    mesh = np.arange(478 * 3, dtype=np.float32).reshape(1, 478, 3)
    found = mesh_landmarks(mesh)
    assert found.shape == (1, 68, 2)
    assert len(np.unique(found[0, :, 0])) == 68
    assert (found[..., 1] == found[..., 0] + 1).all()


@pytest.mark.parametrize(
    ("name", "save", "complaint"),
    [
        (
            "2d106det.onnx",
            lambda path: save_first(path, count=98),
            r"it answers \[\(1, 196\)\], expected \[\(1, 212\)\]",
        ),
        ("landmark.onnx", lambda path: save_dense(path, count=68), r"the third should hold 406"),
        ("landmark.onnx", lambda path: path.write_bytes(b"no net"), "not a model that liveportrait_landmarks can use"),
        ("det_10g.onnx", save_first, "SCRFD takes one picture"),
        ("motion_extractor.safetensors", lambda path: path.write_bytes(b"no net"), "not a model that liveportrait"),
    ],
)
def test_a_net_of_another_make_is_refused_by_name(
    nets: Path, tmp_path: Path, name: str, save: Callable[[Path], Any], complaint: str
) -> None:
    for each in nets.iterdir():
        (tmp_path / each.name).symlink_to(each)
    (tmp_path / name).unlink()
    save(tmp_path / name)
    weights = LandmarkWeights(detector=tmp_path, first=tmp_path, dense=tmp_path)
    encoder = LivePortraitStructure(
        LivePortraitConfig(weights=tmp_path / "motion_extractor.safetensors", landmark_weights=weights)
    )
    with pytest.raises(DamagedWeightsError, match=complaint):
        encoder.load()


@pytest.mark.parametrize(("missing", "setting"), [("detector", "detector"), ("first", "first"), ("dense", "dense")])
def test_missing_nets_are_named_with_the_setting(
    config_of: Callable[..., LivePortraitConfig], tmp_path: Path, missing: str, setting: str
) -> None:
    with pytest.raises(MissingWeightsError, match=rf"set landmark_weights\.{setting} to the file"):
        LivePortraitStructure(config_of(landmark_weights={missing: tmp_path}))


# --------------------------------------------------------------------------------------------------- the encoder

STILL: Places = [(3, 3)] * 2
MOVING: Places = [(3, 3), (4, 3), (4, 4)]


def test_rows_and_key_points_of_every_frame(encoder_of: Callable[..., LivePortraitStructure]) -> None:
    encoder = encoder_of()
    assert (encoder.num_features, layout_of(encoder)) == (70, LP70)
    found = measure(encoder, clip(STILL))
    assert found.motion.shape == (2, 70)
    assert found.canonical.shape == (2, 63)
    assert found.motion.dtype == found.canonical.dtype == np.float32
    fields = LP70.split(found.motion)
    assert np.abs(fields["degrees"]).max() <= 97.5
    assert np.ptp(found.motion, axis=0).max() > 0  # the background differs, and so does what a net of noise says


def test_landmarks_are_told_as_shares_of_the_frame(encoder_of: Callable[..., LivePortraitStructure]) -> None:
    encoder = encoder_of(refine=False)
    assert isinstance(encoder, Landmarking)
    shown = encoder.landmarks(clip([(3, 4), (4, 4)]))
    assert shown.shape[::2] == (2, 2)
    middles = (shown.min(axis=1) + shown.max(axis=1)) / 2
    np.testing.assert_allclose(middles * SIDE, [middle((3, 4)), middle((4, 4))], atol=0.1)


def test_the_square_is_the_mean_of_all_or_that_of_the_first(encoder_of: Callable[..., LivePortraitStructure]) -> None:
    frames = clip(MOVING)
    squares = []
    for box in ("clip", "first"):
        encoder = encoder_of(box=box, every=1)
        points = encoder._points(frames, None)
        squares.append(encoder._square(points))
        alone = [face_square(each, DRIVING) for each in points]
    np.testing.assert_allclose(squares[0], np.mean(alone, axis=0), atol=1e-3)
    assert squares[1] == alone[0]
    assert LivePortraitConfig().box == "first", "no row may depend on later frames unless somebody asks for it"
    assert squares[0].x - squares[1].x == pytest.approx(2 / 3 * CELL, abs=0.2)


def test_with_the_first_s_square_rows_do_not_depend_on_later_frames(
    encoder_of: Callable[..., LivePortraitStructure],
) -> None:
    frames = clip([(3, 3), (4, 4)])
    causal, mean = encoder_of(box="first", every=1), encoder_of(box="clip", every=1)
    whole = causal.measure(frames)
    for encoder in (causal, mean):  # alone, a picture's mean is its own square
        picture = encoder.measure(frames[:1])
        np.testing.assert_allclose(picture.motion, whole.motion[:1], atol=1e-4)
        np.testing.assert_allclose(picture.canonical, whole.canonical[:1], atol=1e-4)
    assert np.abs(mean.measure(frames).motion[0] - picture.motion[0]).max() > 1e-2


def test_how_many_are_asked_at_once_is_no_part_of_the_feature(
    encoder_of: Callable[..., LivePortraitStructure],
) -> None:
    one, two = encoder_of(batch_frames=1), encoder_of(batch_frames=2)
    assert one.fingerprint() == two.fingerprint()
    np.testing.assert_allclose(one(clip(STILL)), two(clip(STILL)), atol=1e-4)


def test_frames_that_do_not_fit_are_halved_and_no_tf32_is_at_work(
    encoder_of: Callable[..., LivePortraitStructure], config_of: Callable[..., LivePortraitConfig]
) -> None:
    frames, seen = clip(STILL), set()
    whole = encoder_of(batch_frames=2)(frames)
    encoder = LivePortraitStructure(config_of())
    encoder.load()
    assert encoder._net is not None
    sizes = make_scarce(encoder._net, 1)
    encoder._net.register_forward_pre_hook(lambda *_: seen.add(torch.backends.cudnn.allow_tf32))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        np.testing.assert_allclose(encoder(frames), whole, atol=1e-4)
    assert sizes == [1, 1]
    assert seen == {False}


def test_frames_of_several_clips_share_passes_and_no_face_is_one_clip_s_own(
    config_of: Callable[..., LivePortraitConfig],
) -> None:
    encoder = LivePortraitStructure(config_of(every=1, batch_frames=2))
    encoder.load()
    clips = [clip([(3, 3)]), clip([None, None]), clip(MOVING[::-1]), clip([])]
    alone = [encoder.measure(clips[0]), encoder.measure(clips[2])]
    assert encoder._net is not None
    sizes = make_scarce(encoder._net, 2)
    first, lacking, third = encoder.many(clips[:3])
    assert sizes == [2, 2], "four frames that show a face"
    assert isinstance(lacking, NoFaceError)
    assert "a face in 0 of 2 frames" in str(lacking)
    for found, expected in zip((first, third), alone, strict=True):
        assert not isinstance(found, NoFaceError)
        np.testing.assert_allclose(found.motion, expected.motion, atol=1e-4)
        np.testing.assert_allclose(found.canonical, expected.canonical, atol=1e-4)
    assert all(isinstance(each, NoFaceError) for each in encoder.many([clips[1], clips[1]]))
    with pytest.raises(ValueError, match="expected uint8"):
        encoder.many(clips)


def test_a_clip_without_a_face_is_refused(encoder_of: Callable[..., LivePortraitStructure]) -> None:
    encoder = encoder_of(every=1)
    with pytest.raises(NoFaceError, match="a face in 0 of 2 frames"):
        encoder(clip([None, None]))
    with pytest.raises(NoFaceError, match="a face in 1 of 3 frames; expected one in 50% or more"):
        encoder(clip([None, None, (3, 3)]))
    with pytest.raises(ValueError, match=r"frames are float64 .*expected uint8 \[T, H, W, 3\]"):
        encoder(clip(STILL).astype(float))


def test_the_fingerprint_is_what_decides_the_numbers(
    config_of: Callable[..., LivePortraitConfig], nets: Path, tmp_path: Path
) -> None:
    known = make_encoder("liveportrait", config_of())
    copy = shutil.copytree(nets, tmp_path / "copy")
    elsewhere = LandmarkWeights(detector=copy, first=copy, dense=copy)
    moved = LivePortraitStructure(
        LivePortraitConfig(weights=copy / "motion_extractor.safetensors", landmark_weights=elsewhere)
    )
    assert moved.fingerprint() == known.fingerprint()
    others = [make_encoder("liveportrait", config_of(**each)) for each in (
        {"box": "clip"}, {"refine": False}, {"every": 5}, {"precision": "fp16"}, {"min_seen": 0.1},
        {"landmark_weights": {"dense": save_dense(tmp_path / "landmark.onnx", slope=1e-3)}},
    )]  # fmt: skip
    assert len({each.fingerprint() for each in (known, *others)}) == len(others) + 1
    assert len(known.weights_digest) == 64


def test_lp128_needs_the_landmarks_that_openness_is_measured_on() -> None:
    with pytest.raises(ValidationError, match=r"lp128 measures eyes and lips .* set refine to true"):
        LivePortraitConfig(layout="lp128", refine=False)


# ------------------------------------------------------------------------------------------------------ real faces


@pytest.fixture(scope="module")
def talking(shared: Path) -> np.ndarray:
    """Two frames of a real face, a second apart."""
    path = shared / "realdata" / "video" / "LivePortrait" / "d18.mp4"
    if not path.is_file():
        pytest.skip(f"needs {path.name} of the shared clips")
    capture, frames = cv2.VideoCapture(str(path)), []
    for index in range(26):
        there, frame = capture.read()
        assert there
        if index % 25 == 0:
            frames.append(cv2.resize(frame[:, :, ::-1], (320, 320), interpolation=cv2.INTER_AREA))
    capture.release()
    return np.stack(frames)


def by_mesh(config_of: Callable[..., LivePortraitConfig], shared: Path, **settings: Any) -> LivePortraitStructure:
    pytest.importorskip("mediapipe")
    model = shared / "models" / "face_landmarker.task"
    encoder = LivePortraitStructure(config_of(landmark_weights={"mesh": model}, **settings))
    encoder.load()
    return encoder


def test_the_68_of_a_real_mesh_stand_where_they_should(
    config_of: Callable[..., LivePortraitConfig], shared: Path, talking: np.ndarray
) -> None:
    encoder = by_mesh(config_of, shared, landmarks="mediapipe", refine=False)
    points = mesh_landmarks(encoder._mesh.track(talking).points)[0]
    jaw, brows, nose, eyes, lips = (points[span] for span in map(slice, (0, 17, 27, 36, 48), (17, 27, 36, 48, 68)))
    assert (np.diff(jaw[2:-2, 0]) > 0).all()  # from ear to ear, by the chin
    assert jaw[8, 1] == points[:, 1].max()
    assert (np.diff(brows[:, 0]) > 0).all()
    assert brows[:, 1].max() < eyes[:, 1].min() < nose[4:, 1].min() < lips[:, 1].min() < lips[:, 1].max() < jaw[8, 1]
    assert eyes[:6, 0].max() < nose[:4, 0].min() < nose[:4, 0].max() < eyes[6:, 0].min()
    inner, outer = lips[12:], lips[:12]
    assert np.ptp(inner[:, 0]) < np.ptp(outer[:, 0])
    assert outer[0, 0] == lips[:, 0].min()
    assert outer[6, 0] == lips[:, 0].max()


def test_mediapipe_alone_places_a_real_face(
    config_of: Callable[..., LivePortraitConfig], shared: Path, talking: np.ndarray
) -> None:
    encoder = by_mesh(config_of, shared, landmarks="mediapipe", refine=False, box="first")
    found = encoder.measure(talking)
    assert (found.motion.shape, found.canonical.shape) == ((2, 70), (2, 63))
    with pytest.raises(NoFaceError):
        encoder(np.zeros((2, 64, 64, 3), np.uint8))


def test_lp128_of_a_real_face(config_of: Callable[..., LivePortraitConfig], shared: Path, talking: np.ndarray) -> None:
    encoder = by_mesh(config_of, shared, landmarks="mediapipe", layout="lp128")
    assert (encoder.num_features, layout_of(encoder)) == (128, LP128)
    fields = LP128.split(encoder(talking))
    np.testing.assert_allclose(np.linalg.norm(fields["rotation"].reshape(2, 2, 3), axis=2), 1, atol=1e-5)
    np.testing.assert_allclose(fields["eyes"], 0.5, atol=1e-3)  # of our net's points
    assert fields["blendshapes"].shape == (2, 52)
    assert fields["blendshapes"].max() <= 1
    assert np.ptp(fields["blendshapes"], axis=0).max() > 0.05
