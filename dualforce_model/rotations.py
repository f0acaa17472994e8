"""Rotations as matrices and as axis-angle: a vector along the axis (right-handed, columns), as long as the angle."""

import numpy as np
from jaxtyping import Float, Float64

TINY = 1e-8  # radians below which an axis means nothing
AXES = ((2, 1), (0, 2), (1, 0))  # entries whose difference is twice the sine, about x, y, z


def matrices(vectors: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3 3"]:
    """Rotations of axis-angle vectors (Rodrigues)."""
    v = vectors.astype(np.float64)
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    cross = np.zeros((*v.shape, 3))
    for axis, (row, column) in enumerate(AXES):
        cross[..., row, column], cross[..., column, row] = v[..., axis], -v[..., axis]
    # sin(a)/a and (1 - cos(a))/a^2, which numpy's sinc gives without a division by nothing
    first, second = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi)) ** 2 / 2
    return np.asarray(np.eye(3) + first * cross + second * (cross @ cross))


def axis_angles(rotations: Float[np.ndarray, "*n 3 3"]) -> Float64[np.ndarray, "*n 3"]:
    """Inverse of `matrices` for angles below pi; at pi the axis is not told by these entries, and 0 comes back."""
    r = rotations.astype(np.float64)
    sines = np.stack([r[..., row, column] - r[..., column, row] for row, column in AXES], axis=-1) / 2
    sine = np.linalg.norm(sines, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (np.trace(r, axis1=-2, axis2=-1)[..., None] - 1) / 2)
    return np.asarray(sines * np.where(sine > TINY, angle / np.maximum(sine, TINY), 1.0))


def nearest(anything: Float[np.ndarray, "*n 3 3"]) -> Float64[np.ndarray, "*n 3 3"]:
    """The rotation nearest to each matrix, by its singular values."""
    u, _, vt = np.linalg.svd(anything.astype(np.float64))
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return np.asarray(u @ vt)
