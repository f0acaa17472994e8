"""A portrait that talks: jaw and lips follow the sound, eyes blink, the head sways, the room behind stands still.

    clip = render_clip("astronaut", sound, seed=7)      # clip.frames [T, 320, 320, 3], clip.opening [T] in pixels

The lower face is pulled down along a fixed field (inverse mapping: every output pixel says where it comes from), the
gap is painted as the dark inside of a mouth. Nothing is learned and nothing random is left once the seed is given.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field

from dualforce_model import clock
from dualforce_model.config import Frozen
from tasks.synthetic import speech
from tasks.synthetic.backgrounds import paint_background
from tasks.synthetic.portraits import MARGIN_UNITS, CutOut, Eye, cut_out

WIDEST = 0.34  # widest opening, in lengths of the line from the eyes to the mouth
LOUDNESS_POWER = 0.8  # opening over loudness: a little compressed, as mouths are
UPPER_SHARE = 0.14  # of the gap, the part by which the upper lip rises
CHIN_SHARE = 0.62  # of the lower lip's way, the part that the chin goes along
INSIDE_RGB = np.array([46.0, 14.0, 16.0], np.float32)
TONGUE_RGB = np.array([104.0, 44.0, 46.0], np.float32)
BLINK = np.array([0.35, 0.85, 1.0, 0.75, 0.4, 0.12], np.float32)  # closing and opening, frame by frame


class Rendered(NamedTuple):
    """A clip and its truth."""

    frames: UInt8[np.ndarray, "t h w 3"]
    opening: Float[np.ndarray, " t"]  # gap between the lips at the middle of the mouth, in pixels of the frame


class Look(Frozen):
    """What stays the same through a clip, and makes two clips of a speaker differ: framing, light, room."""

    seed: int = Field(ge=0, description="of the background")
    zoom: float = Field(1.0, ge=0.8, le=1.2)
    shift_x: float = Field(0.0, ge=-0.1, le=0.1, description="of the frame's width")
    shift_y: float = Field(0.0, ge=-0.1, le=0.1, description="of the frame's height")
    gain: float = Field(1.0, ge=0.7, le=1.3, description="brightness")
    warmth: float = Field(0.0, ge=-0.15, le=0.15, description="red up and blue down by this share")

    @classmethod
    def draw(cls, seed: int) -> "Look":
        """One look for one seed."""
        rng = np.random.default_rng([seed, 0x100C])
        return cls(
            seed=seed,
            zoom=rng.uniform(0.93, 1.05),
            shift_x=rng.uniform(-0.03, 0.03),
            shift_y=rng.uniform(-0.01, 0.03),
            gain=rng.uniform(0.84, 1.08),
            warmth=rng.uniform(-0.07, 0.07),
        )


@dataclass(frozen=True)
class Acting:
    """What happens in a clip, frame by frame."""

    openness: Float[np.ndarray, " t"]  # 0 closed .. 1 widest
    blink: Float[np.ndarray, " t"]  # 0 open .. 1 closed eyes
    pose: Float[np.ndarray, "t 4"]  # x and y in shares of the frame, turn in radians, growth as a share

    def __len__(self) -> int:
        return len(self.openness)


def openness_of(sound: Float[np.ndarray, " n"]) -> Float[np.ndarray, " t"]:
    """How far the mouth is open in each frame of a sound, 0 to 1: its loudness, smoothed over three frames."""
    loudness = np.pad(speech.envelope(sound), 1, mode="edge")
    smooth = 0.25 * loudness[:-2] + 0.5 * loudness[1:-1] + 0.25 * loudness[2:]
    return np.asarray(np.clip(smooth, 0.0, 1.0) ** LOUDNESS_POWER, np.float32)


def act(openness: Float[np.ndarray, " t"], seed: int) -> Acting:
    """Add blinks and a slow sway to a mouth."""
    rng = np.random.default_rng([seed, 0xAC7])
    frames = len(openness)
    blink = np.zeros(frames, np.float32)
    now = int(rng.integers(15, 60))
    while now + len(BLINK) < frames:
        blink[now : now + len(BLINK)] = BLINK
        now += int(rng.integers(45, 130))
    sway = [_wander(frames, rng) * reach for reach in (0.009, 0.005, 0.015, 0.006)]
    sway[1] = sway[1] + 0.006 * openness  # a nod goes with a stressed syllable
    return Acting(openness, blink, np.stack(sway, axis=1).astype(np.float32))


def _wander(frames: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth curve within [-1, 1] that starts anywhere: three slow waves."""
    t = np.arange(frames) / clock.FPS
    hz = np.array([rng.uniform(0.05, 0.12), rng.uniform(0.15, 0.25), rng.uniform(0.3, 0.45)])
    share = np.array([0.5, 0.33, 0.17])
    return np.asarray(np.sin(2 * np.pi * (hz * t[:, None] + rng.uniform(size=3))) @ share)


