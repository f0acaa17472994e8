"""The usual 68 landmarks, taken from MediaPipe's mesh.

DECA was trained on crops around the 68 points of face-alignment (FAN). Here each is the mesh's vertex that lies where
that point is drawn: the same places up to how each net sees them, except along the jaw, where FAN follows the
outline that the picture shows and the mesh its own edge. Only the extents of the points are used.
"""

import numpy as np
from jaxtyping import Float

from dualforce_model.encoders.face_mesh import NUM_POINTS

# fmt: off
VERTICES = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,  # jaw, from the picture's left
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose: bridge down, then below
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # lips, outer edge
    78, 82, 13, 312, 308, 317, 14, 87,  # lips, inner edge
)
# fmt: on


def landmarks_68(points: Float[np.ndarray, "478 d"]) -> Float[np.ndarray, "68 d"]:
    """The 68 of a mesh, in the usual order."""
    if points.ndim != 2 or len(points) != NUM_POINTS:
        raise ValueError(f"a mesh of shape {points.shape}: expected [{NUM_POINTS}, 2 or 3]")
    return points[list(VERTICES)]
