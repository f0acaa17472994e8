"""Structure vectors: motion as one row of numbers per frame, by tables that have a name and a version.

Legend: T frames, m entries of a row. A table (`Layout`) is plain data and goes into the metadata of what is stored:
which entry is what never follows from an order that somebody has to know.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from pydantic import Field, model_validator

from dualforce_model.config import Frozen
from dualforce_model.encoders.liveportrait.landmarks import Openness
from dualforce_model.encoders.liveportrait.motion import NUM_POINTS, Motion, angles, rotation, single

NUM_EXP = 3 * NUM_POINTS
NUM_BLENDSHAPES = 52
STD_FLOOR = 5e-4  # entries at rest stay below it; divided by their own deviation they would be noise of unit size
# Measured on LivePortrait's own clips: these points never move, and only those have a depth that does.
STILL_POINTS = (6, 8, 9, 12, 18)
DEEP_POINTS = (10, 17, 19, 20)


class Part(Frozen):
    """Some entries of a row that belong together."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="what the numbers are")
    start: int = Field(ge=0, description="its first entry")
    stop: int = Field(ge=1, description="the entry after its last")
    unit: str = Field(description="unit and order of the numbers")
    source: str = Field(description="who measures them")
    at_rest: tuple[int, ...] = Field((), description="entries, counted from start, that hold no signal")


class Layout(Frozen):
    """What each entry of a row is. Another order, meaning or width of anything is another version."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="as configurations spell it")
    version: int = Field(ge=1, description="rises with every change")
    parts: tuple[Part, ...] = Field(min_length=1, description="side by side, from entry 0, without gaps")
    std_floor: float = Field(STD_FLOOR, gt=0.0, description="least deviation that an entry is divided by")

    @model_validator(mode="after")
    def _side_by_side(self) -> Self:
        reached = 0
        for part in self.parts:
            if part.start != reached or part.stop <= part.start:
                raise ValueError(f"{part.name} is [{part.start}:{part.stop}]; expected one that starts at {reached}")
            if any(not 0 <= entry < part.stop - part.start for entry in part.at_rest):
                raise ValueError(f"{part.name}: at_rest {part.at_rest} is not inside of it")
            reached = part.stop
        if len({part.name for part in self.parts}) != len(self.parts):
            raise ValueError(f"parts are {[part.name for part in self.parts]}; expected each name once")
        return self

    @property
    def num_entries(self) -> int:
        """m, the width of a row."""
        return self.parts[-1].stop

    @property
    def active(self) -> Bool[np.ndarray, " m"]:
        """Entries that hold signal."""
        mask = np.ones(self.num_entries, np.bool_)
        for part in self.parts:
            mask[[part.start + entry for entry in part.at_rest]] = False
        return mask

    def join(self, fields: Mapping[str, Float[np.ndarray, "T n"]]) -> Float32[np.ndarray, "T m"]:
        """Rows of the named fields, unchanged. Raises ValueError unless they are the table's, of one length, finite."""
        names = [part.name for part in self.parts]
        if sorted(fields) != sorted(names):
            raise ValueError(f"fields are {sorted(fields)}: expected those of {self.name}, {sorted(names)}")
        count = len(fields[names[0]])
        for part in self.parts:
            expected = [count, part.stop - part.start]
            if list(fields[part.name].shape) != expected:
                raise ValueError(f"{self.name}.{part.name} is {list(fields[part.name].shape)}: expected {expected}")
        remedy = "whoever measured it is at fault"
        kept = [single(fields[name], f"{self.name}.{name}", remedy) for name in names]
        return np.concatenate(kept, axis=1)

    def split(self, rows: Float[np.ndarray, "T m"]) -> dict[str, Float32[np.ndarray, "T n"]]:
        """Inverse of `join`. Raises ValueError for rows of another width, or that hold no numbers."""
        if rows.ndim != 2 or rows.shape[1] != self.num_entries:
            raise ValueError(f"rows are {list(rows.shape)}: expected [T, {self.num_entries}], as in {self.name}")
        kept = single(rows, f"a row of {self.name}", "whoever made it is at fault")
        return {part.name: kept[:, part.start : part.stop] for part in self.parts}

    def floored(self, std: Float[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """Deviations to divide by: a data set's, none under the floor."""
        if std.shape != (self.num_entries,) or not (np.isfinite(std).all() and (std >= 0).all()):
            raise ValueError(f"deviations of shape {std.shape}: expected {self.num_entries} of {self.name}, 0 or more")
        return np.maximum(std.astype(np.float64), self.std_floor)


EXP_AT_REST = tuple(
    3 * point + axis
    for point in range(NUM_POINTS)
    for axis in range(3)
    if point in STILL_POINTS or (axis == 2 and point not in DEEP_POINTS)
)
_EXP = Part(
    name="exp",
    start=0,
    stop=NUM_EXP,
    unit="net units, 21 points, x y z of each",
    source="LivePortrait",
    at_rest=EXP_AT_REST,
)
LP70 = Layout(
    name="lp70",
    version=1,
    parts=(
        _EXP,
        Part(name="degrees", start=63, stop=66, unit="degrees: pitch, yaw, roll", source="LivePortrait"),
        Part(name="t", start=66, stop=69, unit="net units: x, y, z", source="LivePortrait", at_rest=(2,)),
        Part(name="scale", start=69, stop=70, unit="factor", source="LivePortrait"),
    ),
)
LP128 = Layout(
    name="lp128",
    version=1,
    parts=(
        _EXP,
        Part(name="rotation", start=63, stop=69, unit="first two rows of R", source="LivePortrait"),
        Part(name="t", start=69, stop=72, unit="net units: x, y, z", source="LivePortrait", at_rest=(2,)),
        Part(name="scale", start=72, stop=73, unit="factor", source="LivePortrait"),
        Part(name="eyes", start=73, stop=75, unit="height over width: left, right", source="203 landmarks"),
        Part(name="lips", start=75, stop=76, unit="height over width", source="203 landmarks"),
        Part(name="blendshapes", start=76, stop=128, unit="0 to 1, in MediaPipe's order", source="MediaPipe"),
    ),
)
LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in (LP70, LP128)})


