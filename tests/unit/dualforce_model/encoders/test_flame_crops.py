"""Squares around a face, and what is cut out of a frame: closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.encoders.deca import VERTICES, landmarks_68
from dualforce_model.encoders.flame_crops import (
    PICTURE_PX,
    CropSquare,
    cut,
    deca_picture,
    landmarks_square,
    mesh_square,
    smirk_picture,
    to_crop,
)

FACE = np.array([(100.0, 90.0), (260.0, 300.0), (180.0, 200.0)])
places = st.floats(-500, 1500)


@given(places, places, st.integers(1, 2000))
def test_corners_go_to_the_middles_of_corner_pixels(x: float, y: float, side: int) -> None:
    matrix = to_crop(CropSquare(x, y, side))
    for sign_x in (-1, 1):
        for sign_y in (-1, 1):
            there = matrix @ (x + sign_x * side / 2, y + sign_y * side / 2, 1)
            wanted = ((PICTURE_PX - 1) * (sign_x + 1) / 2, (PICTURE_PX - 1) * (sign_y + 1) / 2, 1)
            np.testing.assert_allclose(there, wanted, atol=1e-6)


def test_a_picture_that_is_cut_in_its_own_size_stays_as_it_is() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    left, top, side = 50, 20, PICTURE_PX - 1
    found = cut(frame, CropSquare(left + side / 2, top + side / 2, side))
    np.testing.assert_allclose(found, frame[top : top + PICTURE_PX, left : left + PICTURE_PX], atol=1e-8)


def test_a_ramp_stays_one_and_outside_is_black() -> None:
    """Bilinear: what rises evenly does so between pixels too."""
    ramp = np.broadcast_to(np.arange(0, 200, dtype=np.uint8)[None, :, None], (160, 200, 3))
    found = cut(ramp, CropSquare(100, 80, 111))
    across = 100 - 111 / 2 + np.arange(PICTURE_PX) * 111 / (PICTURE_PX - 1)
    np.testing.assert_allclose(found[5, :, 1], across, atol=1e-6)
    outside = cut(ramp, CropSquare(100, 80, 400))
    assert (outside[0] == 0).all()
    assert outside[PICTURE_PX // 2, PICTURE_PX // 2, 0] == pytest.approx(100, abs=1)


def test_smirks_picture_is_in_whole_steps_and_decas_is_not() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    steps = smirk_picture(frame, FACE) * 255
    exact = cut(frame, mesh_square(FACE))
    np.testing.assert_allclose(steps, np.floor(exact), atol=1e-4)
    np.testing.assert_allclose(deca_picture(frame, FACE), cut(frame, landmarks_square(FACE)) / 255, atol=1e-6)


def test_what_is_no_face_is_refused() -> None:
    for points, complaint in (
        (np.zeros((5, 2)), "a face of 0 px"),
        (np.full((5, 2), np.nan), "a face of nan px"),
        (np.zeros((0, 2)), r"expected \[n, 2 or 3\]"),
        (np.zeros((5, 4)), r"expected \[n, 2 or 3\]"),
    ):
        with pytest.raises(ValueError, match=complaint):
            mesh_square(points)
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\]"):
        cut(np.zeros((0, 4, 3), np.uint8), CropSquare(1, 1, 2))


def test_the_68_are_taken_in_their_order() -> None:
    assert len(VERTICES) == len(set(VERTICES)) == 68
    points = np.arange(478.0)[:, None] * (1, 1)
    assert landmarks_68(points)[:, 0].tolist() == list(VERTICES)
    with pytest.raises(ValueError, match=r"expected \[478, 2 or 3\]"):
        landmarks_68(points[:68])
