"""Rows of FLAME parameters by named tables: where in a row they lie is `dualforce_model/flame.py`'s, what they are is
said here, per encoder.

Legend: T frames.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from dualforce_model import flame
from dualforce_model.layout import Layout, Part

AXIS_ANGLE = "radians, axis-angle"
UNITS: Mapping[str, str] = {
    "shape": "deviations along FLAME 2020's first 100 shapes",
    "expression": "deviations along FLAME 2020's first 50 expressions",
    "pose": f"{AXIS_ANGLE}: the head's turn; x to the picture's right, y up, z towards the camera",
    "jaw": f"{AXIS_ANGLE}: x opens",
    "camera": "scale, x, y: scale * (xy + t) of the encoder's own crop, y up",
}
NUM_EYELIDS = 2


class FlameTrack(NamedTuple):
    """FLAME parameters of every frame; a frame without a face has those of the last frame that showed one."""

    parameters: Float32[np.ndarray, "T 159"]  # as the encoder's layout says
    eyelids: Float32[np.ndarray, "T 2"] | None  # 0 open, 1 shut; None: the encoder does not tell
    seen: Bool[np.ndarray, " T"]


def flame_layout(source: str) -> Layout:
    """The table of rows that a net of FLAME parameters makes, `source`."""
    return Layout(
        name="flame159",
        version=1,
        parts=tuple(
            Part(name=name, start=place.start, stop=place.stop, unit=UNITS[name], source=source)
            for name, place in flame.LAYOUT.items()
        ),
    )


def stand_in_layout(expression: str, source: str) -> Layout:
    """The table of rows with something else in expression's place, and neither shape nor camera (all 0)."""
    units = {**UNITS, "shape": "none: not measured", "camera": "none: not measured", "expression": expression}
    return Layout(
        name="blendshapes159",
        version=1,
        parts=tuple(
            Part(
                name=name,
                start=place.start,
                stop=place.stop,
                unit=units[name],
                source=source,
                at_rest=tuple(range(place.stop - place.start)) if name in ("shape", "camera") else (),
            )
            for name, place in flame.LAYOUT.items()
        ),
    )
