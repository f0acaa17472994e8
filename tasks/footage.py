"""What one pass over a span of a video leaves in memory until its crop is known, and the picture strip made of it."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from tasks import faces
from tasks.detectors import Face

HELD_SIDE_PX = 1920  # larger pictures are shrunk while they wait for their crop
HELD_RAW_BYTES = 640 * 640 * 3  # larger pictures wait as JPEG
HELD_JPEG_QUALITY = 95
STRIP_FRAMES = 4
STRIP_HEIGHT_PX = 160
STRIP_COLOUR = (90, 220, 90)


class HeldFrames:
    """Decoded frames waiting until the crop is known: as they are if small, as JPEG if large, shrunk if huge."""

    def __init__(self) -> None:
        self._frames: list[np.ndarray] = []
        self.scale = 1.0  # held pixels per source pixel

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keep one more frame; all have the size of the first."""
        self.scale = min(HELD_SIDE_PX / max(frame.shape), 1.0)
        if self.scale < 1:
            frame = cv2.resize(frame, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_AREA)
        if frame.nbytes > HELD_RAW_BYTES:
            encoded, frame = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, HELD_JPEG_QUALITY])
            assert encoded, "OpenCV encodes any picture as JPEG"
        self._frames.append(frame)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        frame = self._frames[index]
        if frame.ndim == 3:
            return frame
        return np.asarray(cv2.cvtColor(cv2.imdecode(frame, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))

    def crops(self, box: faces.SquareBox, num_frames: int, size_px: int) -> UInt8[np.ndarray, "T s s 3"]:
        """The square of the first frames, at size_px."""
        held = box.scaled(self.scale)
        crops: np.ndarray = np.empty((num_frames, size_px, size_px, 3), np.uint8)
        for index in range(num_frames):
            crops[index] = faces.cut(self[index], held, size_px)
        return crops


@dataclass(frozen=True)
class Footage:
    """What one pass over a span leaves."""

    frames: HeldFrames
    glances: list[np.ndarray]
    sightings: list[tuple[int, list[Face]]]  # of every look; none where no face is looked for
    width: int  # of the source, px
    height: int


def strip(frames: HeldFrames, box: faces.SquareBox, num_frames: int) -> UInt8[np.ndarray, "h w 3"]:
    """Four frames side by side with the crop drawn in: what a person looks at to see what was cut."""
    held = box.scaled(frames.scale)
    pictures = []
    for index in np.linspace(0, num_frames - 1, STRIP_FRAMES).round().astype(int):
        picture = frames[index].copy()
        line = max(picture.shape[0] // STRIP_HEIGHT_PX * 2, 1)
        x1, y1, x2, y2 = held.corners
        cv2.rectangle(picture, (x1, y1), (x2, y2), STRIP_COLOUR, line)
        width = max(round(picture.shape[1] * STRIP_HEIGHT_PX / picture.shape[0]), 1)
        pictures.append(cv2.resize(picture, (width, STRIP_HEIGHT_PX), interpolation=cv2.INTER_AREA))
    return np.concatenate(pictures, axis=1)
