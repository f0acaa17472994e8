"""Head poses against heads that were turned by known angles and projected."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.head_pose import FACE_MM, head_pose


def turned(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """Rotation: x to the right, y down, z to the viewer. Nose to the right, nose up, clockwise are positive."""
    yaw, pitch, roll = np.radians([yaw_deg, pitch_deg, roll_deg])
    aside = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    up = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    tilted = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return np.asarray(tilted @ aside @ up)


def seen(
    rotation: np.ndarray, distance_mm: float = 600.0, px_per_mm: float = 1.5, face_mm: np.ndarray = FACE_MM
) -> np.ndarray:
    """Landmarks of a head at some distance that a camera looks at, in a picture where it lies around 200, 150."""
    points = (face_mm - FACE_MM.mean(axis=0)) @ rotation.T
    scale = px_per_mm * distance_mm / (distance_mm - points[:, 2])
    return np.asarray(points[:, :2] * scale[:, None] + (200, 150))


def angles(landmarks: np.ndarray) -> np.ndarray:
    pose = head_pose(landmarks)
    assert pose is not None
    return np.array([pose.yaw_deg, pose.pitch_deg, pose.roll_deg])


@given(
    st.floats(-60, 60), st.floats(-30, 30), st.floats(-45, 45), st.sampled_from([400, 600, 1500]), st.floats(0.2, 8.0)
)
def test_a_projected_head_has_the_pose_it_was_turned_by(
    yaw: float, pitch: float, roll: float, distance_mm: float, px_per_mm: float
) -> None:
    found = angles(seen(turned(yaw, pitch, roll), distance_mm, px_per_mm))
    np.testing.assert_allclose(found, [yaw, pitch, roll], atol=3.0)


def test_signs_are_those_of_the_picture() -> None:
    frontal = seen(turned(0, 0, 0))
    np.testing.assert_allclose(angles(frontal), 0, atol=1.0)
    to_the_right, upward = seen(turned(30, 0, 0)), seen(turned(0, 20, 0))
    eyes_middle = frontal[:2].mean(axis=0)
    assert to_the_right[2, 0] > to_the_right[:2, 0].mean()
    assert angles(to_the_right)[0] == pytest.approx(30, abs=2)
    assert upward[2, 1] - upward[:2, 1].mean() < frontal[2, 1] - eyes_middle[1]
    assert angles(upward)[1] == pytest.approx(20, abs=2)
    clockwise = seen(turned(0, 0, 15))
    assert clockwise[1, 1] > clockwise[0, 1]
    assert angles(clockwise)[2] == pytest.approx(15, abs=2)


def test_other_faces_and_rough_landmarks_cost_a_few_degrees() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        truth = rng.uniform((-50, -25, -30), (50, 25, 30))
        somebody = FACE_MM + rng.normal(0, 2, FACE_MM.shape)
        rough = seen(turned(*truth), face_mm=somebody) + rng.normal(0, 1, (5, 2))
        errors.append(np.abs(angles(rough) - truth))
    assert (np.median(errors, axis=0) < 5).all()
    assert (np.percentile(errors, 90, axis=0) < 12).all()


@pytest.mark.parametrize(
    "landmarks",
    [
        np.zeros((5, 2)),
        np.stack([np.arange(5) * 10.0, np.arange(5) * 5.0], axis=1),
        seen(turned(0, 0, 0))[[1, 0, 2, 4, 3]],
        seen(turned(0, 0, 0), px_per_mm=0.02),
    ],
    ids=["one point", "a line", "left and right exchanged", "two pixels"],
)
def test_what_is_no_head_has_no_pose(landmarks: np.ndarray) -> None:
    assert head_pose(landmarks) is None


@given(st.lists(st.tuples(st.floats(-5000, 5000), st.floats(-5000, 5000)), min_size=5, max_size=5))
def test_any_five_points_have_a_finite_pose_or_none(points: list[tuple[float, float]]) -> None:
    pose = head_pose(np.array(points))
    if pose is not None:
        assert abs(pose.yaw_deg) <= 90
        assert abs(pose.pitch_deg) <= 90
        assert abs(pose.roll_deg) <= 180


def test_a_wrong_number_of_landmarks_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        head_pose(np.zeros((4, 2)))
