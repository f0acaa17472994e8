"""The picture that tells a person at a glance what was cut out of a clip, or why nothing was.

Frames of the source stand side by side, at instants that were looked at where faces were sought: what lies outside
the crop's square is dimmed, faces are framed. Below each stands the crop at the same instant, or, of a clip that can
be none, the reason.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from dualforce_model import clock, media, storage
from tasks import faces
from tasks.detectors import Face
from tasks.evidence import People
from tasks.footage import Footage
from tasks.listed import Corners

COLUMNS = 4
PICTURE_AREA_PX, LONGEST_PX = 30_000, (320, 256)  # of a frame, whatever its shape, and its sides at most
CROP_PX = 128
GAP_PX, BAR_PX, TEXT_PX, LETTER_PX = 4, 22, 12, 6.2
JPEG_QUALITY = 80
DIMMED = 0.55  # brightness outside the crop
MARKED_PX = 28  # height of the smallest face whose landmarks can be told apart
GROUND, INK, FAINT = (24, 28, 36), (235, 238, 242), (150, 158, 170)
SQUARE, MAIN, OTHER, LISTED = (90, 220, 90), (90, 190, 255), (255, 150, 50), (235, 110, 235)
WORDS = {SQUARE: "crop", MAIN: "main face", OTHER: "other face", LISTED: "head as listed"}

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Overlay:
    """What is drawn into the frames of one clip."""

    footage: Footage
    main: faces.Track | None = None
    square: faces.SquareBox | None = None
    listed: Corners | None = None

    @property
    def scale(self) -> float:
        """Pixels drawn for one of the source."""
        width, height = self.footage.width, self.footage.height
        return min((PICTURE_AREA_PX / (width * height)) ** 0.5, LONGEST_PX[0] / width, LONGEST_PX[1] / height)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame as drawn."""
        return max(round(self.footage.width * self.scale), 1), max(round(self.footage.height * self.scale), 1)

    def seen_at(self, frame: int) -> list[Face]:
        """All faces seen in a frame."""
        return next((found for looked, found in self.footage.sightings if looked == frame), [])

    def main_at(self, frame: int) -> Face | None:
        """The main face in a frame, if it was seen there: the sighting that its track was made of."""
        if self.main is None or frame not in self.main.frames:
            return None
        box = self.main.boxes[self.main.frames == frame][0]
        return next((face for face in self.seen_at(frame) if np.array_equal(face.box, box)), None)


