"""LivePortrait's motion, crops, landmarks and loader; its numbers are in tests/numerics."""

import hashlib
import pickle
import traceback
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from dualforce_model.encoders.liveportrait import (
    DRIVING,
    SOURCE,
    MotionExtractor,
    angles,
    assemble,
    canonical,
    degrees,
    driving_pictures,
    face_square,
    load_motion_extractor,
    mean_square,
    openness,
    posed_points,
    rotation,
    source_picture,
    to_crop,
)
from dualforce_model.encoders.liveportrait.landmarks import PLACES
from dualforce_model.encoders.liveportrait.motion import HEADS
from dualforce_model.pretrained import PRETRAINED, UntrustedWeightsError
from dualforce_model.weight_files import WeightsError
from tests.pickled import save_pickled, vouched

seeds = st.integers(0, 2**32 - 1)


def heads(count: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Anything that the net might say."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 2, (count, width)).astype(np.float32) for name, width in HEADS.items()}


# --------------------------------------------------------------------------------------------------------- the motion


@pytest.mark.parametrize(("index", "expected"), [(0, -97.5), (32, -1.5), (33, 1.5), (65, 97.5)])
def test_a_sure_bin_is_its_angle(index: int, expected: float) -> None:
    bins = np.full((1, 66), -1000.0)
    bins[0, index] = 1000.0  # whose exponential no number holds
    assert degrees(bins).tolist() == [expected]


@given(seeds, st.floats(-50, 50))
def test_angles_of_bins_are_means(seed: int, shift: float) -> None:
    """Inside of the outermost, the same whatever is added to all bins, and of the other sign when turned round."""
    bins = np.random.default_rng(seed).normal(0, 5, (3, 66))
    found = degrees(bins)
    assert (np.abs(found) <= 97.5).all()
    assert np.allclose(degrees(bins + shift), found, atol=1e-9)
    assert np.allclose(degrees(bins[:, ::-1]), -found, atol=1e-9)


@given(st.floats(-179, 179), st.floats(-97.5, 97.5), st.floats(-179, 179))
def test_rotations_keep_lengths_and_have_angles(pitch: float, yaw: float, roll: float) -> None:
    turned = rotation(np.array([pitch, yaw, roll]))
    assert np.allclose(turned @ turned.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turned) == pytest.approx(1)
    if abs(abs(yaw) - 90) > 0.01:  # looking straight aside, pitch and roll are one
        assert np.allclose(rotation(angles(turned)), turned, atol=1e-9)
    if abs(yaw) < 89.99:
        assert np.allclose(angles(turned), [pitch, yaw, roll], atol=1e-6)


def test_key_points_are_turned_then_scaled_then_moved() -> None:
    """A quarter turn about z, of points that are rows: x goes to y. The third of t is never used."""
    raw = {name: np.zeros((1, width), np.float32) for name, width in HEADS.items()}
    raw["kp"][0, :3], raw["exp"][0, :3] = (1.0, 0.0, 0.25), (0.5, 0.0, 0.0)
    raw["t"][0], raw["scale"][0] = (10.0, 20.0, 30.0), 2.0
    motion = assemble(raw)._replace(degrees=np.array([[0.0, 0.0, 90.0]], np.float32))
    points = posed_points(motion)
    assert np.allclose(points[0, 0], (11.0, 22.0, 0.5), atol=1e-6)
    assert np.allclose(points[0, 1:], (10.0, 20.0, 0.0), atol=1e-6)


def test_the_condition_is_the_first_picture_and_knows_of_no_other() -> None:
    raw = heads(5)
    before = canonical(assemble(raw))
    assert np.array_equal(before, raw["kp"][0])
    raw["kp"][1:] += 1
    assert np.array_equal(canonical(assemble(raw)), before)
    with pytest.raises(ValueError, match="no frames"):
        canonical(assemble({name: each[:0] for name, each in raw.items()}))


def test_heads_that_are_none_are_refused() -> None:
    raw = heads()
    with pytest.raises(ValueError, match="heads are"):
        assemble({name: each for name, each in raw.items() if name != "t"})
    with pytest.raises(ValueError, match=r"head exp is \[2, 62\]: expected \[2, 63\]"):
        assemble({**raw, "exp": raw["exp"][:, 1:]})
    with pytest.raises(ValueError, match=r"head yaw is \[1, 66\]: expected \[2, 66\]"):
        assemble({**raw, "yaw": raw["yaw"][1:]})
    with pytest.raises(ValueError, match="head scale holds NaN"):
        assemble({**raw, "scale": np.full((2, 1), np.nan, np.float32)})
    with pytest.raises(ValueError, match="head kp holds NaN, infinity, or more"):
        assemble({**raw, "kp": np.full((2, 63), 1e300)})
    with pytest.raises(ValueError, match="65 bins"):
        degrees(np.zeros((2, 65)))


# ---------------------------------------------------------------------------------------------------------- the crops


def face(count: int, seed: int = 0) -> np.ndarray:
    """Points somewhere, with the eyes above the lips."""
    points = np.random.default_rng(seed).uniform(100, 200, (count, 2))
    places = PLACES[count]
    points[list(places.left_eye)], points[list(places.right_eye)] = (130, 130), (170, 130)
    points[list(places.lips)] = (150, 180)
    return points


@given(st.sampled_from(sorted(PLACES)), seeds, st.floats(0.2, 5), st.floats(-3, 3), st.floats(-500, 500))
def test_the_square_goes_with_the_face(count: int, seed: int, zoom: float, radians: float, shift: float) -> None:
    """Turned, scaled and moved points land on the same places of the crop."""
    points = face(count, seed)
    cosine, sine = np.cos(radians), np.sin(radians)
    other = zoom * points @ np.array([[cosine, sine], [-sine, cosine]]) + shift
    first, second = (to_crop(face_square(each, SOURCE), 512) for each in (points, other))
    assert np.allclose(points @ first[:, :2].T + first[:, 2], other @ second[:, :2].T + second[:, 2], atol=1e-6)
    assert face_square(other, DRIVING).radians == 0.0


def test_an_upright_face_is_where_the_forms_say() -> None:
    """Eyes to lips point down: the side is the larger extent times the scale, the centre higher by the shift."""
    points = face(68)
    points[[0, 1, 2, 3]] = (80, 100), (240, 100), (100, 90), (100, 210)
    square = face_square(points, DRIVING)
    assert square == pytest.approx((160, 150 - 0.1 * 352, 160 * 2.2, 0.0))
    assert face_square(points, SOURCE) == pytest.approx((160, 150 - 0.125 * 368, 160 * 2.3, 0.0))


def test_a_clip_has_one_square_the_mean_of_its_frames() -> None:
    points = face(203)
    clip = points + np.array([[[0, 0]], [[8, 0]], [[1, -6]]])
    mean, first = mean_square(clip), mean_square(clip[:1])
    assert (mean.x - first.x, mean.y - first.y, mean.side - first.side) == pytest.approx((3, -2, 0))


def test_pictures_are_cut_out_and_black_outside() -> None:
    frame = np.full((400, 400, 3), 200, np.uint8)
    points = face(203)
    pictures = driving_pictures([frame, frame // 2], np.stack([points, points]))
    assert pictures.shape == (2, 256, 256, 3)
    assert (pictures[0, 128, 128] == 200).all()
    assert (pictures[1, 128, 128] == 100).all()
    away = driving_pictures([frame], points[None] + 5000)
    assert not away.any()
    assert (source_picture(frame, points)[128, 128] == 200).all()


def test_both_ways_to_shrink_are_one() -> None:
    """Pictures and clips are cut by the same code: what upstream names for either is the mean of four pixels."""
    cut = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    area, linear = (cv2.resize(cut, (256, 256), interpolation=how) for how in (cv2.INTER_AREA, cv2.INTER_LINEAR))
    assert np.array_equal(area, linear)
    frame = cv2.resize(cut, (400, 400))
    points = face(203)
    points[[0, 1, 2, 3]] = (80, 100), (240, 100), (100, 90), (100, 210)
    matrix = to_crop(face_square(points, DRIVING), 512)
    wide = cv2.warpAffine(frame, matrix, (512, 512), flags=cv2.INTER_LINEAR)
    expected = wide.reshape(256, 2, 256, 2, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(driving_pictures([frame], points[None])[0] - expected).max() <= 0.5


def test_a_turned_face_is_upright_in_a_source_and_stays_turned_in_a_clip() -> None:
    """A mark at the mouth, of a face that lies on its side."""
    upright = face(203)
    points = np.stack([350 - upright[:, 1], upright[:, 0]], axis=1)  # a quarter turn: the lips are left of the eyes
    frame = np.zeros((400, 400, 3), np.uint8)
    mouth = points[[48, 66]].mean(axis=0).astype(int)
    cv2.circle(frame, mouth.tolist(), 8, (255, 255, 255), -1)
    for picture, axis in ((source_picture(frame, points), 1), (driving_pictures([frame], points[None])[0], 0)):
        y, x = np.argwhere(picture[..., 0] > 128).mean(axis=0)
        offset = (x - 128, y - 128)
        assert abs(offset[axis]) > 2 * abs(offset[1 - axis])
        assert offset[axis] > 0 if axis else offset[axis] < 0


def test_landmarks_that_make_no_crop_are_refused() -> None:
    frame = np.zeros((9, 9, 3), np.uint8)
    for points in (np.zeros((5, 2)), np.zeros((203, 3)), np.full((68, 2), np.nan), np.zeros(203)):
        with pytest.raises(ValueError, match="landmarks of shape"):
            face_square(points, SOURCE)
    with pytest.raises(ValueError, match="one point"):
        face_square(np.ones((68, 2)), SOURCE)
    for nothing in (np.zeros((0, 203, 2)), face(203)):
        with pytest.raises(ValueError, match="T >= 1"):
            mean_square(nothing)
    with pytest.raises(ValueError, match="an upright form"):
        mean_square(face(203)[None], SOURCE)
    with pytest.raises(ValueError, match="zip"):
        driving_pictures([frame], np.stack([face(203)] * 2))
    for picture in (frame.astype(np.float32), frame[..., 0], frame[:0]):
        with pytest.raises(ValueError, match="expected uint8"):
            source_picture(picture, face(203))


def test_eyes_and_lips_open_by_their_height_over_their_width() -> None:
    points = np.zeros((2, 203, 2))
    for width, (left, right) in ((20.0, (0, 12)), (25.0, (24, 36)), (50.0, (48, 66))):
        points[:, right, 0] = points[:, left, 0] + width
    points[1, 18, 1], points[1, 42, 1], points[1, 102, 1] = 5.0, 10.0, 30.0
    found = openness(points)
    assert np.allclose(found.eyes, [[0, 0], [0.25, 0.4]], atol=1e-6)
    assert np.allclose(found.lips, [[0], [0.6]], atol=1e-6)
    assert np.isfinite(openness(np.zeros((1, 203, 2))).eyes).all()
    for nothing in (np.zeros((1, 106, 2)), np.zeros((203, 2)), np.full((1, 203, 2), np.inf)):
        with pytest.raises(ValueError, match="landmarks of shape"):
            openness(nothing)


@given(seeds, st.floats(0.2, 5), st.floats(-3, 3))
def test_openness_is_the_same_however_the_head_lies(seed: int, zoom: float, radians: float) -> None:
    points = np.random.default_rng(seed).uniform(0, 100, (2, 203, 2))
    cosine, sine = np.cos(radians), np.sin(radians)
    other = openness(zoom * points @ np.array([[cosine, sine], [-sine, cosine]]) + 7)
    for found, wanted in zip(other, openness(points), strict=True):
        assert np.allclose(found, wanted, rtol=1e-4)


# ------------------------------------------------------------------------------------------------- the net and its file


@pytest.fixture(scope="module")
def shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in MotionExtractor().state_dict().items()}


def shaped(shapes: dict[str, torch.Size], **tensors: Tensor) -> dict[str, Tensor]:
    """All names with their shapes, of which a file holds one number each."""
    plain = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    return plain | {name.replace("__", "."): each for name, each in tensors.items()}


def test_the_published_form_and_others_give_the_same_net(shapes: dict[str, torch.Size], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
    save_pickled(weights, tmp_path / "motion_extractor.pth")
    save_pickled(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "other.safetensors")
    vouched(tmp_path / "other.safetensors")
    before = torch.random.get_rng_state()
    for name in ("motion_extractor.pth", "old.pth", "other.safetensors"):
        net = load_motion_extractor(tmp_path / name)
        (tmp_path / name).unlink()
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())
        state = net.state_dict()
        assert all(torch.equal(state[key], tensor.float()) for key, tensor in weights.items())
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["motion_extractor.pth", "motion_extractor.safetensors"])
def test_a_net_of_the_same_names_and_shapes_is_told_by_its_digest(
    shapes: dict[str, torch.Size], name: str, tmp_path: Path
) -> None:
    """As that for animals has them."""
    weights = {each: torch.zeros(shape) for each, shape in shapes.items()}
    path = tmp_path / name
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    with pytest.raises(UntrustedWeightsError, match=f"dualforce weights pin {path}") as caught:
        load_motion_extractor(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in str(caught.value)
    if path.suffix == ".pth":
        assert PRETRAINED["liveportrait"].files[0].sha256 in str(caught.value)
        assert "dualforce weights pull liveportrait --again" in str(caught.value)
    else:
        assert "nets for animals have the same names" in str(caught.value)
    load_motion_extractor(vouched(path))


def test_what_is_wrong_with_a_file_is_named(shapes: dict[str, torch.Size], tmp_path: Path) -> None:
    path = tmp_path / "motion_extractor.pth"
    whole = shaped(shapes)
    stem, last = "detector.downsample_layers.0.0.weight", "detector.fc_exp.bias"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"a": torch.zeros(1)}, r"no detector\.\S+, .* and 207 more; expected the 212 weights of LivePortrait"),
        ({name: each for name, each in whole.items() if name != last}, r"no detector\.fc_exp\.bias; expected the 212"),
        ({name.removeprefix("detector."): each for name, each in whole.items()}, r"no detector\."),
        (shaped(shapes, a__b=torch.zeros(1)), r"a\.b has no place in LivePortrait's motion extractor"),
        ({**whole, last: torch.zeros(64)}, r"detector\.fc_exp\.bias is \[64\], expected \[63\]"),
        ({**whole, stem: torch.full((96, 3, 4, 4), torch.nan)}, rf"{stem} holds NaN or infinity"),
        ({**whole, last: torch.full((63,), -torch.inf)}, rf"{last} holds NaN or infinity"),
        ({**whole, stem: torch.zeros((96, 3, 4, 4), dtype=torch.int64)}, "expected a plain float"),
        ({"epoch": 3, **whole}, "more than named tensors"),
        ({"state_dict": whole}, "more than named tensors"),
    ]
    for state, complaint in cases:
        for zipped in (True, False):
            save_pickled(state, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(WeightsError, match=complaint) as raised:
                load_motion_extractor(path)
            assert str(path) in str(raised.value)
    for content in (b"", b"PK\x03\x04 no archive", b"\x80\x02\x8a\x0a torn", b"<html>not found</html>"):
        path.write_bytes(content)
        vouched(path)
        with pytest.raises(WeightsError, match="not readable"):
            load_motion_extractor(path)
    for nothing in (tmp_path / "gone.pth", tmp_path):
        with pytest.raises(WeightsError, match="not readable"):
            load_motion_extractor(nothing)


class Code:
    """Unpickling it would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pickled({"detector.norm.bias": Code()}, "new.pth")
    save_pickled({"detector.norm.bias": Code()}, "old.pth", _use_new_zipfile_serialization=False)
    Path("bare.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    vouched(Path("bare.pth"))
    Path("bare.safetensors").write_bytes(pickle.dumps(Code(), protocol=2))
    vouched(Path("bare.safetensors"))
    for name in ("new.pth", "old.pth", "bare.pth", "bare.safetensors"):
        with pytest.raises(WeightsError, match="not readable as") as raised:
            load_motion_extractor(Path(name))
        assert "weights_only" not in "".join(traceback.format_exception(raised.value))  # torch says how to run it
    assert not Path("ran").exists()


def test_pictures_that_do_not_fit_are_refused() -> None:
    with torch.device("meta"):
        net = MotionExtractor()
    good = np.zeros((1, 256, 256, 3), np.uint8)
    for pictures in (good[:0], good[0], good[:, :255], good[..., :1], good.astype(np.float32)):
        with pytest.raises(ValueError, match="expected uint8"):
            net.motion(pictures)


def test_a_picture_is_seen_alike_in_whatever_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dualforce_model.encoders.liveportrait.net.CHUNK", 2)
    pictures = np.random.default_rng(0).integers(0, 255, (5, 256, 256, 3), np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MotionExtractor()
    whole, last = net.raw(pictures), net.raw(pictures[4:])
    for name, numbers in whole.items():
        assert numbers.shape == (5, HEADS[name])
        assert numbers.dtype == np.float32
        assert np.abs(numbers[4:] - last[name]).max() <= 1e-5 * np.abs(numbers).max()
    assert np.array_equal(net.motion(pictures[4:]).t, last["t"])
