"""The block-DCT codec: shape, causality, linearity, exactness on what it keeps."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualforce_model.encoders import DctVideoCodec
from dualforce_model.encoders.dct_codec import TABLES, dct_matrix

CODEC = DctVideoCodec()


def _smooth_clip(seed: int, frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Slowly changing colours, far from black and white: nothing is clipped."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 16.0
    t = np.arange(frames)[:, None, None, None] / 5.0
    phase, speed = rng.uniform(0, 6, 3), rng.uniform(0.3, 1.0, 3)
    wave = np.sin(x[None, :, :, None] + speed * t + phase) + np.cos(y[None, :, :, None] * speed + phase)
    return (128 + 35 * wave).astype(np.uint8)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 5), seed=st.integers(0, 100))
def test_shapes_and_round_trip(steps: int, seed: int) -> None:
    frames = _smooth_clip(seed, 4 * (steps - 1) + 1)
    latents = CODEC.encode(frames)
    assert latents.shape == (steps, 16, 4, 6)
    assert latents.dtype == np.float32
    decoded = CODEC.decode(latents)
    assert decoded.shape == frames.shape
    assert np.abs(decoded.astype(int) - frames).mean() < 8


def test_decoding_is_idempotent_up_to_rounding() -> None:
    once = CODEC.decode(CODEC.encode(_smooth_clip(0, 13)))
    twice = CODEC.decode(CODEC.encode(once))
    assert np.abs(once.astype(int) - twice).max() <= 1
    assert (once != twice).mean() < 0.04


def test_what_is_kept_is_kept_exactly() -> None:
    """Latents that decode within range come back, but for the rounding to whole grey values."""
    rng = np.random.default_rng(1)
    latents = rng.normal(0, 0.1, (4, 16, 3, 3)).astype(np.float32)
    latents[0, [c.t > 0 for c in TABLES["face16"]]] = 0  # a single frame has no movement
    again = CODEC.encode(CODEC.decode(latents))
    smallest_scale = min(c.scale for c in TABLES["face16"])
    assert np.abs(again - latents).max() < 0.05 / smallest_scale


def test_the_basis_is_orthonormal() -> None:
    dct = dct_matrix(8)
    np.testing.assert_allclose(dct @ dct.T, np.eye(8), atol=1e-6)
    scale = np.array([c.scale for c in TABLES["face16"]])
    basis = CODEC._encode_group * scale[:, None]
    np.testing.assert_allclose(basis @ basis.T, np.eye(16), atol=1e-5)


def test_linear() -> None:
    one, other = _smooth_clip(2, 5) // 2, _smooth_clip(3, 5) // 2
    black = np.zeros_like(one)
    together = CODEC.encode(one + other) + CODEC.encode(black)
    np.testing.assert_allclose(together, CODEC.encode(one) + CODEC.encode(other), atol=1e-4)


def test_each_step_depends_on_its_own_frames_alone() -> None:
    frames = _smooth_clip(4, 17)
    changed = frames.copy()
    changed[5:9] = 255 - changed[5:9]  # step 2
    before, after = CODEC.encode(frames), CODEC.encode(changed)
    others = [0, 1, 3, 4]
    assert np.array_equal(before[others], after[others])
    assert not np.array_equal(before[2], after[2])


def test_a_picture_alone_is_step_0_and_has_no_movement() -> None:
    frames = _smooth_clip(5, 9)
    latent = CODEC.encode_image(frames[0])
    assert np.array_equal(latent, CODEC.encode(frames)[0])
    moving = np.array([c.t > 0 for c in TABLES["face16"]])
    assert np.all(latent[moving] == 0)


def test_a_still_clip_has_equal_steps() -> None:
    latents = CODEC.encode(np.repeat(_smooth_clip(6, 1), 9, axis=0))
    np.testing.assert_allclose(latents, np.repeat(latents[:1], 3, axis=0), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 7), max_size=4, unique=True))
def test_decoding_a_stream_equals_decoding_the_whole(cuts: list[int]) -> None:
    latents = CODEC.encode(_smooth_clip(7, 29))
    edges = [0, *sorted(cuts), 8]
    decoder = CODEC.decoder()
    parts = [decoder(latents[a:b]) for a, b in pairwise(edges)]
    assert np.array_equal(np.concatenate(parts), CODEC.decode(latents))


def test_latents_survive_half_precision() -> None:
    frames = _smooth_clip(8, 9)
    latents = CODEC.encode(frames)
    half = CODEC.decode(latents.astype(np.float16))
    assert np.abs(half.astype(int) - CODEC.decode(latents)).max() <= 1


@pytest.mark.parametrize("frames", [2, 4, 6])
def test_other_lengths_are_refused(frames: int) -> None:
    with pytest.raises(ValueError, match="not 4k\\+1"):
        CODEC.encode(_smooth_clip(0, frames))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((5, 12, 16, 3), np.uint8),
        np.zeros((5, 16, 16, 3), np.float32),
        np.zeros((5, 16, 16), np.uint8),
        np.zeros((1, 0, 16, 3), np.uint8),
    ],
)
def test_other_frames_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"multiples of 8|expected uint8"):
        CODEC.encode(frames)


@pytest.mark.parametrize("shape", [(0, 16, 2, 2), (3, 15, 2, 2), (16, 2, 2)])
def test_other_latents_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\[S, 16, h, w\\]"):
        CODEC.decode(np.zeros(shape, np.float32))
