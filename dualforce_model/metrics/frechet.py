"""The Frechet distance of two sets of features: FID of pictures (Inception-v3), FVD of clips (I3D).

Each set counts as the normal distribution of its mean and covariance. All in 64 bits. Nothing is added to a covariance
and none is shrunk, as in published distances; too few samples for a covariance are refused instead.

Legend: n samples, d features, r directions in which a distribution varies.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

ASYMMETRY = 1e-8  # of the largest entry or eigenvalue: what rounding does not explain


class Gaussian(NamedTuple):
    """A normal distribution."""

    mean: Float64[np.ndarray, " d"]
    covariance: Float64[np.ndarray, "d d"]


def fit(features: Float[np.ndarray, "n d"], least: int | None = None) -> Gaussian:
    """Mean and covariance (over n - 1) of a set of features.

    Raises ValueError for fewer than `least` samples: d + 1, of which fewer cannot vary in all d directions. The fewer
    the samples, the larger is the distance even of equal distributions, so whoever asks for less (at least 2) compares
    only sets of the same size, and says how large they are.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"features of shape {features.shape}: expected [n, d], one row per picture or clip")
    num, size = features.shape
    needed = size + 1 if least is None else least
    if needed < 2:
        raise ValueError(f"least is {needed}: expected at least 2, of one sample there is no covariance")
    if num < needed:
        raise ValueError(
            f"{num} samples of {size} features: expected at least {needed}, of fewer the covariance is not told and "
            "the distance too large; evaluate more pictures or clips"
        )
    x = features.astype(np.float64)
    if not np.isfinite(x).all():
        rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
        raise ValueError(f"{len(rows)} of {num} samples (first: {rows[0]}) hold values that are no finite numbers")
    mean = x.mean(axis=0)
    x -= mean
    return Gaussian(mean, x.T @ x / (num - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), never negative; the square of a distance, as FID and FVD are.

    Raises ValueError for sizes that differ, values that are no numbers, and matrices that are no covariances.
    """
    for each in (first, second):
        _check(each)
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"distributions of {len(first.mean)} and {len(second.mean)} features: expected those of one net"
        )
    # The root's trace is the sum of the singular values of R1' R2 for any roots S = R R'. Unlike the eigenvalues of
    # S1 S2 they need no further root, which would make 1e-8 of the rounding error 1e-16 in every direction that lacks.
    shared = np.linalg.svd(_root(first.covariance).T @ _root(second.covariance), compute_uv=False).sum()
    apart = np.square(first.mean - second.mean).sum()
    spread = np.trace(first.covariance) + np.trace(second.covariance)
    return max(float(apart + spread - 2 * shared), 0.0)


def _check(told: Gaussian) -> None:
    mean, covariance = told
    if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"mean {mean.shape} and covariance {covariance.shape}: expected [d] and [d, d]")
    if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
        raise ValueError("mean or covariance holds values that are no finite numbers")
    if np.abs(covariance - covariance.T).max() > ASYMMETRY * np.abs(covariance).max():
        raise ValueError("the covariance is not symmetric, so it is none; take that of `fit`")


def _root(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d r"]:
    """R with R R' the covariance; directions whose variance is rounding alone are left out."""
    values, vectors = np.linalg.eigh(covariance)
    largest = np.abs(values).max()
    if values[0] < -ASYMMETRY * largest:
        raise ValueError(f"the covariance has the eigenvalue {values[0]:g}, so it is none; take that of `fit`")
    kept = values > len(values) * np.finfo(np.float64).eps * largest
    return vectors[:, kept] * np.sqrt(values[kept])
