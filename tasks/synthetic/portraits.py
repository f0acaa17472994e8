"""The demo's speakers: six people cut from two pictures that dependencies of this project ship.

Every number about a face was measured by hand on these very files, so a file that changed is refused. A cut-out has
its eyes level and its middle at the same place and size for every speaker: the *plate*, 416 units wide, around a
frame of 320 units; a unit is one pixel when clips are 320 pixels wide.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from dualforce_model import media
from dualforce_model.config import Frozen
from dualforce_model.errors import InfrastructureError
from tasks.synthetic.speech import Voice

PLATE_UNITS = 416
FRAME_UNITS = 320
MARGIN_UNITS = (PLATE_UNITS - FRAME_UNITS) // 2
EYES_AT = np.array([208.0, 172.0])  # middle between the eyes, on the plate

Point = tuple[float, float]


class PortraitError(InfrastructureError):
    """A picture that should have come with a dependency is missing, or is another one."""


class Picture(Frozen):
    """A picture inside an installed package."""

    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """Find the file without importing the package, and make sure that it is the one that was measured."""
        spec = importlib.util.find_spec(self.package)
        folders = [] if spec is None else list(spec.submodule_search_locations or [])
        if not folders:
            raise PortraitError(f"package {self.package} is not installed; `make install` installs it")
        path = Path(folders[0]) / self.path
        if not path.is_file():
            raise PortraitError(f"{self.package} has no {self.path}; install the version that constraints.txt names")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise PortraitError(
                f"{path} is another picture than the one whose faces were measured: SHA-256 {found[:12]}..., expected "
                f"{self.sha256[:12]}...; install the version of {self.package} that constraints.txt names"
            )
        return path


class Eye(Frozen):
    """An open eye on the plate, in units; closed eyes are not listed, they cannot blink."""

    x: float
    top: float
    bottom: float
    half_width: float


class Portrait(Frozen):
    """One person in one picture. Points are (x, y); `_px` are the picture's pixels, all others plate units."""

    name: str = Field(pattern=r"^[a-z]+$")
    voice: Voice
    picture: Picture
    eyes_px: Point = Field(description="middle between the eyes")
    mouth_px: Point = Field(description="middle of the mouth; the line from the eyes to it becomes vertical")
    eyes_to_mouth: float = Field(gt=40, lt=90, description="length of that line on the plate: the size of the face")
    lips: tuple[Point, Point, Point] = Field(description="where the mouth parts: left corner, middle, right corner")
    chin: Point = Field(description="lowest point of the chin")
    eyes: tuple[Eye, ...] = ()
    outline: str = Field(description="polygon around head and shoulders, 'x,y x,y ...'")

    @property
    def polygon(self) -> np.ndarray:
        """The outline as float64 [p, 2]."""
        return np.array([[float(v) for v in pair.split(",")] for pair in self.outline.split()])


@dataclass(frozen=True)
class CutOut:
    """A portrait upright on its plate, ready to be animated. `scale` is pixels per unit."""

    portrait: Portrait
    scale: float
    rgba: UInt8[np.ndarray, "plate plate 4"]

    @cached_property
    def side_px(self) -> int:
        """Width and height of the plate in pixels."""
        return int(self.rgba.shape[0])


def cut_out(name: str, size_px: int) -> CutOut:
    """Cut one speaker out for frames of size_px x size_px. Raises PortraitError if the picture is not as measured."""
    if name not in PORTRAITS:
        raise ValueError(f"no speaker {name!r}; there are {', '.join(PORTRAITS)}")
    portrait = PORTRAITS[name]
    scale = size_px / FRAME_UNITS
    side = round(PLATE_UNITS * scale)
    matrix = _to_plate(portrait) * scale
    pixels = _read(portrait.picture)
    upright = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    softened = cv2.GaussianBlur(upright, (0, 0), 1.6 * scale)
    crisp = cv2.addWeighted(upright, 1.5, softened, -0.5, 0)  # the faces are enlarged 1.2 to 1.6 times
    alpha = np.zeros((side, side), np.uint8)
    cv2.fillPoly(alpha, [np.round(portrait.polygon * scale).astype(np.int32)], 255)
    alpha = cv2.erode(alpha, np.ones((3, 3), np.uint8), borderValue=255)  # no rim of the old background
    alpha = cv2.GaussianBlur(alpha, (0, 0), 1.2 * scale)
    return CutOut(portrait, scale, np.ascontiguousarray(np.dstack([crisp, alpha])))


@lru_cache(maxsize=2)
def _read(picture: Picture) -> np.ndarray:
    return media.read_image(picture.locate())


def _to_plate(portrait: Portrait) -> np.ndarray:
    """Affine [2, 3] from picture pixels to plate units: eyes at EYES_AT, the mouth straight below them."""
    eyes, mouth = np.array(portrait.eyes_px), np.array(portrait.mouth_px)
    down = mouth - eyes
    scale = portrait.eyes_to_mouth / np.hypot(*down)
    angle = np.arctan2(down[0], down[1])
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.array([[cos, -sin], [sin, cos]])
    return np.hstack([turn, (EYES_AT - turn @ eyes)[:, None]])


_ASTRONAUT = Picture(
    package="skimage",
    path="data/astronaut.png",
    sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
)
_TABLE = Picture(
    package="insightface",
    path="data/images/t1.jpg",
    sha256="47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
)