def render_clip(
    speaker: str, sound: Float[np.ndarray, " n"], seed: int, size: int = 320, look: Look | None = None
) -> Rendered:
    """Animate a speaker with a sound: floor(n / 640) frames of size x size. `seed` gives blinks, sway and, unless
    a look is given, the look."""
    acting = act(openness_of(sound), seed)
    head = TalkingHead(speaker, look or Look.draw(seed), size)
    frames = np.stack(list(head.frames(acting))) if len(acting) else np.zeros((0, size, size, 3), np.uint8)
    return Rendered(frames, head.opening_px(acting))


class TalkingHead:
    """One speaker in one look, ready to play any acting. Builds its fields once; about 3 ms a frame at 320 pixels."""

    def __init__(self, speaker: str, look: Look, size: int = 320) -> None:
        self._cut = cut_out(speaker, size)
        self._look = look
        self._size = size
        self._background = paint_background(look.seed, size)
        self._plate = _lit(self._cut.rgba, look)
        self._face = _FaceFields(self._cut)
        self._stage = _Stage(self._cut, look, size)

    def frames(self, acting: Acting) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Play: one RGB picture per frame."""
        for frame in range(len(acting)):
            plate = self._face.pose(self._plate, float(acting.openness[frame]), float(acting.blink[frame]))
            yield self._stage.place(plate, acting.pose[frame], self._background)

    def opening_px(self, acting: Acting) -> Float[np.ndarray, " t"]:
        """The truth: height of the gap at the middle of the mouth, in pixels of the frame, float32 [t]."""
        growth = self._look.zoom * (1.0 + acting.pose[:, 3])
        return np.asarray(self._face.widest_px * acting.openness * growth, np.float32)


class _FaceFields:
    """Where the pixels of a talking face come from, on the plate. All lengths in plate pixels."""

    def __init__(self, cut: CutOut) -> None:
        face, self._scale = cut.portrait, cut.scale
        length = face.eyes_to_mouth * self._scale
        self.widest_px = WIDEST * length
        lips = np.array(face.lips) * self._scale
        chin = np.array(face.chin) * self._scale
        self._box = _box(
            cut.side_px, lips[0, 0] - length, lips[2, 0] + length, 112 * self._scale, chin[1] + 1.1 * length
        )
        left, top, right, bottom = self._box
        x = np.arange(left, right, dtype=np.float32)[None, :]
        y = np.arange(top, bottom, dtype=np.float32)[:, None]
        self._x = np.repeat(x, bottom - top, axis=0)
        self._y = np.repeat(y, right - left, axis=1)
        self._lip, self._profile = _lip_line(lips, x[0])
        self._pull = _pull_field(self._lip, self._profile, x, y, chin, length)
        self._mouth = _mouth_rows(self._lip, self._profile, self.widest_px, top, bottom - top)
        self._eyes = [_EyeFields(eye, self._scale, self._box) for eye in face.eyes]

    def pose(self, plate: np.ndarray, openness: float, blink: float) -> UInt8[np.ndarray, "plate plate 4"]:
        """The plate with this mouth and these eyes."""
        left, top, right, bottom = self._box
        gap = openness * self.widest_px
        rows = self._y - np.float32(gap) * self._pull
        if blink > 0:
            for eye in self._eyes:
                eye.close(rows, blink)
        out = plate.copy()
        face = cv2.remap(plate, self._x, rows, cv2.INTER_LINEAR)
        if gap > 0.25:
            self._paint_inside(face, gap)
        if blink > 0:
            for eye in self._eyes:
                eye.draw_lashes(face, blink)
        out[top:bottom, left:right] = face
        return out

    def _paint_inside(self, face: np.ndarray, gap: float) -> None:
        """Darken the gap between the lips, in place."""
        (low, high), (first, last) = self._mouth
        y = np.arange(low, high, dtype=np.float32)[:, None]
        width = gap * self._profile[None, first:last]
        upper = self._lip[None, first:last] - self._box[1] - UPPER_SHARE * width
        lower = upper + width
        soft = 1.2 * self._scale
        cover = np.clip((y - upper) / soft + 0.5, 0, 1) * np.clip((lower - y) / soft + 0.5, 0, 1)
        cover = (cover * np.clip(width / soft, 0, 1))[..., None]
        depth = np.clip((y - upper) / np.maximum(width, 1e-3), 0, 1)[..., None] ** 3 * min(gap / self.widest_px, 1.0)
        colour = INSIDE_RGB + depth * (TONGUE_RGB - INSIDE_RGB)
        part = face[low:high, first:last, :3]
        part[...] = (part + cover * (colour - part) + 0.5).astype(np.uint8)


class _EyeFields:
    """An upper lid that comes down over one eye: the skin above is stretched, the eye is covered."""

    def __init__(self, eye: Eye, scale: float, box: tuple[int, int, int, int]) -> None:
        left, top, _, _ = box
        half = eye.half_width * scale
        first, last = int((eye.x * scale - half) - left), int(np.ceil(eye.x * scale + half) - left) + 1
        u = (np.arange(first, last) + left - eye.x * scale) / half
        arch = np.sqrt(np.clip(1 - u**2, 0, 1)).astype(np.float32)[None, :]
        middle = (0.4 * eye.top + 0.6 * eye.bottom) * scale
        self._upper = middle - (middle - eye.top * scale) * arch
        self._height = (eye.bottom - eye.top) * scale * arch
        self._reach = np.maximum(1.1 * self._height, 1e-3)
        low = int((eye.top - 1.2 * (eye.bottom - eye.top)) * scale - top)
        high = int(np.ceil(eye.bottom * scale) - top) + 2
        self._patch = (slice(low, high), slice(first, last))
        self._y = np.arange(low + top, high + top, dtype=np.float32)[:, None]
        self._arch = arch
        self._thickness = 1.1 * scale

    def close(self, rows: np.ndarray, blink: float) -> None:
        """Move the source rows of the patch, in place."""
        start = self._upper - self._reach
        lid = self._upper + blink * self._height
        stretched = start + (self._y - start) * self._reach / (self._reach + blink * self._height)
        patch = rows[self._patch]
        np.copyto(patch, stretched, where=(self._y > start) & (self._y < lid))

    def draw_lashes(self, face: np.ndarray, blink: float) -> None:
        """Darken the edge of the lid, in place: a closed eye shows a line."""
        lid = self._upper + blink * self._height
        line = np.exp(-0.5 * ((self._y - lid) / self._thickness) ** 2) * self._arch * (0.6 * blink)
        patch = face[self._patch][..., :3]
        patch[...] = (patch * (1 - line[..., None])).astype(np.uint8)


class _Stage:
    """Puts a plate into the frame: framing and sway, full at the head and little at the shoulders."""

    def __init__(self, cut: CutOut, look: Look, size: int) -> None:
        self._size = size
        centre = MARGIN_UNITS * cut.scale + size / 2
        axis = np.arange(size) - size / 2
        # Framing: from output pixels to plate pixels, about the middle of the frame.
        self._x = axis[None, :] / look.zoom + centre - look.shift_x * size
        self._y = axis[:, None] / look.zoom + centre - look.shift_y * size
        neck = (cut.portrait.chin[1] + 18) * cut.scale
        self._hold = 1 - 0.75 * _ease((self._y - neck) / (0.30 * size))  # share of the sway, [size, 1]
        self._pivot = (cut.portrait.chin[0] * cut.scale, neck)

    def place(self, plate: np.ndarray, pose: np.ndarray, background: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
        """One frame: the plate moved by (x, y, turn, growth) over the background."""
        x, y, turn, growth = (float(v) for v in pose)
        cos, sin = np.cos(turn) / (1 + growth) - 1, np.sin(turn) / (1 + growth)
        px, py = self._pivot
        hold, dy = self._hold, self._y - py
        # source = target + hold * ((turn and growth - 1) (target - pivot) - shift): linear in x along each row
        columns = _rows_of_lines(self._x, 1 + hold * cos, hold * (sin * dy - cos * px - x * self._size))
        rows = _rows_of_lines(self._x, -hold * sin, self._y + hold * (cos * dy + sin * px - y * self._size))
        warped = cv2.remap(plate, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        cover = cv2.cvtColor(warped[..., 3], cv2.COLOR_GRAY2RGB)
        front = cv2.multiply(warped[..., :3], cover, scale=1 / 255)
        behind = cv2.multiply(background, cv2.bitwise_not(cover), scale=1 / 255)
        return np.asarray(cv2.add(front, behind))


def _rows_of_lines(x: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> Float[np.ndarray, "h w"]:
    """slope * x + offset with one slope and offset per row."""
    lines = slope.astype(np.float32) * x.astype(np.float32)
    lines += offset.astype(np.float32)
    return np.asarray(lines)


def _lit(rgba: np.ndarray, look: Look) -> np.ndarray:
    """The plate under the look's light."""
    gains = look.gain * np.array([1 + look.warmth, 1.0, 1 - look.warmth])
    levels = np.arange(256)[:, None] * gains
    table = np.clip(levels, 0, 255).astype(np.uint8)
    channels = [cv2.LUT(rgba[..., c], table[:, c]) for c in range(3)]
    return np.ascontiguousarray(np.dstack([*channels, rgba[..., 3]]))


