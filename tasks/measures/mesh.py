"""How much of the face is hidden: parts of the picture are moved a little, and a landmarker is asked where they went.

A face landmarker puts a mouth where a mouth must be, whether it sees one or a mask, a hand or a microphone; it tells no
visibility. But only what it sees can pull its landmarks along: where mouth, nose and eyes are each moved by a smooth
warp of the picture, landmarks of a visible part follow, those of a hidden one stay where the rest of the face wants
them. No colour is looked at, so that beards, glasses, make-up, dark skin and black-and-white film are no obstacles.

Only these parts are asked: cheeks, forehead and jaw have no landmarks of their own that could follow. The share is
weighed for talking heads, where a hidden mouth is half of what counts.
"""

import importlib.util
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from dualforce_model.config import ConfigError
from dualforce_model.pretrained import Weights, fingerprint
from tasks import faces
from tasks.detectors import mediapipe
from tasks.evidence import Evidence, People
from tasks.measures.base import MeasureConfig
from tasks.quality import no_face_sought
from tasks.records import Score

METHOD = "face mesh that follows moved parts"
SIDE_PX = 192  # of the picture that the landmarker is shown; its nets take 192 and 256
CONTEXT = 1.6  # side of that picture, in sizes of the face's box
SMALLEST_PX = 40.0  # height of a face below which its parts are a few pixels
MIN_SCORE = 0.3  # of the landmarker: a covered face is one that it is less sure of
MAX_LOOKS = 8  # spread over the track
MIN_FOUND = 0.5  # more than this share of the looks must show a mesh: one that comes and goes is a guess
PERCENTILE = 75.0  # of the looks: what is hidden for a quarter of the time counts, one look that errs does not
SAME_FACE = 0.2  # intersection over union of the mesh with the box it was looked for in
MOVE = 0.11  # how far a part's middle is moved, in distances of the eyes: enough to be seen, too little to deform
SPREAD = 0.7  # of the Gaussian that fades a move out, in extents of the part
LEAST_SPREAD = 0.12  # the same in distances of the eyes: closed eyes and lips are flat
GRID_PX = 4  # moves are smooth: they are computed on a coarse grid
STEPS = 6  # of the fixed point that tells where a landmark goes; each is a tenth of the error before
WEIGHTS = replace(mediapipe.WEIGHTS, name="mesh", setting="curate.measures.mesh.weights")

# Signs of a move in four pictures. Parts beside each other move in patterns that have nothing in common, so that one
# does not answer for another; every pattern sums to 0, so that where the parts were does not matter.
NUM_TAKES = 4
_ONE, _TWO, _THREE = (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1)


@dataclass(frozen=True)
class Part:
    """A part of the face that has landmarks of its own, and what they do when it is seen and when it is not."""

    points: tuple[int, ...]  # of the mesh
    across: tuple[int, ...]  # signs of its moves
    down: tuple[int, ...]
    share: float  # of the face
    hidden: float  # follows this share of its moves or less: hidden
    seen: float  # this or more: seen


# fmt: off
_LIPS = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,  # outer edge
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,  # inner edge
)
_NOSE = (1, 2, 4, 5, 19, 48, 49, 64, 94, 98, 129, 195, 278, 279, 294, 327, 358)  # tip, wings, lower bridge
# Lids and brow of either side, the left one in the picture first: an eye alone says little while it is shut.
_LEFT_EYE = (
    7, 33, 133, 144, 145, 153, 154, 155, 157, 158, 159, 160, 161, 163, 173, 246,
    46, 52, 53, 55, 63, 65, 66, 70, 105, 107,
)
_RIGHT_EYE = (
    249, 263, 362, 373, 374, 380, 381, 382, 384, 385, 386, 387, 388, 390, 398, 466,
    276, 282, 283, 285, 293, 295, 296, 300, 334, 336,
)
# fmt: on
PARTS: dict[str, Part] = {
    "mouth": Part(_LIPS, across=_TWO, down=_ONE, share=0.5, hidden=0.35, seen=0.7),
    "nose": Part(_NOSE, across=_THREE, down=_TWO, share=0.22, hidden=0.0, seen=0.3),
    # Eyes move against each other: together they would move the head.
    "left eye": Part(_LEFT_EYE, across=_ONE, down=_THREE, share=0.14, hidden=0.0, seen=0.3),
    "right eye": Part(_RIGHT_EYE, across=(-1, 1, -1, 1), down=(-1, 1, 1, -1), share=0.14, hidden=0.0, seen=0.3),
}


