import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.market.exact import IntegratedVariance
from tfhedge.market.heston import Heston
from tfhedge.market.integrated_variance import (
    approximate_mean,
    log_laplace_transform,
    log_quantiles,
)

LAWS = [  # sigma, zeta, nu, k
    (60.0, 58.0, 0.0, 0.016),
    (3.0, 1.0, -0.96, 0.03),
    (0.2, 0.001, -0.5, 1.0),
    (300.0, 290.0, 40.0, 0.3),
    (2000.0, 1990.0, 500.0, 0.01),
]


def moments(sigma, zeta, nu, k):
    """Mean and variance by Glasserman and Kim (2011), theorem 2.2: a gamma series for each part.

    The Bessel number has the factorial moments (zeta / 2)^n I_{nu+n} / I_nu.
    """
    n = np.arange(1, 200_001)
    rate = k**2 + (np.pi * n) ** 2
    jumps = 2.0 * (np.pi * n) ** 2 / rate
    first, second = np.sum(1.0 / rate), np.sum(1.0 / rate**2)
    first += 1.0 / (np.pi**2 * (n[-1] + 0.5))
    ratio = zeta * k / np.sinh(k)
    bessel = scipy.special.ive([nu, nu + 1.0, nu + 2.0], ratio)
    copies = 0.5 * ratio * bessel[1] / bessel[0]
    variance_of_copies = 0.25 * ratio**2 * bessel[2] / bessel[0] + copies - copies**2
    shape = nu + 1.0 + 2.0 * copies
    tail = 2.0 / (np.pi**2 * (n[-1] + 0.5))
    mean = sigma * (np.sum(jumps / rate) + tail) + shape * first
    variance = 2.0 * sigma * np.sum(jumps / rate**2) + shape * second
    return mean, variance + 4.0 * variance_of_copies * first**2


@pytest.mark.parametrize("law", LAWS)
def test_the_transform_has_the_mean_and_the_variance_of_the_gamma_series(law):
    radius = 1.0 / (1.0 + law[0] + law[2])
    beta = radius * np.exp(2j * np.pi * (np.arange(16) + 0.5) / 16)
    values = log_laplace_transform(beta, *law)
    mean, variance = moments(*law)
    assert_allclose(-np.mean(values / beta).real, mean, rtol=1e-9)
    assert_allclose(2.0 * np.mean(values / beta**2).real, variance, rtol=1e-6)
    # The estimate is good to a few percent at the worst.
    assert_allclose(approximate_mean(*law), mean, rtol=0.2)


@pytest.mark.parametrize("law", LAWS)
def test_quantiles_have_the_mean_and_the_variance_of_the_gamma_series(law):
    score = np.linspace(-5.9, 5.9, 600)
    sigma, zeta, nu, k = law
    quantile = np.exp(log_quantiles(score, np.array([sigma]), np.array([zeta]), nu, k))[0]
    weight = np.exp(-0.5 * score**2) * (score[1] - score[0]) / np.sqrt(2.0 * np.pi)
    mean, variance = moments(*law)
    assert_allclose(weight @ quantile, mean, rtol=1e-6)
    assert_allclose(weight @ (quantile - mean) ** 2, variance, rtol=2e-5)


@pytest.mark.parametrize(
    ("market", "dt", "before", "after"),
    [
        (Heston.from_paper(), 1 / 250, 0.0625, 0.07),
        (Heston.from_paper(), 0.25, 0.2, 0.01),
        (Heston(100.0, 0.09, 1.0, 0.09, 1.0, -0.3), 1.0, 0.09, 0.02),
    ],
)
def test_samples_from_the_table_have_the_mean_and_the_variance(market, dt, before, after):
    size = 200_000
    score = np.random.default_rng(0).normal(size=size)
    ends = (tf.fill([size], tf.constant(v, tf.float32)) for v in (before, after))
    sample = IntegratedVariance(market, dt)(*ends, tf.constant(score, tf.float32))
    sample = np.float64(sample) * 2.0 / (market.xi * dt) ** 2  # J
    per_variance = 2.0 / (market.xi**2 * dt)
    sigma, zeta = per_variance * (before + after), 2.0 * per_variance * np.sqrt(before * after)
    nu = 2.0 * market.kappa * market.theta / market.xi**2 - 1.0
    mean, variance = moments(sigma, zeta, nu, 0.5 * market.kappa * dt)
    for values, expected in ((sample, mean), ((sample - mean) ** 2, variance)):
        assert abs(np.mean(values) - expected) < 4.0 * np.std(values) / np.sqrt(size)


def test_quantiles_are_those_of_kolmogorov_between_zeros_of_two_dimensions():
    """With nu = 0, k = 0 and zeros at both ends E exp(-beta J) is sqrt(beta) / sinh sqrt(beta)."""
    score = np.linspace(-5.5, 5.5, 23)
    zero = np.array([1e-12])
    quantile = np.exp(log_quantiles(score, zero, zero, 0.0, 1e-7))[0]
    survival = scipy.special.kolmogorov(np.pi * np.sqrt(0.5 * quantile))
    upper = score > 0
    assert_allclose(survival[upper], scipy.special.ndtr(-score[upper]), rtol=2e-6)
    lower = 1.0 - survival[~upper]
    assert_allclose(lower, scipy.special.ndtr(score[~upper]), rtol=2e-6, atol=1e-15)


@pytest.mark.parametrize("nu", [-0.96, 0.0, 59.0, 61.0])
def test_the_transform_is_continuous_where_its_branches_meet(nu):
    """Small, middle and large arguments of the Bessel function are computed in three ways."""
    for w in (2.0, np.sqrt(max(3600.0 - nu**2, 4.0))):
        k = 1e-7
        below, above = (
            log_laplace_transform(0.3, w, w * (1.0 + side), nu, k).real for side in (-1e-9, 1e-9)
        )
        assert_allclose(below, above, rtol=0, atol=1e-7)