def _box(side: int, left: float, right: float, top: float, bottom: float) -> tuple[int, int, int, int]:
    """Whole pixels (left, top, right, bottom) within the plate."""
    return max(int(left), 0), max(int(top), 0), min(int(right) + 1, side), min(int(bottom) + 1, side)


def _lip_line(lips: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row of the line between the lips for each column, and the gap's shape over it (1 middle, 0 corners)."""
    (x0, y0), (x1, y1), (x2, y2) = lips
    inside = np.clip(x, x0, x2)
    u = np.where(inside < x1, (inside - x1) / (x1 - x0), (inside - x1) / (x2 - x1))
    line = y1 + np.where(u < 0, y0 - y1, y2 - y1) * u**2
    middle, half = (x0 + x2) / 2, (x2 - x0) / 2
    profile = np.clip(1 - ((x - middle) / half) ** 2, 0, 1) ** 0.7
    return line.astype(np.float32), profile.astype(np.float32)


def _pull_field(
    lip: np.ndarray, profile: np.ndarray, x: np.ndarray, y: np.ndarray, chin: np.ndarray, length: float
) -> Float[np.ndarray, "h w"]:
    """Rows by which each output pixel's source lies higher, per pixel of gap."""
    below = y - lip[None, :]
    to_chin = np.maximum(chin[1] - lip[None, :], 1.0)
    down = _ease(below / (0.8 * to_chin))
    jaw = CHIN_SHARE * np.exp(-0.5 * ((x - chin[0]) / (0.55 * length)) ** 2)
    release = 1 - _ease((y - chin[1] - 0.1 * length) / (0.85 * length))
    lower = (1 - UPPER_SHARE) * (profile[None, :] * (1 - down) + jaw * down) * release
    upper = -UPPER_SHARE * profile[None, :] * (1 - _ease(-below / (0.4 * length)))
    return np.asarray(np.where(below > 0, lower, upper), np.float32)


def _mouth_rows(
    lip: np.ndarray, profile: np.ndarray, widest: float, top: int, height: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the face box that the widest mouth can reach."""
    columns = np.flatnonzero(profile > 0)
    low = int(lip[columns].min() - top - UPPER_SHARE * widest) - 3
    high = int(lip[columns].max() - top + widest) + 4
    return (max(low, 0), min(high, height)), (int(columns[0]), int(columns[-1]) + 1)


def _ease(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return np.asarray(x * x * (3 - 2 * x))
