"""Which of FLAME's numbers are motion."""

import numpy as np
import pytest

from dualforce_model.flame import LAYOUT, MOTION_WIDTHS, NUM_MOTION, NUM_PARAMETERS, motion


def test_the_layout_covers_every_number_once() -> None:
    covered = [place for each in LAYOUT.values() for place in range(each.start, each.stop)]
    assert covered == list(range(NUM_PARAMETERS))
    assert (MOTION_WIDTHS, NUM_MOTION) == ((50, 3, 3), 56)


def test_identity_and_camera_are_no_motion() -> None:
    still, other = np.zeros((2, NUM_PARAMETERS)), np.zeros((2, NUM_PARAMETERS))
    other[:, LAYOUT["shape"]], other[:, LAYOUT["camera"]] = 1, 1
    assert np.array_equal(motion(other), motion(still))
    with pytest.raises(ValueError, match="236 FLAME parameters a frame: expected 159"):
        motion(np.zeros((2, 236)))
