"""Pictures that wait for their crop."""

import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model.media import Picture
from tasks import footage
from tasks.faces import SquareBox, cut
from tasks.footage import HeldFrames


def scene(width: int, height: int) -> np.ndarray:
    return np.asarray(cv2.resize(np.ascontiguousarray(data.astronaut()), (width, height)))


def decoded(rgb: np.ndarray) -> Picture:
    """The picture as a decoder gives it: colours at half the size."""
    return Picture(Picture.of(rgb).frame.reformat(format="yuv420p"), Picture.of(rgb)._path)


def held(*pictures: Picture) -> HeldFrames:
    frames = HeldFrames()
    for picture in pictures:
        frames.add(picture)
    return frames


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second).mean())


def test_pictures_wait_as_they_were_decoded_and_huge_ones_shrink() -> None:
    picture = scene(2560, 1440)
    frames = held(decoded(picture))
    assert frames.scale == 0.75
    assert frames[0].shape == (1080, 1920, 3)
    assert frames.num_bytes == 1920 * 1080 * 3 // 2
    crop = frames.crops(SquareBox(1000, 200, 800), 1, 256)[0].rgb()
    assert difference(crop, cv2.resize(picture[200:1000, 1000:1800], (256, 256), interpolation=cv2.INTER_AREA)) < 2


def test_beyond_their_memory_pictures_wait_as_jpeg_and_look_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [decoded(np.roll(scene(640, 360), 9 * shift, axis=1)) for shift in range(3)]
    raw = held(*pictures)
    monkeypatch.setattr(footage, "HELD_BYTES", 2 * pictures[0].num_bytes)
    frames = held(*pictures)
    assert frames.num_bytes == 2 * pictures[0].num_bytes < raw.num_bytes
    box = SquareBox(200, 20, 300)
    crops, alike = (np.stack([crop.rgb() for crop in one.crops(box, 3, 96)]) for one in (frames, raw))
    assert np.array_equal(crops[:2], alike[:2])
    assert 0 < difference(crops[2], alike[2]) < 3
    assert difference(frames[2], raw[2]) < 3


def test_a_picture_that_stays_on_display_is_held_once() -> None:
    first, second = decoded(scene(320, 180)), decoded(scene(320, 180)[::-1])
    frames = held(first, first, first, second)
    assert (len(frames), frames.num_bytes) == (4, 2 * first.num_bytes)
    crops = [crop.rgb() for crop in frames.crops(SquareBox(40, 0, 180), 4, 64)]
    assert np.array_equal(crops[0], crops[2])
    assert difference(crops[2], crops[3]) > 20


def test_all_get_the_size_of_the_first() -> None:
    frames = held(decoded(scene(320, 180)), decoded(scene(640, 360)))
    assert frames[1].shape == (180, 320, 3)
    crops = [crop.rgb() for crop in frames.crops(SquareBox(40, 0, 180), 2, 64)]
    assert difference(crops[0], crops[1]) < 5


@pytest.mark.parametrize("side", [60, 181, 333])
@pytest.mark.parametrize(("x", "y"), [(30, 20), (31, 21), (-40, -25), (250, 150), (-300, 100)])
def test_crops_are_the_square_with_the_edge_repeated(x: int, y: int, side: int) -> None:
    if x + side <= 0:
        x = 5 - side  # five pixels of the picture are left
    smooth = cv2.GaussianBlur(scene(320, 240), (0, 0), 3)
    crop = held(decoded(smooth)).crops(SquareBox(x, y, side), 1, 128)[0].rgb()
    assert difference(crop, cut(smooth, SquareBox(x, y, side), 128)) < 5  # half a pixel beside it at most, where padded
