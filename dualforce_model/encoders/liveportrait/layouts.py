"""The two tables of LivePortrait's motion: how a `Motion` becomes rows of structure, and rows a `Motion` again.

Legend: T frames, m entries of a row.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Float32, Float64

from dualforce_model.encoders.liveportrait.landmarks import Openness
from dualforce_model.encoders.liveportrait.motion import NUM_POINTS, Motion, angles, rotation
from dualforce_model.layout import Layout, Part, single

NUM_EXP = 3 * NUM_POINTS
NUM_BLENDSHAPES = 52
STD_FLOOR = 5e-4  # entries at rest stay below it; divided by their own deviation they would be noise of unit size
# Measured on LivePortrait's own clips: these points never move, and only those have a depth that does.
STILL_POINTS = (6, 8, 9, 12, 18)
DEEP_POINTS = (10, 17, 19, 20)


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
    std_floor=STD_FLOOR,
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
    std_floor=STD_FLOOR,
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
