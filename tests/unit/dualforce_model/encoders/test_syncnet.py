"""SyncNet's front end, windows, offset search and loader; its numbers are in tests/numerics."""

import pickle
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from dualforce_model.encoders.syncnet import (
    REACH,
    SyncNet,
    agree,
    distances,
    face_pictures,
    load_syncnet,
    mean_distances,
    mfcc,
    num_windows,
)
from dualforce_model.encoders.syncnet.faces import OUTSIDE, face_squares
from dualforce_model.weight_files import WeightsError
from tests.pickled import save_pickled, vouched

EMPHASIS, TINY = 0.97, np.finfo(np.float64).eps

# ------------------------------------------------------------------------------------------------------------ the ear


@pytest.mark.parametrize(("samples", "windows"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16000, 99)])
def test_windows_cover_the_sound(samples: int, windows: int) -> None:
    assert mfcc(np.zeros(samples)).shape == (windows, 13)


def test_silence_is_the_logarithm_of_next_to_nothing() -> None:
    cepstra = mfcc(np.zeros(1600))
    assert np.allclose(cepstra[:, 0], np.log(TINY))
    assert np.abs(cepstra[:, 1:]).max() < 1e-9  # all bands alike


def test_the_energy_of_a_click_has_a_closed_form() -> None:
    """Of a spectrum of 512 points its first and last of 257 bins stand for one each, the others for two."""
    click = np.zeros(400)
    click[100] = 0.25
    size = 0.25 * 32768
    whole = size**2 * (1 + EMPHASIS**2)
    ends = size**2 * ((1 - EMPHASIS) ** 2 + (1 + EMPHASIS) ** 2)
    assert mfcc(click)[0, 0] == pytest.approx(np.log((whole + ends / 512) / 2), rel=1e-12)


def test_louder_sound_moves_the_energy_alone() -> None:
    quiet = np.random.default_rng(0).integers(-5000, 5000, 4000) / 32768
    once, twice = mfcc(quiet), mfcc(2 * quiet)
    assert np.allclose(twice[:, 0] - once[:, 0], np.log(4))
    assert np.allclose(twice[:, 1:], once[:, 1:], atol=1e-9)


def test_samples_are_those_of_16_bits() -> None:
    sound = np.random.default_rng(0).uniform(-1.2, 1.2, 2000)
    whole = np.clip(np.round(sound * 32768), -32768, 32767) / 32768
    assert np.array_equal(mfcc(sound), mfcc(whole))


@pytest.mark.parametrize("sound", [np.zeros(0), np.zeros((2, 400)), np.full(400, np.nan)])
def test_what_is_no_sound_is_refused(sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match="sound"):
        mfcc(sound)


# ------------------------------------------------------------------------------------------------------------ the eye


def test_a_still_face_is_cut_out_of_the_middle_of_a_clip() -> None:
    """Half its longer side is 50: 1.4 times that to either side, 1 above the centre, 1.8 below."""
    squares = face_squares(np.tile([100.0, 100.0, 180.0, 200.0], (20, 1)))
    assert squares[10].tolist() == [70.0, 100.0, 210.0, 240.0]
    assert (squares[6:14] == squares[10]).all()


def test_a_stray_box_does_not_move_the_square() -> None:
    boxes = np.tile([100.0, 100.0, 180.0, 200.0], (30, 1))
    calm = face_squares(boxes)
    boxes[15] += 300
    assert np.array_equal(face_squares(boxes), calm)


def test_what_sticks_out_of_the_picture_is_grey() -> None:
    frame = np.full((100, 100, 3), 200, np.uint8)
    pictures = face_pictures([frame] * 13, np.tile([60.0, 60.0, 100.0, 100.0], (13, 1)))
    assert pictures.shape == (13, 224, 224, 3)
    assert (pictures[6, 100, 10] == 200).all()
    assert (pictures[6, 100, 220] == OUTSIDE).all()
    assert (pictures[6, 220, 10] == OUTSIDE).all()
    beyond = face_pictures([frame] * 13, np.tile([460.0, 40.0, 500.0, 80.0], (13, 1)))
    assert (beyond[6] == OUTSIDE).all()


def test_boxes_that_are_none_are_refused() -> None:
    frame = np.zeros((9, 9, 3), np.uint8)
    good = np.tile([1.0, 1.0, 3.0, 3.0], (7, 1))
    assert len(face_pictures([frame] * 7, good)) == 7
    for boxes in (np.zeros((7, 4)), np.full((7, 4), np.nan), good[:, :2], good[:6]):
        with pytest.raises(ValueError, match="box"):
            face_pictures([frame] * len(boxes), boxes)
    with pytest.raises(ValueError, match="zip"):
        face_pictures([frame] * 6, good)


# --------------------------------------------------------------------------------------------------- the offset search


@pytest.mark.parametrize("late", [-14, -3, 0, 1, 9])
def test_a_planted_shift_is_found(late: int) -> None:
    rng = np.random.default_rng(0)
    voice = rng.normal(0, 1, (120, 32)).astype(np.float32)
    video = voice[30:90]
    audio = voice[30 - late : 90 - late] + rng.normal(0, 0.1, video.shape).astype(np.float32)
    found = agree(mean_distances(video, audio))
    assert (found.offset_frames, found.sound_late_ms) == (-late, 40.0 * late)
    assert found.confidence > 2
    others = agree(mean_distances(video, rng.normal(0, 1, video.shape)))
    assert others.confidence < 0.4 * found.confidence


