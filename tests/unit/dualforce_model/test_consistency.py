"""Two nets about one head: closed forms of clips that agree, that do not, and that say nothing."""

import numpy as np
import pytest

from dualforce_model import flame
from dualforce_model.consistency import LOWER_LIP, MIN_FRAMES, Agreement, agreement
from dualforce_model.encoders.face_mesh import NUM_BLENDSHAPES
from dualforce_model.encoders.liveportrait.layouts import LP70, LP128
from dualforce_model.encoders.liveportrait.motion import rotation
from dualforce_model.flame import LAYOUT
from dualforce_model.rotations import axis_angles, matrices

FRAMES = 101
MIRROR = np.diag([1.0, -1.0, -1.0])  # y down and z away, against y up and z towards: pitch as it is, yaw and roll not


def turning(frames: int = FRAMES) -> np.ndarray:
    """Pitch, yaw and roll of a head that looks around; degrees."""
    time = np.arange(frames) / 25
    waves = [7 * np.sin(2.1 * time), 14 * np.sin(1.3 * time + 0.5), 4 * np.sin(3.7 * time + 1)]
    return np.stack(waves, axis=1)


def talking(frames: int = FRAMES) -> np.ndarray:
    """How far a mouth is open, 0 to 1; shut now and then."""
    time = np.arange(frames) / 25
    return np.maximum(0.5 + np.sin(11 * time) * np.sin(2 * time), 0)


