"""One decoded picture as the decoder left it: a quarter to half of the memory of RGB, and cheap to cut from.

Talking heads fill little of a picture. RGB is made of what is asked for alone: all of it, some pixels, a rectangle.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from dualforce_model.media import container as files

CODED = "yuv420p"  # brightness, and colours at half the size: what H.264 is written from
LIMITED_RANGE = 1  # of values in a file
BT709, BT601 = 1, 6  # how colours are told from brightness: high definition's way, and everybody else's
QUARTER = (("transpose", "cclock_flip"),)  # FFmpeg's name for what a matrix's transposition does
MIRROR, FLIP = (("hflip", ""),), (("vflip", ""),)


class Picture:
    """An upright picture with square pixels."""

    def __init__(self, frame: Any, path: Path) -> None:
        self.frame, self._path = frame, path
        self.width, self.height = int(frame.width), int(frame.height)

    @classmethod
    def of(cls, rgb: UInt8[np.ndarray, "H W 3"]) -> "Picture":
        """A picture that came from no video."""
        return cls(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"), Path("picture"))

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        return sum(plane.buffer_size for plane in self.frame.planes)

    def rgb(self) -> UInt8[np.ndarray, "H W 3"]:
        """All of it."""
        with files.decoding_errors(self._path):
            return np.asarray(self.frame.reformat(format="rgb24", threads=1).to_ndarray())

    def sampled(self, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
        """Single pixels of it, evenly spaced, in RGB."""
        return self._at(width, height, "POINT").rgb()

    def resized(self, width: int, height: int) -> "Picture":
        """The same at another size."""
        return self if (width, height) == (self.width, self.height) else self._at(width, height, "AREA")

    def _at(self, width: int, height: int, interpolation: str) -> "Picture":
        with files.decoding_errors(self._path):
            frame = self.frame.reformat(width=width, height=height, interpolation=interpolation, threads=1)
        return Picture(frame, self._path)


class Cutter:
    """Cuts the same rectangle out of one picture after the other, at one size, ready to be written.

    Sides are even. Colours are told from brightness as in the first picture, so that nothing is converted twice.
    """

    def __init__(self, corners: tuple[int, int, int, int], width: int, height: int) -> None:
        left, top, right, bottom = corners
        if not (0 <= left < right and 0 <= top < bottom):
            raise ValueError(f"corners {corners}: expected left, top, right, bottom of a rectangle in the picture")
        if width % 2 or height % 2:
            raise ValueError(f"{width}x{height} px: expected even sides, for colours are stored at half the size")
        self.corners, self.width, self.height = corners, width, height
        self._scaler = VideoReformatter()
        self._space: int | None = None
        self._graph: Graph | None = None
        self._form: tuple[str, int, int] | None = None

    def __call__(self, picture: Picture) -> Picture:
        """The rectangle of one picture, averaged where it shrinks."""
        left, top, right, bottom = self.corners
        if right > picture.width or bottom > picture.height:
            raise ValueError(f"corners {self.corners} stick out of a picture of {picture.width}x{picture.height} px")
        form = (picture.frame.format.name, picture.width, picture.height)
        if self._graph is None or form != self._form:
            # Of a picture whose colours are stored at half its size, an odd corner shifts colours by half a pixel.
            crop = ("crop", f"{right - left}:{bottom - top}:{left}:{top}:exact=1")
            self._graph, self._form = graph(picture.frame, [crop]), form
        part = through(self._graph, picture.frame)
        shrinks = self.width * self.height < (right - left) * (bottom - top)
        if self._space is None:
            self._space = BT709 if int(picture.frame.colorspace) == BT709 else BT601
        scaled = self._scaler.reformat(
            part,
            self.width,
            self.height,
            format=CODED,
            dst_colorspace=self._space,
            dst_color_range=LIMITED_RANGE,
            interpolation="AREA" if shrinks else "BICUBIC",
            threads=1,
        )
        return coded(scaled.to_ndarray(), self._space)


def coded(planes: UInt8[np.ndarray, "h15 w"], space: int) -> Picture:
    """A picture of brightness with both colours below it, as `CODED` stores them: it knows no time and no kind."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format=CODED)
    frame.colorspace, frame.color_range = space, LIMITED_RANGE
    return Picture(frame, Path("crop"))


def framed(picture: Picture, top: int, bottom: int, left: int, right: int) -> Picture:
    """A coded picture with its edge repeated around it, by even numbers of pixels."""
    if not (top or bottom or left or right):
        return picture
    planes = picture.frame.to_ndarray()
    height, width = picture.height, picture.width
    luma = cv2.copyMakeBorder(planes[:height], top, bottom, left, right, cv2.BORDER_REPLICATE)
    halves = planes[height:].reshape(2, height // 2, width // 2)
    margins = (top // 2, bottom // 2, left // 2, right // 2)
    colours = [cv2.copyMakeBorder(half, *margins, cv2.BORDER_REPLICATE) for half in halves]
    below = np.concatenate([colour.ravel() for colour in colours])
    return coded(np.concatenate([luma, below.reshape(-1, luma.shape[1])]), int(picture.frame.colorspace))


def small(pictures: Iterable[Picture], side_px: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Pictures of one size in RGB, their larger side at most `side_px`; never enlarged."""
    scaler, colours = VideoReformatter(), VideoReformatter()
    for picture in pictures:
        factor = min(side_px / max(picture.width, picture.height), 1.0)
        width, height = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
        scaled = scaler.reformat(picture.frame, width, height, interpolation="AREA", threads=1)
        yield np.asarray(colours.reformat(scaled, format="rgb24", threads=1).to_ndarray())


def upright(frame: Any, size: tuple[int, int], matrix: np.ndarray | None) -> Any:
    """A frame at `size` (width, height: square pixels), then turned and mirrored as a display matrix says.

    [[a, b, .], [c, d, .], ...]: x' = a x + c y, y' = b x + d y. Of a matrix with other than right angles, the nearest.
    """
    if size != (frame.width, frame.height):
        frame = frame.reformat(width=size[0], height=size[1], threads=1)
    turns = () if matrix is None else _turns(matrix)
    return through(graph(frame, turns), frame) if turns else frame


def graph(frame: Any, steps: Any) -> Graph:
    """Filters, as (name, arguments) in order, for frames of one size and format."""
    built = Graph()
    built.threads = 1
    last = built.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or "1/25"
    )
    for name, arguments in steps:
        step = built.add(name, arguments or None)
        last.link_to(step)
        last = step
    last.link_to(built.add("buffersink"))
    built.configure()
    return built


def through(filters: Graph, frame: Any) -> Any:
    """One frame through filters that give one for each."""
    filters.push(frame)
    return filters.pull()


def _turns(matrix: np.ndarray) -> tuple[tuple[str, str], ...]:
    (a, b), (c, d) = matrix[:2, :2].tolist()
    turns: tuple[tuple[str, str], ...] = ()
    if abs(b) + abs(c) > abs(a) + abs(d):
        turns, (a, d) = QUARTER, (c, b)
    return turns + (MIRROR if a < 0 else ()) + (FLIP if d < 0 else ())