def test_distances_are_lengths_and_beyond_the_clip_is_nothing() -> None:
    video = np.array([[3.0, 4.0], [0.0, 0.0]])
    audio = np.array([[0.0, 0.0], [3.0, 4.0]])
    assert distances(video, audio, 1) == pytest.approx(np.array([[5, 5, 0], [0, 5, 0]]), abs=1e-5)


def test_of_equal_distances_the_first_counts_and_nothing_is_sure() -> None:
    assert agree(np.ones(31)) == (REACH, 1.0, 0.0)
    curve = np.full(31, 9.0)
    curve[[12, 20]] = 4.0
    assert agree(curve) == (3, 4.0, 5.0)


@given(st.integers(0, 400), st.integers(0, 300_000))
def test_windows_end_before_picture_and_sound(frames: int, samples: int) -> None:
    count = num_windows(frames, samples)
    assert count >= 0
    assert not count or (count + 5 <= frames and (count + 5) * 640 <= samples)
    assert num_windows(frames + 1, samples + 640) >= count


def test_shapes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        distances(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="odd number"):
        agree(np.zeros(4))


# ------------------------------------------------------------------------------------------------------- the net's file


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in SyncNet().state_dict().items() if "num_batches" not in name}


def hollow(weights: dict[str, Tensor], **tensors: Tensor) -> dict[str, Tensor]:
    """All names, with one number each: what is wrong with the first is told before the others are looked at."""
    return {name: torch.zeros(1) for name in weights} | {name.replace("_", "."): each for name, each in tensors.items()}


def test_the_published_form_and_others_give_the_same_net(weights: dict[str, Tensor], tmp_path: Path) -> None:
    counted = {**weights, "netcnnaud.1.num_batches_tracked": torch.tensor(7)}
    save_pickled(counted, tmp_path / "old.model", _use_new_zipfile_serialization=False)  # as syncnet_v2.model is
    save_pickled(weights, tmp_path / "new.model")
    save_file(counted, tmp_path / "other.safetensors")
    for name in ("old.model", "new.model", "other.safetensors"):
        net = load_syncnet(tmp_path / name)
        assert not net.training
        assert all(torch.equal(net.state_dict()[key], tensor) for key, tensor in weights.items())
        (tmp_path / name).unlink()


def test_what_is_wrong_with_a_file_is_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "syncnet_v2.model"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"a": torch.zeros(1)}, r"no netcnnaud\.0\.weight.* and \d+ more; expected the 88 weights of SyncNet v2"),
        (hollow(weights), r"netcnnaud\.0\.weight is \[1\], expected \[64, 1, 3, 3\]"),
        (hollow(weights, a_b=torch.zeros(1)), r"a\.b has no place in SyncNet v2"),
        (hollow(weights, netcnnaud_0_weight=torch.full((64, 1, 3, 3), torch.nan)), "holds NaN or infinity"),
        (hollow(weights, netcnnaud_0_weight=torch.zeros((64, 1, 3, 3), dtype=torch.int64)), "expected a plain float"),
        ({"epoch": 3, **weights}, "more than named tensors"),
    ]
    for state, complaint in cases:
        for zipped in (True, False):
            save_pickled(state, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(WeightsError, match=complaint) as raised:
                load_syncnet(path)
            assert str(path) in str(raised.value)
    for content in (b"", b"PK\x03\x04 no archive", b"\x80\x02\x8a\x0a torn", b"<html>not found</html>"):
        path.write_bytes(content)
        vouched(path)
        with pytest.raises(WeightsError, match="not readable"):
            load_syncnet(path)
    for nothing in (tmp_path / "gone.model", tmp_path):
        with pytest.raises(WeightsError, match="not readable"):
            load_syncnet(nothing)


class Code:
    """Unpickling it would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pickled({"netcnnaud.0.weight": Code()}, "new.model")
    save_pickled({"netcnnaud.0.weight": Code()}, "old.model", _use_new_zipfile_serialization=False)
    Path("bare.model").write_bytes(pickle.dumps(Code(), protocol=2))
    vouched(Path("bare.model"))
    Path("bare.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    vouched(Path("bare.pth"))
    for name in ("new.model", "old.model", "bare.model", "bare.pth"):
        with pytest.raises(WeightsError, match="not readable as") as raised:
            load_syncnet(Path(name))
        assert "weights_only" not in "".join(traceback.format_exception(raised.value))  # torch says how to run it
    assert not Path("ran").exists()


def test_pictures_and_sound_that_do_not_fit_are_refused() -> None:
    net = SyncNet()
    for pictures in (np.zeros((4, 224, 224, 3), np.uint8), np.zeros((6, 96, 96, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            net.video_features(pictures)
    with pytest.raises(ValueError, match=r"expected at least 0\.2 s"):
        net.audio_features(np.zeros(1600))
    with pytest.raises(ValueError, match="expected 6 frames"):
        net.paired_features(np.zeros((5, 224, 224, 3), np.uint8), np.zeros(9600))


def test_chunks_join_without_a_seam() -> None:
    """A window is seen alike wherever it stands."""
    pictures = np.random.default_rng(0).integers(0, 255, (22, 224, 224, 3), np.uint8)
    net = SyncNet()
    whole = net.video_features(pictures)
    assert len(whole) == 18
    assert np.abs(whole[15:] - net.video_features(pictures[15:])).max() <= 1e-5 * np.abs(whole).max()