class Mesh:
    """MediaPipe's face landmarker; its library reports usage statistics, see `tasks/detectors/mediapipe.py`."""

    name: ClassVar[str] = "mesh"
    version: ClassVar[int] = 1
    weights: ClassVar[Weights] = WEIGHTS
    scores: ClassVar[tuple[str, ...]] = ("occlusion",)
    needs_face: ClassVar[bool] = True
    needs_landmarks: ClassVar[bool] = False

    def __init__(self, config: MeasureConfig) -> None:
        if importlib.util.find_spec("mediapipe") is None:
            raise ConfigError("measure mesh: the package is not installed; pip install 'dualforce[encoders]'")
        self.config = config
        self.path = WEIGHTS.find(config.weights)
        self._meshes: Callable[[np.ndarray], Sequence[Any]] | None = None

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, self.path, self.config)

    def load(self) -> None:
        net, self._meshes = mediapipe.open_landmarker(WEIGHTS, self.path, MIN_SCORE, num_faces=1)
        weakref.finalize(self, net.close)  # its own __del__ fails when the interpreter ends

    def __call__(self, clip: Evidence) -> dict[str, Score]:
        return {"occlusion": no_face_sought() if clip.people is None else self._score(clip, clip.people)}

    def _score(self, clip: Evidence, people: People) -> Score:
        main, frames = people.main, clip.footage.frames
        if main.height_px * frames.scale < SMALLEST_PX:
            return Score(method=f"{METHOD}: needs a face of {SMALLEST_PX:.0f} px")
        looks = np.linspace(0, len(main.frames) - 1, min(len(main.frames), MAX_LOOKS)).round().astype(int)
        found = [self.hidden(frames[int(main.frames[look])], main.boxes[look] * frames.scale) for look in looks]
        shares = [share for share in found if share is not None]
        if len(shares) <= MIN_FOUND * len(looks):
            return Score(method=f"{METHOD}: none is found in {len(looks) - len(shares)} of {len(looks)} looks")
        return Score(method=METHOD, value=float(np.percentile(shares, PERCENTILE)))

    def hidden(self, frame: UInt8[np.ndarray, "H W 3"], box: Float64[np.ndarray, " 4"]) -> float | None:
        """Share of the face in this box that is hidden or lies outside the picture; None where no mesh is found."""
        side = max(round(CONTEXT * float((box[2:] - box[:2]).max())), 1)
        left, top = np.round((box[:2] + box[2:] - side) / 2).astype(int)
        picture = faces.cut(frame, faces.SquareBox(int(left), int(top), side), SIDE_PX)
        scale = SIDE_PX / side
        mesh = self._mesh(picture)
        searched = ((box - np.tile((left, top), 2)) * scale).tolist()
        if mesh is None or faces.overlap((*mesh.min(axis=0), *mesh.max(axis=0)), searched) < SAME_FACE:
            return None
        moves = Moves.of(mesh)
        seen = [found for take in range(NUM_TAKES) if (found := self._mesh(moves.picture(picture, take))) is not None]
        if len(seen) < NUM_TAKES:
            return None
        height, width = frame.shape[:2]
        inside = np.array([(-left, -top), (width - left, height - top)]) * scale
        return max(hidden_share(moves.followed(np.stack(seen))), share_outside(mesh, inside))

    def _mesh(self, picture: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "478 2"] | None:
        assert self._meshes is not None, "load() comes first"
        found = self._meshes(picture)
        return None if not found else np.array([(point.x, point.y) for point in found[0]]) * picture.shape[1::-1]


