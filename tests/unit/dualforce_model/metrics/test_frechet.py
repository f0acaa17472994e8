"""The Frechet distance against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualforce_model.metrics.frechet import Gaussian, fit, frechet_distance


def rotation(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    factor = rng.normal(size=(size, size))
    return factor @ factor.T + 0.1 * np.eye(size)


# ------------------------------------------------------------------------------------------------- known distributions


@given(st.integers(0, 1000), st.integers(1, 12))
def test_a_shift_is_its_square(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    shared, mean, shift = covariance(rng, size), rng.normal(size=size), rng.normal(size=size)
    found = frechet_distance(Gaussian(mean, shared), Gaussian(mean + shift, shared))
    assert found == pytest.approx(np.square(shift).sum(), abs=1e-11 * np.trace(shared))


@given(st.integers(0, 1000), st.integers(1, 12))
def test_covariances_along_the_same_axes(seed: int, size: int) -> None:
    """Squared distances of means and of standard deviations, axis by axis; some axes do not vary at all."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0, 3, (2, size)) * rng.integers(0, 2, (2, size))
    means, axes = rng.normal(size=(2, size)), rotation(rng, size)
    told = [
        Gaussian(mean, (axes * deviations**2) @ axes.T) for mean, deviations in zip(means, (first, second), strict=True)
    ]
    wanted = np.square(means[0] - means[1]).sum() + np.square(first - second).sum()
    assert frechet_distance(*told) == pytest.approx(wanted, abs=1e-6)
    assert frechet_distance(*reversed(told)) == pytest.approx(wanted, abs=1e-6)


@given(st.integers(0, 1000))
def test_two_dimensions_have_a_closed_form(seed: int) -> None:
    """Of 2 x 2 matrices the root's trace is (tr P + 2 (det P)^(1/2))^(1/2), whatever their axes."""
    rng = np.random.default_rng(seed)
    first, second = covariance(rng, 2), covariance(rng, 2)
    product = first @ second
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    wanted = np.trace(first) + np.trace(second) - 2 * root
    mean = np.zeros(2)
    assert frechet_distance(Gaussian(mean, first), Gaussian(mean, second)) == pytest.approx(wanted, abs=1e-10)


def test_against_the_root_of_the_product() -> None:
    """At full rank the eigenvalues of S1 S2 are positive; the trace of its root is the sum of theirs."""
    rng = np.random.default_rng(0)
    first, second = covariance(rng, 40), covariance(rng, 40)
    root = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    wanted = np.trace(first) + np.trace(second) - 2 * root
    found = frechet_distance(Gaussian(np.zeros(40), first), Gaussian(np.zeros(40), second))
    assert found == pytest.approx(wanted, rel=1e-9)


@given(st.floats(1e-6, 1e6))
def test_units_are_squared(scale: float) -> None:
    rng = np.random.default_rng(3)
    first, second = (Gaussian(rng.normal(size=6), covariance(rng, 6)) for _ in range(2))
    scaled = [Gaussian(scale * each.mean, scale**2 * each.covariance) for each in (first, second)]
    assert frechet_distance(*scaled) == pytest.approx(scale**2 * frechet_distance(first, second), rel=1e-9)


def test_a_distribution_that_does_not_vary() -> None:
    """A point is as far from a cloud as the cloud is wide."""
    point, cloud = Gaussian(np.zeros(3), np.zeros((3, 3))), Gaussian(np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    assert frechet_distance(point, cloud) == pytest.approx(5.0)
    assert frechet_distance(point, point) == 0.0


# ------------------------------------------------------------------------------------------------------ sets of samples


@pytest.mark.parametrize(("num", "size"), [(500, 40), (41, 40), (20, 400)])
def test_a_set_is_no_way_from_itself(num: int, size: int) -> None:
    """Nor from itself in another order; nor where it varies in few of many directions, as eigenvalues would have it."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(num, size)) * rng.uniform(0.01, 10, size)).astype(np.float32)
    first, second = fit(features, least=2), fit(rng.permutation(features), least=2)
    total = np.trace(first.covariance)
    assert 0 <= frechet_distance(first, first) <= 1e-11 * total
    assert 0 <= frechet_distance(first, second) <= 1e-11 * total


def test_mean_and_covariance_of_samples() -> None:
    """Two samples on every axis, as far from the mean as the axis is wide: their covariance is known."""
    widths, mean = np.array([0.5, 2.0, 3.0]), np.array([10.0, -4.0, 1e4])
    features = mean + np.concatenate([np.diag(widths), -np.diag(widths)])
    told = fit(features)
    assert np.allclose(told.mean, mean)
    assert np.allclose(told.covariance, np.diag(2 * widths**2 / 5))
    wider = fit(mean + 1 + 2 * (features - mean))
    assert frechet_distance(told, wider) == pytest.approx(3 + np.trace(told.covariance), rel=1e-9)


def test_few_samples_of_many_features_have_the_distance_of_their_samples() -> None:
    """The root's trace is the sum of the singular values of X1 X2', both centred: no covariance is needed for that."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(12, 300)), rng.normal(size=(17, 300)) * 2 + 0.1
    one, other = (x - x.mean(axis=0) for x in (first, second))
    shared = np.linalg.svd(one @ other.T, compute_uv=False).sum() / np.sqrt(11 * 16)
    apart = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    wanted = apart + np.square(one).sum() / 11 + np.square(other).sum() / 16 - 2 * shared
    assert frechet_distance(fit(first, least=2), fit(second, least=2)) == pytest.approx(wanted, rel=1e-11)


def test_features_of_32_bits_far_from_zero_lose_nothing_more() -> None:
    features = (1000 + np.random.default_rng(0).normal(size=(300, 5))).astype(np.float32)
    assert np.allclose(fit(features).covariance, np.cov(features.astype(np.float64).T), rtol=1e-12)
    assert features.min() > 900  # what was given is not changed


# ------------------------------------------------------------------------------------------------------------ refusals


def test_too_few_samples_are_refused() -> None:
    features = np.random.default_rng(0).normal(size=(40, 40))
    with pytest.raises(ValueError, match=r"40 samples of 40 features: expected at least 41.*evaluate more"):
        fit(features)
    assert fit(features, least=40).mean.shape == (40,)
    with pytest.raises(ValueError, match="39 samples of 40 features: expected at least 40"):
        fit(features[1:], least=40)
    with pytest.raises(ValueError, match="least is 1: expected at least 2"):
        fit(features, least=1)


def test_features_that_are_none_are_refused() -> None:
    for shape in ((40,), (40, 0), (5, 6, 7)):
        with pytest.raises(ValueError, match="one row per picture or clip"):
            fit(np.zeros(shape))
    for broken in (np.nan, np.inf):
        features = np.zeros((9, 3))
        features[[4, 7], 1] = broken
        with pytest.raises(ValueError, match=r"2 of 9 samples \(first: 4\)"):
            fit(features)


def test_what_are_no_distributions_is_refused() -> None:
    good = Gaussian(np.zeros(2), np.eye(2))
    cases = [
        (Gaussian(np.zeros(3), np.eye(3)), "2 and 3 features: expected those of one net"),
        (Gaussian(np.zeros(3), np.eye(2)), r"expected \[d\] and \[d, d\]"),
        (Gaussian(np.array([0, np.nan]), np.eye(2)), "no finite numbers"),
        (Gaussian(np.zeros(2), np.full((2, 2), np.inf)), "no finite numbers"),
        (Gaussian(np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
        (Gaussian(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])), "eigenvalue -1"),
    ]
    for bad, complaint in cases:
        with pytest.raises(ValueError, match=complaint):
            frechet_distance(good, bad)
