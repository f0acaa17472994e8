"""FLAME parameters of a frame, as they are stored: 159 numbers, of which 56 are motion.

Shape (who somebody is) and camera (where the crop was) are no motion: nothing is ever aligned with them.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

LAYOUT: Mapping[str, slice] = {
    "shape": slice(0, 100),
    "expression": slice(100, 150),
    "pose": slice(150, 153),  # global rotation, axis-angle
    "jaw": slice(153, 156),  # axis-angle
    "camera": slice(156, 159),
}
NUM_PARAMETERS = 159
MOTION = ("expression", "jaw", "pose")  # in this order
MOTION_WIDTHS = tuple(LAYOUT[group].stop - LAYOUT[group].start for group in MOTION)
NUM_MOTION = sum(MOTION_WIDTHS)


def motion(parameters: Float[np.ndarray, "n 159"]) -> Float[np.ndarray, "n 56"]:
    """Expression 50, jaw 3, global pose 3."""
    if parameters.shape[-1] != NUM_PARAMETERS:
        raise ValueError(f"{parameters.shape[-1]} FLAME parameters a frame: expected {NUM_PARAMETERS}, as in LAYOUT")
    return np.concatenate([parameters[..., LAYOUT[group]] for group in MOTION], axis=-1)
