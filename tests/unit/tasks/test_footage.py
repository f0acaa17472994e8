"""Frames that wait for their crop, and the strip that shows what was cut."""

import cv2
import numpy as np
import pytest
from skimage import data

from tasks.faces import SquareBox
from tasks.footage import STRIP_COLOUR, HeldFrames, strip


def test_large_frames_wait_as_jpeg_and_huge_ones_shrink() -> None:
    picture = cv2.resize(np.ascontiguousarray(data.astronaut()), (2560, 1440))
    held = HeldFrames()
    held.add(picture)
    assert held.scale == 0.75
    assert held[0].shape == (1080, 1920, 3)
    crop = held.crops(SquareBox(1000, 200, 800), 1, 256)[0]
    expected = cv2.resize(picture[200:1000, 1000:1800], (256, 256), interpolation=cv2.INTER_AREA)
    assert float(np.abs(crop.astype(int) - expected).mean()) < 2


@pytest.mark.parametrize(("width", "height"), [(320, 180), (101, 203), (64, 64)])
def test_the_strip_shows_four_frames_with_the_square_drawn_in(width: int, height: int) -> None:
    held = HeldFrames()
    for grey in range(0, 250, 25):
        held.add(np.full((height, width, 3), grey, np.uint8))
    side = min(width, height)
    shown = strip(held, SquareBox((width - side) // 2, (height - side) // 2, side), 9)
    each = shown.shape[1] // 4
    assert shown.shape == (160, 4 * each, 3)
    assert each == pytest.approx(160 * width / height, abs=1)
    greys = [int(np.median(shown[60:100, each * i + each // 3 : each * i + each // 2])) for i in range(4)]
    assert greys == [0, 75, 125, 200]  # frames 0, 3, 5 and 8
    assert (np.abs(shown.astype(int) - STRIP_COLOUR).sum(axis=2) < 30).any()