def structure(degrees: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Rows of lp70."""
    rows = np.zeros((len(degrees), LP70.num_entries), np.float32)
    rows[:, LOWER_LIP] = 0.02 * mouth - 0.003
    rows[:, 63:66], rows[:, 69] = degrees, 1.4
    return rows


def wide(degrees: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """Rows of lp128."""
    count = len(degrees)
    fields = {
        "exp": np.zeros((count, 63)),
        "rotation": rotation(degrees)[:, :2].reshape(-1, 6),
        "t": np.zeros((count, 3)),
        "scale": np.ones((count, 1)),
        "eyes": np.zeros((count, 2)),
        "lips": 0.6 * mouth[:, None],
        "blendshapes": np.zeros((count, NUM_BLENDSHAPES)),
    }
    return LP128.join(fields)


def parameters(
    degrees: np.ndarray, mouth: np.ndarray, axes: np.ndarray = MIRROR, tilt: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    """FLAME of the same head, in other axes, with another head at rest (degrees, axis-angle)."""
    heads = rotation(degrees).swapaxes(-1, -2)
    moved = axes @ heads @ axes.T @ matrices(np.deg2rad(np.array(tilt)))
    rows = np.random.default_rng(1).standard_normal((len(degrees), flame.NUM_PARAMETERS))
    rows[:, LAYOUT["pose"]] = axis_angles(moved)
    rows[:, LAYOUT["jaw"]] = np.stack([0.3 * mouth + 0.02, 0 * mouth, 0 * mouth], axis=1)
    return rows.astype(np.float32)


def score(found: Agreement) -> float:
    assert found.score is not None
    assert found.frames is not None
    assert ((found.frames >= 0) & (found.frames <= 1)).all()
    return found.score


def test_one_head_seen_twice_agrees_in_every_frame() -> None:
    degrees, mouth = turning(), talking()
    found = agreement(LP70, structure(degrees, mouth), parameters(degrees, mouth))
    assert found.frames is not None
    assert found.frames.min() > 0.999
    assert score(found) == pytest.approx(1, abs=1e-3)
    assert found.signs == (1, -1, -1)
    assert found.said == ""
    broad = agreement(LP128, wide(degrees, mouth), parameters(degrees, mouth))
    assert score(broad) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("axes", [np.eye(3), MIRROR, np.diag([-1.0, 1.0, -1.0]), np.diag([1.0, 1.0, -1.0])])
def test_axes_and_the_head_at_rest_are_conventions(axes: np.ndarray) -> None:
    degrees, mouth = turning(), talking()
    known = parameters(degrees, mouth, axes, tilt=(12, -4, 3))
    found = agreement(LP70, structure(degrees, mouth), known)
    assert score(found) > 0.95
    assert found.signs is not None
    assert agreement(LP70, structure(degrees, mouth), known, found.signs).score == found.score


def test_another_order_of_the_frames_does_not_agree() -> None:
    degrees, mouth = turning(), talking()
    order = np.random.default_rng(0).permutation(FRAMES)
    found = agreement(LP70, structure(degrees, mouth), parameters(degrees, mouth)[order])
    assert score(found) < 0.25
    for part in (found.pose, found.jaw):
        assert part.frames is not None
        assert np.median(part.frames) < 0.35


def test_a_second_too_late_does_not_agree() -> None:
    degrees, mouth = turning(FRAMES + 25), talking(FRAMES + 25)
    found = agreement(LP70, structure(degrees[25:], mouth[25:]), parameters(degrees[:-25], mouth[:-25]))
    assert score(found) < 0.2


def test_a_few_wrong_frames_are_told_and_move_nothing_else() -> None:
    degrees, mouth = turning(), talking()
    known = parameters(degrees, mouth)
    known[40:44, LAYOUT["pose"]] += 0.6
    known[40:44, LAYOUT["jaw"]] += 0.6
    found = agreement(LP70, structure(degrees, mouth), known)
    assert found.frames is not None
    assert found.frames[40:44].max() < 0.01
    assert np.delete(found.frames, range(40, 44)).min() > 0.8
    assert score(found) > 0.95


def test_a_head_that_turns_the_other_way_is_told_once_the_signs_are_known() -> None:
    degrees, mouth = turning(), talking()
    other = parameters(degrees * (1, -1, 1), mouth)
    assert score(agreement(LP70, structure(degrees, mouth), other)) > 0.9
    known = agreement(LP70, structure(degrees, mouth), other, signs=(1, -1, -1))
    assert known.pose.frames is not None
    assert np.median(known.pose.frames) < 0.2
    assert known.signs == (1, 1, -1)  # what this clip itself says


def test_an_axis_that_the_head_hardly_turns_about_has_no_sign() -> None:
    degrees, mouth = turning() * (0.01, 1, 0.01), talking()
    found = agreement(LP70, structure(degrees, mouth), parameters(degrees, mouth))
    assert found.signs == (0, -1, 0)
    assert score(found) > 0.99
    assert agreement(LP70, structure(degrees, mouth), parameters(degrees, mouth), (0, -1, 0)).score == found.score


def test_one_that_moves_while_the_other_is_still_does_not_agree() -> None:
    degrees, mouth = turning(), talking()
    still = agreement(LP70, structure(0 * degrees, 0 * mouth), parameters(degrees, mouth))
    assert score(still) < 0.3
    assert score(agreement(LP70, structure(degrees, mouth), parameters(0 * degrees, 0 * mouth))) < 0.3


def test_a_still_head_says_nothing() -> None:
    degrees, mouth = 0.02 * turning(), 0.01 * talking()
    found = agreement(LP70, structure(degrees, mouth), parameters(degrees, mouth))
    assert (found.score, found.frames, found.signs) == (None, None, None)
    assert "pose not measurable: the head turns by 0.2 degrees only" in found.said
    assert "jaw not measurable" in found.said
    mouth_alone = agreement(LP70, structure(degrees, talking()), parameters(degrees, talking()))
    assert score(mouth_alone) == pytest.approx(1, abs=1e-3)
    assert "pose not measurable" in mouth_alone.said
    assert "jaw" not in mouth_alone.said


def test_few_frames_say_nothing() -> None:
    degrees, mouth = turning(MIN_FRAMES - 1), talking(MIN_FRAMES - 1)
    found = agreement(LP70, structure(degrees, mouth), parameters(degrees, mouth))
    assert found.score is None
    assert found.said == f"not measurable: {MIN_FRAMES - 1} frames, fewer than {MIN_FRAMES}"


def test_what_cannot_be_compared_is_refused() -> None:
    degrees, mouth = turning(), talking()
    rows, known = structure(degrees, mouth), parameters(degrees, mouth)
    with pytest.raises(ValueError, match="expected one of lp70, lp128"):
        agreement(LP70.model_copy(update={"name": "face_dct"}), rows, known)
    with pytest.raises(ValueError, match=r"expected \[101, 159\]"):
        agreement(LP70, rows, known[:-1])
    with pytest.raises(ValueError, match=r"expected \[T, 128\]"):
        agreement(LP128, rows, known)
