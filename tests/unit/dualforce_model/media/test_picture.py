"""Decoded pictures: all of them, some pixels, a rectangle, upright."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from skimage import data

from dualforce_model import media
from dualforce_model.media import Cutter, Picture, framed, small
from dualforce_model.media.picture import BT601, BT709, LIMITED_RANGE, upright

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
        assert difference(Cutter((60, 20, 180, 140), size, size)(picture).rgb(), expected) < 3
    assert difference(picture.sampled(64, 64), cv2.resize(whole, (64, 64), interpolation=cv2.INTER_NEAREST)) < 12
    assert picture.resized(*SIZE) is picture
    small = cv2.resize(whole, (80, 45), interpolation=cv2.INTER_AREA)
    assert difference(picture.resized(80, 45).rgb(), small) < 3


def test_a_cutter_takes_pictures_of_changing_form() -> None:
    cutter = Cutter((60, 20, 180, 140), 48, 48)
    assert difference(cutter(stored("yuv420p")).rgb(), cutter(stored("rgb24")).rgb()) < 3


@pytest.mark.parametrize("space", [BT709, BT601])
@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p"])
def test_cuts_are_coded_in_the_colours_of_the_first_picture_and_are_written_so(
    space: int, form: str, tmp_path: Path
) -> None:
    full = form == "yuvj420p"
    frame = Picture.of(scene()).frame.reformat(
        format=form, dst_colorspace=space, dst_color_range=2 if full else LIMITED_RANGE
    )
    frame.colorspace, frame.color_range = space, 2 if full else LIMITED_RANGE
    source = Picture(frame, Path("a.mp4"))
    assert difference(source.rgb(), scene()) < 3
    cutter = Cutter((60, 20, 180, 140), 120, 120)
    cuts = [cutter(source), cutter(stored("rgb24"))]
    for cut in cuts:
        assert (cut.frame.format.name, int(cut.frame.colorspace), int(cut.frame.color_range)) == ("yuv420p", space, 1)
        assert difference(cut.rgb(), scene()[20:140, 60:180]) < 4
    media.write_video(tmp_path / "cut.mp4", cuts, None, crf=4)
    for frame in media.read_frames(tmp_path / "cut.mp4"):
        assert difference(frame, scene()[20:140, 60:180]) < 5


def test_coded_pictures_of_another_kind_are_refused(tmp_path: Path) -> None:
    cut = Cutter((60, 20, 180, 140), 48, 48)(stored("yuv420p"))
    for other in (stored("yuv420p"), Picture.of(scene()[:48, :48])):
        with pytest.raises(ValueError, match="expected pictures"):
            media.write_video(tmp_path / "cut.mp4", [cut, other], None)
    with pytest.raises(ValueError, match="even sides"):
        Cutter((60, 20, 180, 140), 47, 48)


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (2, 0, 4, 6), (10, 8, 0, 2)])
def test_a_frame_repeats_the_edge(margins: tuple[int, int, int, int]) -> None:
    cut = Cutter((60, 20, 180, 140), 48, 48)(stored("yuv420p"))
    expected = cv2.copyMakeBorder(cut.rgb(), *margins, cv2.BORDER_REPLICATE)
    assert difference(framed(cut, *margins).rgb(), expected) < 1


def test_small_pictures_are_averages_and_never_enlarged() -> None:
    (shrunk,) = small([stored("yuv420p")], 80)
    assert difference(shrunk, cv2.resize(scene(), (80, 45), interpolation=cv2.INTER_AREA)) < 3
    (whole,) = small([stored("yuv420p")], 1000)
    assert np.array_equal(whole, stored("yuv420p").rgb())


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