def lp70_fields(motion: Motion) -> dict[str, Float32[np.ndarray, "T n"]]:
    """What `LP70.join` takes. Key points at rest are no part of it: `canonical` is the condition beside the rows."""
    return {"exp": _flat(motion.exp), "degrees": motion.degrees, "t": motion.t, "scale": motion.scale}


def lp70_motion(rows: Float[np.ndarray, "T 70"], canonical: Float[np.ndarray, " 63"]) -> Motion:
    """Motion of rows, to the bit, on the key points at rest of whom they are to move."""
    fields = LP70.split(rows)
    return Motion(
        _at_rest(canonical, len(rows)), _points(fields["exp"]), fields["degrees"], fields["t"], fields["scale"]
    )


def lp128_fields(
    motion: Motion, opened: Openness, blendshapes: Float[np.ndarray, "T 52"]
) -> dict[str, Float[np.ndarray, "T n"]]:
    """What `LP128.join` takes; eyes, lips and blend shapes are measured on the same frames."""
    turned = rotation(motion.degrees)[:, :2].reshape(-1, 6)
    fields = {"exp": _flat(motion.exp), "rotation": turned, "t": motion.t, "scale": motion.scale}
    return {**fields, "eyes": opened.eyes, "lips": opened.lips, "blendshapes": blendshapes}


def lp128_motion(rows: Float[np.ndarray, "T 128"], canonical: Float[np.ndarray, " 63"]) -> Motion:
    """Motion of rows, to the bit but for the angles, which come from the nearest rotation to what the row holds.

    Rows that a model made need not hold a rotation. Raises ValueError where they hold none at all.
    """
    fields = LP128.split(rows)
    degrees = angles(_rotations(fields["rotation"])).astype(np.float32)
    return Motion(_at_rest(canonical, len(rows)), _points(fields["exp"]), degrees, fields["t"], fields["scale"])


def _rotations(six: Float32[np.ndarray, "T 6"]) -> Float64[np.ndarray, "T 3 3"]:
    """The first row keeps its direction, the second what of it is square to that, the third follows."""
    first, second = six.astype(np.float64).reshape(-1, 2, 3).swapaxes(0, 1)
    first = _unit(first)
    second = _unit(second - (first * second).sum(axis=1, keepdims=True) * first)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def _unit(vectors: Float64[np.ndarray, "T 3"]) -> Float64[np.ndarray, "T 3"]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (length < 1e-6).any():
        raise ValueError("lp128.rotation: two rows that are parallel or zero; expected the first two of a rotation")
    return np.asarray(vectors / length)


def _flat(points: Float[np.ndarray, "T 21 3"]) -> Float[np.ndarray, "T 63"]:
    return points.reshape(len(points), NUM_EXP)


def _points(flat: Float[np.ndarray, "T 63"]) -> Float[np.ndarray, "T 21 3"]:
    return flat.reshape(len(flat), NUM_POINTS, 3)


def _at_rest(canonical: Float[np.ndarray, " 63"], count: int) -> Float32[np.ndarray, "T 21 3"]:
    if canonical.shape != (NUM_EXP,):
        raise ValueError(f"canonical is {list(canonical.shape)}: expected {NUM_EXP} numbers, x y z of 21 points")
    kept = single(canonical, "canonical", "take that of the reference picture")
    return np.tile(kept.reshape(1, NUM_POINTS, 3), (count, 1, 1))
