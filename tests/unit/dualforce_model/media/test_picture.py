"""Decoded pictures: all of them, some pixels, a rectangle, upright."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model import media
from dualforce_model.media import Cutter, Picture
from dualforce_model.media.picture import upright

SIZE = (320, 180)


def scene() -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(cv2.resize(np.ascontiguousarray(data.astronaut()[:288]), SIZE), (0, 0), 2))


def stored(form: str) -> Picture:
    return Picture(Picture.of(scene()).frame.reformat(format=form), Path("a.mp4"))


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(int) - second).mean())


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "yuv422p10le", "yuv444p", "bgra", "rgb24", "gray"])
def test_any_form_of_picture_is_cut_and_sampled(form: str) -> None:
    picture = stored(form)
    whole = picture.rgb()
    assert (picture.width, picture.height) == SIZE
    assert picture.num_bytes >= SIZE[0] * SIZE[1]
    for size in (48, 200):  # smaller and larger than it is
        expected = cv2.resize(whole[20:140, 60:180], (size, size), interpolation=cv2.INTER_AREA)
        assert difference(Cutter((60, 20, 180, 140), size, size)(picture), expected) < 3
    assert difference(picture.sampled(64, 64), cv2.resize(whole, (64, 64), interpolation=cv2.INTER_NEAREST)) < 12
    assert picture.resized(*SIZE) is picture
    small = cv2.resize(whole, (80, 45), interpolation=cv2.INTER_AREA)
    assert difference(picture.resized(80, 45).rgb(), small) < 3


def test_a_cutter_takes_pictures_of_changing_form() -> None:
    cutter = Cutter((60, 20, 180, 140), 48, 48)
    assert difference(cutter(stored("yuv420p")), cutter(stored("rgb24"))) < 3


def test_a_rectangle_lies_in_the_picture() -> None:
    for corners in ((10, 10, 10, 20), (-1, 0, 10, 10)):
        with pytest.raises(ValueError, match="a rectangle in the picture"):
            Cutter(corners, 8, 8)
    with pytest.raises(ValueError, match="stick out of a picture of 320x180"):
        Cutter((0, 0, 321, 180), 8, 8)(stored("yuv420p"))


@pytest.mark.parametrize("form", ["yuv420p", "rgb24"])
def test_turned_pictures_are_what_turned_pixels_are(form: str) -> None:
    turned = upright(stored(form).frame, SIZE, np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]) * 65536)
    assert difference(Picture(turned, Path("a.mp4")).rgb(), np.rot90(scene(), -1)) < 3


def test_what_stays_on_display_is_one_picture_and_reading_frames_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "slow.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(6):
            frame = av.VideoFrame.from_ndarray(np.roll(scene(), 20 * index, axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pictures = list(media.read_pictures(path))
    assert len(pictures) == 15
    assert len({id(picture) for picture in pictures}) == 6
    for picture, frame in zip(pictures, media.read_frames(path), strict=True):
        assert np.array_equal(picture.rgb(), frame)
