import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.market import integrated_variance
from tfhedge.market.exact import ExactScheme, IntegratedVariance
from tfhedge.market.heston import Heston
from tfhedge.market.random_numbers import normal
from tfhedge.market.simulation import simulate

PAPER = Heston.from_paper()
# Degrees of freedom of 2, 1.1, 0.36, 0.08 and 40.
MARKETS = {
    "paper": PAPER,
    "just above one degree": Heston(1.0, 0.04, 1.1, 0.25, 1.0, -0.5),
    "Andersen III": Heston(100.0, 0.09, 1.0, 0.09, 1.0, -0.3),
    "Andersen I": Heston(100.0, 0.04, 0.5, 0.04, 1.0, -0.9),
    "many degrees": Heston(1.0, 0.04, 2.5, 0.04, 0.1, -0.9),
}


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
@pytest.mark.parametrize("dt", [1 / 250, 0.25])
def test_the_transition_is_noncentral_chi_square(market, dt):
    scheme = ExactScheme(market, dt)
    freedom = 4.0 * market.kappa * market.theta / market.xi**2
    scale = -(market.xi**2) * np.expm1(-market.kappa * dt) / (4.0 * market.kappa)
    variance = np.array([0.0, 1e-3, 0.0625, 0.5])
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, [5, 100_000, len(variance)])
    start = np.broadcast_to(variance.astype(np.float32), bits.shape[1:])
    after, _ = tf.function(lambda v, b: scheme.next_variance(v, scheme.noise(b)), jit_compile=True)(
        start, bits.astype(np.int32)
    )
    for v, sample in zip(variance, after.numpy().astype(np.float64).T, strict=True):
        law = scipy.stats.ncx2(freedom, v * np.exp(-market.kappa * dt) / scale, scale=scale)
        # Of 0.08 degrees of freedom 7 % are below 1e-30, and some below what float32 can tell.
        limit = law.cdf(1e-30)
        below = sample < 1e-30
        sample = np.where(below, np.linspace(0, limit, len(below)), law.cdf(sample))
        assert abs(np.mean(below) - limit) < 4.0 * np.sqrt(limit / len(below)) + 1e-12
        assert scipy.stats.kstest(np.random.default_rng(1).permutation(sample), "uniform")[1] > 1e-3


def test_surprise_is_the_difference_to_the_mean():
    market, dt = MARKETS["many degrees"], 0.01
    scheme = ExactScheme(market, dt)
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, [4, 1, 1000]).astype(np.int32)
    start = np.full([1, 1000], 0.05, np.float32)
    after, surprise = scheme.next_variance(start, scheme.noise(bits))
    mean = 0.04 + 0.01 * np.exp(-2.5 * dt)
    assert_allclose(after - mean, surprise, rtol=0, atol=3e-8)


CASES = [  # market, dt, and twice the errors measured on average and at most, in units of the mean
    (PAPER, 1 / 250, 1.5e-7, 1.5e-6),
    (PAPER, 0.25, 4e-6, 7e-5),
    (MARKETS["many degrees"], 0.01, 1.5e-7, 1e-6),
    (MARKETS["Andersen I"], 0.125, 2e-5, 1.2e-3),
    (MARKETS["Andersen I"], 1.0, 1e-4, 1.2e-2),
    (Heston(100.0, 0.04, 0.3, 0.04, 0.9, -0.5), 1.0, 4e-5, 6e-3),  # Andersen II
    (MARKETS["Andersen III"], 1.0, 6e-5, 3e-3),
]


@pytest.mark.parametrize(("market", "dt", "average", "largest"), CASES)
def test_the_integral_is_that_of_direct_inversion(market, dt, average, largest):
    """Along simulated paths: the table against Fourier inversion at each pair of variances."""
    _, variance = simulate(market, 250, 20, dt, (7, 8))
    before, after = np.array(variance[:, -2:], np.float64).T
    score = np.sort(np.random.default_rng(0).normal(size=250))
    arguments = (tf.constant(x, tf.float32) for x in (before, after, score))
    integral = IntegratedVariance(market, dt)(*arguments)
    per_variance = 2.0 / (market.xi**2 * dt)
    sigma = np.maximum(per_variance * (before + after), 1e-12)
    zeta = 2.0 * per_variance * np.sqrt(before * after)
    nu = 2.0 * market.kappa * market.theta / market.xi**2 - 1.0
    expected = np.exp(
        np.diagonal(
            integrated_variance.log_quantiles(score, sigma, zeta, nu, 0.5 * market.kappa * dt)
        )
    )
    error = abs(integral * 2.0 / (market.xi * dt) ** 2 - expected) / np.mean(expected)
    assert np.mean(error) < average
    assert np.max(error) < largest


def test_log_return_is_normal_given_the_variance_and_its_integral():
    """Its residual, on which rho does not act, and its mean by Ito's formula."""
    market, dt = PAPER, 0.02
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, [4, 1, 100_000]).astype(np.int32)
    start = np.full([1, 100_000], 0.05, np.float32)
    scheme = ExactScheme(market, dt)
    noise = scheme.noise(bits)
    after, surprise = scheme.next_variance(start, noise)
    log_return = scheme.log_return(start, after, surprise, bits).numpy().astype(np.float64)
    integral = scheme.integral(start, after, normal(bits[2])).numpy().astype(np.float64)
    martingale = after - 0.05 - market.kappa * market.theta * dt + market.kappa * integral
    residual = log_return - market.rho / market.xi * martingale + 0.5 * integral
    residual = residual / np.sqrt((1.0 - market.rho**2) * integral)
    assert scipy.stats.kstest(residual[0], "norm")[1] > 1e-3
