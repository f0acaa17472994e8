"""From the net's heads to motion: degrees out of bins, rotations, key points in the picture.

Legend: T frames; bins of 3 degrees, of which an angle is the mean. Arithmetic is in 64 bits, what is kept in 32.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64

from dualforce_model.layout import single

NUM_POINTS = 21
NUM_BINS = 66
BIN_DEGREES = 3.0
FIRST_BIN_DEGREES = -97.5
# What the net says of a picture, under the names of its heads.
HEADS: Mapping[str, int] = MappingProxyType(
    {
        "kp": 3 * NUM_POINTS,
        "scale": 1,
        "pitch": NUM_BINS,
        "yaw": NUM_BINS,
        "roll": NUM_BINS,
        "t": 3,
        "exp": 3 * NUM_POINTS,
    }
)


class Motion(NamedTuple):
    """What the face does in every frame. Lengths are in units of the net, about half a crop's side."""

    kp: Float32[np.ndarray, "T 21 3"]  # who it is: key points at rest, nearly the same in all frames
    exp: Float32[np.ndarray, "T 21 3"]  # what they add for the expression
    degrees: Float32[np.ndarray, "T 3"]  # pitch, yaw, roll
    t: Float32[np.ndarray, "T 3"]  # nothing that draws a face ever reads the third
    scale: Float32[np.ndarray, "T 1"]


def assemble(raw: Mapping[str, Float[np.ndarray, "T n"]]) -> Motion:
    """Motion of what the heads said. Raises ValueError for other heads, widths, or values that are no numbers."""
    if sorted(raw) != sorted(HEADS):
        raise ValueError(f"heads are {sorted(raw)}: expected {sorted(HEADS)}")
    count = len(raw["kp"])
    for name, width in HEADS.items():
        if raw[name].shape != (count, width):
            raise ValueError(f"head {name} is {list(raw[name].shape)}: expected {[count, width]}")
    kept = {name: single(raw[name], f"head {name}", "check weights and precision of the net") for name in HEADS}
    return Motion(
        kp=kept["kp"].reshape(count, NUM_POINTS, 3),
        exp=kept["exp"].reshape(count, NUM_POINTS, 3),
        degrees=np.stack([degrees(kept[name]) for name in ("pitch", "yaw", "roll")], axis=1).astype(np.float32),
        t=kept["t"],
        scale=kept["scale"],
    )


def degrees(bins: Float[np.ndarray, "*n 66"]) -> Float64[np.ndarray, "*n"]:
    """The mean angle under the bins' softmax, -97.5 to 97.5."""
    if bins.shape[-1] != NUM_BINS:
        raise ValueError(f"{bins.shape[-1]} bins: expected {NUM_BINS}")
    weights = np.exp(bins.astype(np.float64) - bins.max(axis=-1, keepdims=True))
    mean = (weights * np.arange(NUM_BINS)).sum(axis=-1) / weights.sum(axis=-1)
    return np.asarray(mean * BIN_DEGREES + FIRST_BIN_DEGREES)


def rotation(pitch_yaw_roll: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3 3"]:
    """R of angles in degrees, for points that are rows: `kp @ R`. Transposed: roll about z after yaw about y after
    pitch about x.
    """
    pitch, yaw, roll = np.moveaxis(np.deg2rad(pitch_yaw_roll.astype(np.float64)), -1, 0)
    turned = _about(2, roll) @ _about(1, yaw) @ _about(0, pitch)
    return np.asarray(np.swapaxes(turned, -1, -2))


def angles(matrices: Float[np.ndarray, "*n 3 3"]) -> Float64[np.ndarray, "*n 3"]:
    """Pitch, yaw and roll in degrees of what `rotation` gives: its inverse for yaw between -90 and 90.

    Beyond, the same rotation has a second name with a yaw inside, and that is what comes back.
    """
    m = np.swapaxes(matrices, -1, -2).astype(np.float64)
    pitch = np.arctan2(m[..., 2, 1], m[..., 2, 2])
    yaw = -np.arcsin(np.clip(m[..., 2, 0], -1.0, 1.0))
    roll = np.arctan2(m[..., 1, 0], m[..., 0, 0])
    return np.asarray(np.rad2deg(np.stack([pitch, yaw, roll], axis=-1)))


def posed_points(motion: Motion) -> Float32[np.ndarray, "T 21 3"]:
    """The key points as the picture shows them: turned, with their expression, scaled, then moved along x and y."""
    posed = motion.scale[..., None] * (motion.kp @ rotation(motion.degrees) + motion.exp)
    posed[..., :2] += motion.t[:, None, :2]
    return np.asarray(posed, np.float32)


def canonical(motion: Motion) -> Float32[np.ndarray, " 63"]:
    """Key points at rest of the first picture: the condition beside the rows.

    Not their mean over a clip, which would tell the model of what is still to come.
    """
    if not len(motion.kp):
        raise ValueError("motion of no frames: expected at least the reference's")
    return motion.kp[0].flatten()


def _about(axis: int, radians: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n 3 3"]:
    """Right-handed rotations of columns about x (0), y (1) or z (2)."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.zeros((*radians.shape, 3, 3))
    matrices[..., axis, axis] = 1.0
    matrices[..., first, first] = matrices[..., second, second] = np.cos(radians)
    matrices[..., second, first] = np.sin(radians)
    matrices[..., first, second] = -np.sin(radians)
    return matrices
