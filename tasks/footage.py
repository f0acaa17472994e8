"""What one pass over a span of a video leaves in memory until its crop is known."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from dualforce_model import media
from dualforce_model.media import Cutter, Picture
from tasks import faces
from tasks.detectors import Face

HELD_SIDE_PX = 1920  # larger pictures are shrunk while they wait for their crop
HELD_BYTES = 2**30  # of pictures as they were decoded: 13 s of 1080p; what comes after these waits as JPEG
HELD_JPEG_QUALITY = 95


class HeldFrames:
    """Pictures waiting until the crop is known: as they were decoded, shrunk if huge, beyond a gigabyte as JPEG.

    Making a JPEG and reading it back takes twice as long as all else that is done with a picture of 1080p.
    """

    def __init__(self) -> None:
        self._frames: list[Picture | np.ndarray] = []
        self._size = (0, 0)  # of the first, as held
        self._last: Picture | None = None
        self.num_bytes = 0  # of pictures as decoded
        self.scale = 1.0  # held pixels per source pixel

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, picture: Picture) -> None:
        """Keep one more; all get the size of the first. One that is shown again costs nothing."""
        if picture is self._last:
            self._frames.append(self._frames[-1])
            return
        self._last = picture
        if not self._frames:
            self.scale = min(HELD_SIDE_PX / max(picture.width, picture.height), 1.0)
            self._size = (max(round(picture.width * self.scale), 1), max(round(picture.height * self.scale), 1))
        picture = picture.resized(*self._size)
        if self.num_bytes + picture.num_bytes > HELD_BYTES:
            self._frames.append(_jpeg(picture))
            return
        self._frames.append(picture)
        self.num_bytes += picture.num_bytes

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return self._picture(index).rgb()

    def crops(self, box: faces.SquareBox, num_frames: int, size_px: int) -> list[Picture]:
        """The square of the first frames, at size_px; outside the picture its edge pixels are repeated."""
        x1, y1, x2, y2 = box.scaled(self.scale).corners
        seen = (max(x1, 0), max(y1, 0), min(x2, self._size[0]), min(y2, self._size[1]))
        left, top, right, bottom = (  # even: odd sizes take a slow way through the scaler
            2 * round((edge - first) * size_px / (x2 - x1) / 2)
            for edge, first in zip(seen, (x1, y1, x1, y1), strict=True)
        )
        left, top = min(left, size_px - 2), min(top, size_px - 2)  # a pixel or two at the edge fill the crop
        right, bottom = max(right, left + 2), max(bottom, top + 2)
        cutter = Cutter(seen, right - left, bottom - top)
        crops: list[Picture] = []
        for index in range(num_frames):
            if index and self._frames[index] is self._frames[index - 1]:
                crops.append(crops[-1])
            else:
                part = cutter(self._picture(index))
                crops.append(media.framed(part, top, size_px - bottom, left, size_px - right))
        return crops

    def _picture(self, index: int) -> Picture:
        held = self._frames[index]
        if isinstance(held, Picture):
            return held
        return Picture.of(cv2.cvtColor(cv2.imdecode(held, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def _jpeg(picture: Picture) -> np.ndarray:
    bgr = cv2.cvtColor(picture.rgb(), cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, HELD_JPEG_QUALITY])
    assert encoded, "OpenCV encodes any picture as JPEG"
    return np.asarray(data)


@dataclass(frozen=True)
class Footage:
    """What one pass over a span leaves."""

    frames: HeldFrames
    glances: list[np.ndarray]
    sightings: list[tuple[int, list[Face]]]  # of every look; none where no face is looked for
    width: int  # of the source, px
    height: int
