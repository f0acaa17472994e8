"""What I3D sees, how it pads, and the program that is its other form; its numbers are in tests/numerics."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dualforce_model.encoders.i3d import (
    CLIP_PX,
    I3D,
    MIN_FRAMES,
    NUM_FEATURES,
    SCRIPT_SHA256,
    load_i3d_script,
    net_clips,
    script,
)
from dualforce_model.encoders.i3d.net import pad_as_needed
from dualforce_model.weight_files import WeightsError

# ------------------------------------------------------------------------------------------------------- what it sees


@pytest.mark.parametrize("size", [1, 2, 100, 224, 500])
def test_a_ramp_is_sampled_at_the_centres_of_pixels(size: int) -> None:
    ramp = np.linspace(0, 255, size).round().astype(np.uint8)
    clip = np.broadcast_to(ramp[None, None, None, :, None], (1, 2, 6, size, 3)).copy()
    found = net_clips(torch.from_numpy(clip))
    assert found.shape == (1, 3, 2, CLIP_PX, CLIP_PX)
    places = np.clip((np.arange(CLIP_PX) + 0.5) * size / CLIP_PX - 0.5, 0, size - 1)
    wanted = 2 * np.interp(places, np.arange(size), ramp) / 255 - 1
    assert np.abs(found[0, 1, 1, 100].numpy() - wanted).max() <= 1e-4


def test_greys_go_from_minus_one_to_one_and_colours_and_times_stay() -> None:
    clip = torch.zeros((1, 3, 8, 8, 3), dtype=torch.uint8)
    clip[0, 1, ..., 2] = 255
    found = net_clips(clip)
    assert (found[0, 2, 1] - 1).abs().max() <= 1e-6
    assert float(found.mean()) == pytest.approx(-7 / 9)


@pytest.mark.parametrize(
    "clips",
    [
        np.zeros((0, 16, 9, 9, 3), np.uint8),
        np.zeros((2, 16, 0, 9, 3), np.uint8),
        np.zeros((2, MIN_FRAMES - 1, 9, 9, 3), np.uint8),
        np.zeros((2, 3, 16, 9, 9), np.uint8),
        np.zeros((16, 9, 9, 3), np.uint8),
        np.zeros((2, 16, 9, 9, 3), np.float32),
    ],
)
def test_what_are_no_clips_is_refused(clips: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"expected uint8 .* T >= {MIN_FRAMES}"):
        I3D().features(clips)


def test_the_shortest_clip_and_chunks_without_a_seam() -> None:
    torch.manual_seed(0)
    net = I3D()
    for weight in net.parameters():
        if weight.ndim == 5:
            nn.init.kaiming_normal_(weight)  # torch's own lets what is seen die out
    clips = np.random.default_rng(0).integers(0, 255, (3, MIN_FRAMES, 20, 30, 3), np.uint8)
    clips.flags.writeable = False  # as arrays that are read from files may be
    features = net.features(clips)
    assert features.shape == (3, NUM_FEATURES)
    assert features.dtype == np.float32
    assert np.abs(features[2:] - net.features(clips[2:])).max() <= 1e-5 * np.abs(features).max()
    assert np.abs(features[2] - features[0]).max() > 1e-3 * np.abs(features).max()


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 3))
def test_padding_gives_every_place_its_window(size: int, kernel: int, stride: int) -> None:
    """As TensorFlow's `SAME`: ceil(size / stride) windows, and of an uneven number the larger part behind."""
    line = torch.ones(1, 1, 1, 1, size)
    padded = pad_as_needed(line, (1, 1, kernel), (1, 1, stride))[0, 0, 0, 0]
    windows = -(-size // stride)
    reached = (windows - 1) * stride + kernel
    assert len(padded) == max(size, reached)
    assert (len(padded) - kernel) // stride + 1 == windows
    before = int(padded.nonzero()[0])
    assert before == (len(padded) - size) // 2
    assert float(padded.sum()) == size


# --------------------------------------------------------------------------------------------------------- the program


class Program(nn.Module):
    """What the published program promises: three flags, 400 numbers of a clip."""

    def __init__(self, num_features: int = NUM_FEATURES) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(float(num_features)))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        flags = 1.0 * rescale + 2.0 * resize + 4.0 * return_features
        return x[:, 0].mean(dim=(1, 2, 3))[:, None] + flags * self.weight


def saved(program: nn.Module, path: Path) -> str:
    """Write a program; its digest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # scripting is; the published file stays
        torch.jit.save(torch.jit.script(program), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_program_is_called_as_published_distances_were_made(tmp_path: Path) -> None:
    path = tmp_path / "i3d_torchscript.pt"
    net = load_i3d_script(path, saved(Program(), path)).to(torch.device("cpu"))
    clips = np.zeros((3, 16, 4, 5, 3), np.uint8)
    clips[2, ..., 0] = 255  # red, not scaled before
    features = net.features(clips)
    assert features.dtype == np.float32
    assert np.array_equal(features, 7 * np.arange(400.0) + 255 * np.array([[0], [0], [1]]))
    assert net.name != I3D.name  # distances of the two do not compare
    with pytest.raises(ValueError, match="expected uint8"):
        net.features(clips[:, :8])


def test_no_other_program_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "i3d_torchscript.pt"
    digest = saved(Program(), path)
    with pytest.raises(WeightsError, match=f"SHA-256 {digest}, expected SHA-256 {SCRIPT_SHA256}; a TorchScript runs"):
        load_i3d_script(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match=f"expected SHA-256 {digest}"):
        load_i3d_script(path, digest)
    for nothing in (tmp_path / "gone.pt", tmp_path):
        with pytest.raises(WeightsError, match="not readable"):
            load_i3d_script(nothing)
    monkeypatch.setattr(script, "MAX_BYTES", 100)
    with pytest.raises(WeightsError, match="more than 100 bytes, expected SHA-256"):
        load_i3d_script(path, digest)


def test_a_program_that_is_none_or_gives_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "i3d_torchscript.pt"
    net = load_i3d_script(path, saved(Program(1024), path))
    with pytest.raises(WeightsError, match=r"gives \[2, 1024\] for 2 clips, expected \[2, 400\]"):
        net.features(np.zeros((2, 16, 4, 5, 3), np.uint8))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError, match="its digest is right, but torch cannot read it"):
        load_i3d_script(path, hashlib.sha256(path.read_bytes()).hexdigest())