def cut_preview(
    footage: Footage,
    people: People | None,
    square: faces.SquareBox,
    crops: Sequence[media.Picture],
    listed: Corners | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """What was cut: source above, crop below."""
    overlay = Overlay(footage, None if people is None else people.main, square, listed)
    moments = instants([frame for frame, _ in footage.sightings], len(crops))
    size = (CROP_PX, CROP_PX)
    below = [cv2.resize(crops[moment].rgb(), size, interpolation=cv2.INTER_AREA) for moment in moments]
    return _sheet(overlay, moments, below)


def refused_preview(
    footage: Footage, reason: str, measured: str, listed: Corners | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Why nothing was cut: the frames, all faces that were seen in them, and the reason in words."""
    moments = instants([frame for frame, _ in footage.sightings], len(footage.frames))
    sheet = _sheet(Overlay(footage, listed=listed), moments, [])
    width = sheet.shape[1]
    lines = textwrap.wrap(f"no crop ({reason}): {measured}", max(int((width - 2 * GAP_PX) / LETTER_PX), 20))[:4]
    words = Image.new("RGB", (width, BAR_PX * len(lines)), GROUND)
    draw = ImageDraw.Draw(words)
    for index, line in enumerate(lines):
        draw.text((GAP_PX, index * BAR_PX + 3), _plain(line), fill=INK, font=_font())
    return np.concatenate([sheet, np.asarray(words)])


def write_preview(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write a preview as a JPEG that is small: there is one for every clip."""
    storage.write_bytes(path, _encoded(Image.fromarray(picture)))


def shrunk(path: Path, width_px: int) -> bytes:
    """A picture as a JPEG at most this wide, to stand among others. Raises MediaError for what is no picture."""
    picture = Image.fromarray(media.read_image(path))
    picture.thumbnail((width_px, width_px), Image.Resampling.LANCZOS)
    return _encoded(picture)


def _encoded(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def instants(looks: Sequence[int], num_frames: int) -> list[int]:
    """Frames to show, evenly over the clip; those that were looked at where any were, since their faces are known."""
    wanted = np.linspace(0, num_frames - 1, COLUMNS)
    known = np.array([look for look in looks if look < num_frames] or range(num_frames))
    return sorted({int(known[np.abs(known - instant).argmin()]) for instant in wanted})


def _sheet(overlay: Overlay, moments: Sequence[int], below: Sequence[np.ndarray]) -> UInt8[np.ndarray, "h w 3"]:
    """Frames in a row, pictures below them, a legend at the foot."""
    above = [_marked(overlay, moment) for moment in moments]
    width, height = overlay.size
    column = max(width, CROP_PX if below else 0) + GAP_PX
    met = {colour for moment in moments for _, colour, _ in _frames_of(overlay, moment)}
    legend = _legend([colour for colour in WORDS if colour in met])
    foot = GAP_PX + height + GAP_PX + (CROP_PX + GAP_PX if below else 0)
    sheet = np.full((foot + BAR_PX, max(column * len(above) + GAP_PX, legend.shape[1]), 3), GROUND, np.uint8)
    for index, picture in enumerate(above):
        _paste(sheet, picture, GAP_PX + index * column + (column - GAP_PX - width) // 2, GAP_PX)
    for index, picture in enumerate(below):
        left = GAP_PX + index * column + (column - GAP_PX - CROP_PX) // 2
        _paste(sheet, picture, left, 2 * GAP_PX + height)
    _paste(sheet, legend, 0, foot)
    return sheet


def _marked(overlay: Overlay, moment: int) -> UInt8[np.ndarray, "h w 3"]:
    """One frame of the source, shrunk, with everything drawn in."""
    scale, size = overlay.scale, overlay.size
    picture = np.asarray(cv2.resize(overlay.footage.frames[moment], size, interpolation=cv2.INTER_AREA))
    if overlay.square is not None:
        picture = _dimmed(picture, [side * scale for side in overlay.square.corners])
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for corners, colour, line in _frames_of(overlay, moment):
        draw.rectangle(_inside(corners, scale, size), outline=colour, width=line)
    main = overlay.main_at(moment)
    for x, y in main.landmarks or () if main and main.height_px * scale >= MARKED_PX else ():
        draw.ellipse((x * scale - 1.5, y * scale - 1.5, x * scale + 1.5, y * scale + 1.5), fill=MAIN)
    text = f"{moment / clock.FPS:.1f} s"
    draw.rectangle((0, size[1] - 15, draw.textlength(text, font=_font()) + 6, size[1]), fill=GROUND)
    draw.text((3, size[1] - 15), text, fill=INK, font=_font())
    return np.asarray(image)


def _frames_of(overlay: Overlay, moment: int) -> list[tuple[Corners, Colour, int]]:
    """Corners, colour and thickness of all that is framed in one frame, what matters most last."""
    main = overlay.main_at(moment)
    drawn: list[tuple[Corners, Colour, int]] = [
        (face.box, OTHER, 2) for face in overlay.seen_at(moment) if face is not main
    ]
    if overlay.listed is not None:
        drawn.append((overlay.listed, LISTED, 1))
    if overlay.square is not None:
        drawn.append((overlay.square.corners, SQUARE, 2))
    if main is not None:
        drawn.append((main.box, MAIN, 2))
    return drawn


def _dimmed(picture: UInt8[np.ndarray, "h w 3"], corners: Sequence[float]) -> UInt8[np.ndarray, "h w 3"]:
    """Darker outside the corners."""
    left, top, right, bottom = (max(round(side), 0) for side in corners)
    dark = (picture * DIMMED).astype(np.uint8)
    dark[top:bottom, left:right] = picture[top:bottom, left:right]
    return dark


def _inside(corners: Corners, scale: float, size: tuple[int, int]) -> Corners:
    """Corners in a shrunk picture; what sticks out of it is drawn at its edge."""
    (left, right), (top, bottom) = (
        sorted(min(max(corner * scale, 0), length - 1) for corner in pair)
        for pair, length in ((corners[::2], size[0]), (corners[1::2], size[1]))
    )
    return left, top, right, bottom


def _legend(colours: Sequence[Colour]) -> UInt8[np.ndarray, "h w 3"]:
    """One line: a swatch and a word for each colour."""
    lengths = [round(_font().getlength(WORDS[colour])) + 36 for colour in colours]
    bar = Image.new("RGB", (max(sum(lengths), 1), BAR_PX), GROUND)
    draw, left = ImageDraw.Draw(bar), GAP_PX
    for colour, length in zip(colours, lengths, strict=True):
        draw.rectangle((left, 6, left + 10, 16), outline=colour, width=2)
        draw.text((left + 15, 3), WORDS[colour], fill=FAINT, font=_font())
        left += length
    return np.asarray(bar)


def _paste(sheet: np.ndarray, picture: np.ndarray, left: int, top: int) -> None:
    sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _plain(text: str) -> str:
    """Letters that the font has: messages may quote what strangers wrote."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own: the same letters on every machine."""
    return ImageFont.load_default(TEXT_PX)
