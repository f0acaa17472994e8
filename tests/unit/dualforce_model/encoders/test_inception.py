"""What Inception-v3 sees, and what it refuses; its numbers are in tests/numerics, its file in test_published."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.encoders.inception import NUM_FEATURES, PICTURE_PX, Inception, net_pictures
from dualforce_model.encoders.inception import net as net_module
from dualforce_model.encoders.inception.pictures import resize


@given(st.integers(1, 700), st.booleans())
def test_a_ramp_stays_one_until_its_last_pixel(size: int, across: bool) -> None:
    """Pixel i lies at i times the ratio: nothing is moved by half a pixel, and behind the last one it stays level."""
    ramp = torch.arange(size, dtype=torch.float32)
    picture = ramp.expand(1, 1, 4, size) if across else ramp[:, None].expand(1, 1, size, 4)
    wanted = np.minimum(np.arange(PICTURE_PX) * size / PICTURE_PX, size - 1)
    found = resize(picture)[0, 0]
    assert found.shape == (PICTURE_PX, PICTURE_PX)
    for line in (0, 150, PICTURE_PX - 1):
        assert np.abs((found[line] if across else found[:, line]).numpy() - wanted).max() <= 1e-4


def test_nothing_is_averaged_when_a_picture_shrinks() -> None:
    """At twice the size every second pixel is taken as it is."""
    picture = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1, 3, 2 * PICTURE_PX, 2 * PICTURE_PX))).float()
    assert torch.equal(resize(picture), picture[:, :, ::2, ::2])
    same = picture[:, :, :PICTURE_PX, :PICTURE_PX]
    assert torch.equal(resize(same), same)


def test_greys_go_from_minus_one_to_almost_one() -> None:
    for grey, wanted in ((0, -1.0), (128, 0.0), (255, 127 / 128)):
        found = net_pictures(torch.full((1, 7, 9, 3), grey, dtype=torch.uint8))
        assert found.shape == (1, 3, PICTURE_PX, PICTURE_PX)
        assert (found == wanted).all()


def test_colours_stay_in_their_order() -> None:
    found = net_pictures(torch.tensor([0, 128, 64], dtype=torch.uint8).expand(1, 5, 5, 3))
    assert [float(channel.mean()) for channel in found[0]] == [-1.0, 0.0, -0.5]


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((0, 9, 9, 3), np.uint8),
        np.zeros((2, 0, 9, 3), np.uint8),
        np.zeros((2, 3, 9, 9), np.uint8),
        np.zeros((9, 9, 3), np.uint8),
        np.zeros((2, 9, 9, 3), np.float32),
    ],
)
def test_what_are_no_pictures_is_refused(pictures: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        Inception().features(pictures)


def test_chunks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_module, "CHUNK", 2)
    torch.manual_seed(0)
    net = Inception()
    pictures = np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3), np.uint8)
    pictures.flags.writeable = False  # as arrays that are read from files may be
    features = net.features(pictures)
    assert features.shape == (3, NUM_FEATURES)
    assert features.dtype == np.float32
    assert np.abs(features[2:] - net.features(pictures[2:])).max() <= 1e-5 * np.abs(features).max()
    assert np.abs(features[2] - features[0]).max() > 1e-3 * np.abs(features).max()