@dataclass(frozen=True)
class Moves:
    """The parts of one mesh and where each is moved; pixels of the picture that it was found in."""

    mesh: Float64[np.ndarray, "n 2"]
    unit: float  # distance of the eyes, of a head that is not turned

    @classmethod
    def of(cls, mesh: Float64[np.ndarray, "n 2"]) -> "Moves":
        left, right, mouth = (
            mesh[list(PARTS[name].points)].mean(axis=0) for name in ("left eye", "right eye", "mouth")
        )
        return cls(mesh, max(float(np.linalg.norm(right - left)), float(np.linalg.norm(mouth - (left + right) / 2))))

    def at(self, places: Float64[np.ndarray, "n 2"], take: int) -> Float64[np.ndarray, "n 2"]:
        """How far the picture is moved to come to lie at these places."""
        moved = np.zeros_like(places)
        for part in PARTS.values():
            points = self.mesh[list(part.points)]
            spread = np.maximum(SPREAD * np.ptp(points, axis=0), LEAST_SPREAD * self.unit)
            fading = np.exp(-(((places - points.mean(axis=0)) / spread) ** 2).sum(axis=1) / 2)
            moved += MOVE * self.unit * fading[:, None] * (part.across[take], part.down[take])
        return moved

    def picture(self, picture: UInt8[np.ndarray, "h w 3"], take: int) -> UInt8[np.ndarray, "h w 3"]:
        """The picture with its parts moved."""
        height, width = picture.shape[:2]
        middles = [np.arange(GRID_PX / 2, length, GRID_PX) - 0.5 for length in (width, height)]  # of the grid's cells
        grid = np.stack(np.meshgrid(*middles), axis=2)
        coarse = self.at(grid.reshape(-1, 2), take).reshape(grid.shape)
        moved = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        here = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=2).astype(np.float32) - moved
        return np.asarray(cv2.remap(picture, here, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

    def followed(self, seen: Float64[np.ndarray, "takes n 2"]) -> dict[str, float]:
        """How much of its moves each part followed, about 0 to 1: regression of where landmarks went on where it went.

        `seen` are the meshes that were found in the moved pictures, in order.
        """
        went = seen - seen.mean(axis=0)
        meant = np.stack([self._meant(take) for take in range(len(seen))])
        meant -= meant.mean(axis=0)
        products, squares = (went * meant).sum(axis=(0, 2)), np.square(meant).sum(axis=(0, 2))
        points = {name: list(part.points) for name, part in PARTS.items()}
        return {name: float(products[mine].sum() / squares[mine].sum()) for name, mine in points.items()}

    def _meant(self, take: int) -> Float64[np.ndarray, "n 2"]:
        """Where landmarks lie in the moved picture if they follow it: places whose picture came from the mesh's."""
        places = self.mesh
        for _ in range(STEPS):
            places = self.mesh + self.at(places, take)
        return places


def hidden_share(follow: Mapping[str, float]) -> float:
    """Share of the face that is hidden, 0 to 1, from how much each part follows."""
    return sum(
        part.share * float(np.clip((part.seen - follow[name]) / (part.seen - part.hidden), 0.0, 1.0))
        for name, part in PARTS.items()
    )


def share_outside(mesh: Float64[np.ndarray, "n 2"], inside: Float64[np.ndarray, "2 2"]) -> float:
    """Share of a mesh's outline that lies outside a rectangle, from its upper left and lower right corners."""
    outline = cv2.convexHull(mesh.astype(np.float32))
    (left, top), (right, bottom) = inside
    rectangle = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    shared, _ = cv2.intersectConvexConvex(outline, rectangle)
    return round(float(np.clip(1.0 - shared / cv2.contourArea(outline), 0.0, 1.0)), 4)  # OpenCV's areas are float32