_SPEAKERS = (
    Portrait(
        name="astronaut",
        voice=Voice(pitch_hz=205, tract=1.15, syllables_per_s=4.1),
        picture=_ASTRONAUT,
        eyes_px=(226, 102.5),
        mouth_px=(224, 148),
        eyes_to_mouth=74,
        lips=((173, 235), (206.5, 248), (240, 234.5)),
        chin=(207, 294),
        eyes=(Eye(x=169, top=163, bottom=177, half_width=20), Eye(x=240, top=164, bottom=178, half_width=20)),
        outline=(
            "114,77 89,110 87,118 89,156 95,179 116,201 124,215 138,225 141,245 137,249 123,249 95,255 77,264 "
            "56,283 40,311 40,321 38,323 33,322 34,336 30,344 22,352 10,362 0,368 0,415 415,415 395,402 370,390 "
            "345,381 340,366 324,340 297,310 266,287 261,281 262,267 272,247 276,228 293,216 318,184 322,176 "
            "329,147 328,131 318,94 300,64 282,51 257,40 226,30 207,30 181,40 168,41 152,51 139,65"
        ),
    ),
    Portrait(
        name="grey",
        voice=Voice(pitch_hz=118, tract=1.0, syllables_per_s=4.3),
        picture=_TABLE,
        eyes_px=(517, 327),
        mouth_px=(505.5, 385),
        eyes_to_mouth=74,
        lips=((180, 234), (207, 246.5), (236, 235)),
        chin=(207, 281),
        eyes=(Eye(x=178, top=164.5, bottom=174.5, half_width=16), Eye(x=235, top=168, bottom=178, half_width=17)),
        outline=(
            "279,48 270,48 260,42 245,42 231,36 206,39 194,47 180,45 160,60 145,61 141,64 133,77 134,87 130,99 "
            "130,108 134,116 138,146 144,157 145,192 118,213 85,244 57,262 53,267 51,277 54,281 54,287 39,304 "
            "24,345 16,357 26,402 25,415 322,415 330,405 344,382 345,374 332,353 317,307 276,260 271,251 260,243 "
            "260,238 278,206 279,196 291,184 294,171 300,163 298,147 305,136 308,120 308,101 305,93 304,79 295,64"
        ),
    ),
    Portrait(
        name="cards",
        voice=Voice(pitch_hz=190, tract=1.12, syllables_per_s=3.7),
        picture=_TABLE,
        eyes_px=(108.5, 319.5),
        mouth_px=(132.5, 361),
        eyes_to_mouth=67,
        lips=((180, 238.5), (208, 239.5), (231, 238.5)),
        chin=(206, 288),
        outline=(
            "230,49 222,48 208,51 200,45 183,45 161,53 138,67 117,89 100,112 57,195 54,204 54,219 49,232 37,246 "
            "24,270 0,302 0,415 294,415 295,404 287,393 287,385 292,358 305,335 293,324 281,324 273,319 259,320 "
            "255,319 251,314 261,300 271,279 274,266 281,253 285,227 290,218 290,180 287,144 281,135 277,112 "
            "269,91 259,77 238,59"
        ),
    ),
    Portrait(
        name="crimson",
        voice=Voice(pitch_hz=104, tract=0.96, syllables_per_s=4.5),
        picture=_TABLE,
        eyes_px=(784, 400),
        mouth_px=(781, 447),
        eyes_to_mouth=70,
        lips=((190, 235), (212, 245.5), (244, 233)),
        chin=(212, 287),
        outline=(
            "284,18 256,11 237,9 219,11 205,16 185,30 179,41 170,43 150,54 147,62 152,71 154,86 151,95 151,120 "
            "156,174 152,188 154,205 150,210 122,230 86,257 66,285 54,312 41,356 44,390 32,407 29,415 415,415 "
            "415,262 406,223 398,195 388,166 374,158 354,150 339,150 335,147 330,136 330,121 335,99 334,83 328,76 "
            "334,76 330,66 322,50 306,34"
        ),
    ),
    Portrait(
        name="bob",
        voice=Voice(pitch_hz=222, tract=1.18, syllables_per_s=3.9),
        picture=_TABLE,
        eyes_px=(1173, 326),
        mouth_px=(1174.8, 369),
        eyes_to_mouth=66,
        lips=((176.5, 234.5), (205.5, 235.5), (241, 232)),
        chin=(206, 285),
        outline=(
            "300,66 278,55 258,44 238,34 222,32 204,37 189,46 166,65 147,95 138,132 132,176 129,242 132,274 130,300 "
            "124,310 105,320 79,314 57,319 43,336 34,366 39,415 353,415 349,398 339,374 330,363 325,349 332,333 "
            "333,323 341,304 349,212 346,177 343,162 338,140 336,130 324,101 325,91 322,88 315,86"
        ),
    ),
    Portrait(
        name="lace",
        voice=Voice(pitch_hz=178, tract=1.1, syllables_per_s=4.0),
        picture=_TABLE,
        eyes_px=(308, 203.5),
        mouth_px=(325.7, 241.4),
        eyes_to_mouth=62,
        lips=((189, 233.5), (203, 234), (230, 232.5)),
        chin=(210, 273),
        eyes=(Eye(x=181, top=166, bottom=178, half_width=12), Eye(x=229.5, top=162.5, bottom=173.5, half_width=16)),
        outline=(
            "398,141 373,114 358,94 334,77 313,59 299,50 284,42 269,38 260,41 233,40 219,44 197,57 182,75 172,94 "
            "168,114 175,131 175,146 168,155 168,160 174,182 174,219 189,246 197,253 198,260 194,263 170,270 160,277 "
            "139,278 122,286 111,280 95,286 79,299 66,314 62,323 56,331 57,340 69,357 67,384 59,397 57,415 370,415 "
            "386,394 402,364 406,312 393,308 326,273 322,268 322,251 323,247 329,245 337,236 338,218 340,214 341,188 "
            "351,176 352,170 378,150"
        ),
    ),
)
PORTRAITS: dict[str, Portrait] = {portrait.name: portrait for portrait in _SPEAKERS}
