"""Axis-angle and matrices."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.rotations import axis_angles, matrices, nearest


def test_quarter_turns() -> None:
    quarter = np.pi / 2
    x, y, z = matrices(quarter * np.eye(3))
    np.testing.assert_allclose(x @ (0, 1, 0), (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(y @ (0, 0, 1), (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(z @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    assert np.array_equal(matrices(np.zeros((2, 3))), np.tile(np.eye(3), (2, 1, 1)))


@given(st.integers(0, 2**32 - 1), st.floats(0, 3.1))
def test_both_ways(seed: int, angle: float) -> None:
    axis = np.random.default_rng(seed).standard_normal(3)
    vector = angle * axis / np.linalg.norm(axis)
    turned = matrices(vector)
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turned) > 0
    np.testing.assert_allclose(axis_angles(turned), vector, atol=1e-7)


@given(st.integers(0, 2**32 - 1))
def test_the_nearest_rotation_is_one_and_leaves_rotations_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = nearest(rng.standard_normal((4, 3, 3)))
    np.testing.assert_allclose(found @ found.swapaxes(-1, -2), np.tile(np.eye(3), (4, 1, 1)), atol=1e-9)
    assert (np.linalg.det(found) > 0).all()
    np.testing.assert_allclose(nearest(3.0 * found), found, atol=1e-9)
