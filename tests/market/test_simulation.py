import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.market.fourier import vanilla_price
from tfhedge.market.heston import Heston
from tfhedge.market.simulation import simulate

PAPER = Heston.from_paper()
FELLER_VIOLATED = Heston(spot=100.0, v0=0.04, kappa=0.5, theta=0.04, xi=1.0, rho=-0.9)
POSITIVE_RHO = Heston(spot=2.0, v0=0.09, kappa=2.0, theta=0.04, xi=0.8, rho=0.6)
MARKETS = {"paper": PAPER, "feller violated": FELLER_VIOLATED, "positive rho": POSITIVE_RHO}
DT = 1 / 250


def z_score(sample, mean):
    """Distance of the sample's mean from `mean`, in standard errors."""
    sample = np.asarray(sample, np.float64)
    return (sample.mean(axis=0) - mean) / (sample.std(axis=0) / np.sqrt(len(sample)))


def simulated(market, num_paths, num_steps, dt, seed=(1, 2)):
    """`simulate` in batches, so that a test needs no large graph and no large memory."""
    batch_size = min(num_paths, 16384)
    batch = tf.function(
        lambda first: simulate(market, batch_size, num_steps, dt, seed, first), autograph=False
    )
    batches = [batch(tf.constant(i)) for i in range(0, num_paths, batch_size)]
    return [np.concatenate(x) for x in zip(*batches, strict=True)]


@pytest.fixture(scope="module", params=MARKETS.values(), ids=MARKETS)
def market_and_paths(request):
    return request.param, *simulated(request.param, 131072, 120, DT)


def test_vanilla_prices_agree_with_fourier(market_and_paths):
    market, spot, _ = market_and_paths
    for days in (10, 20, 40, 80, 120):
        strike = np.array([0.85, 0.95, 1.0, 1.05, 1.15])
        for is_call, sign in ((True, 1.0), (False, -1.0)):
            payoff = np.maximum(sign * (spot[:, days, np.newaxis] / market.spot - strike), 0.0)
            traded = payoff.astype(bool).mean(axis=0) > 1e-3  # else the error is no normal number
            price = vanilla_price(market, market.v0, np.log(strike), days * DT, is_call)
            assert np.all(np.abs(z_score(payoff, price))[traded] < 4.0)


def test_spot_is_a_martingale(market_and_paths):
    market, spot, _ = market_and_paths
    assert_array_equal(spot[:, 0], np.float32(market.spot))
    assert np.all(np.abs(z_score(spot[:, 1:], market.spot)) < 4.0)


def test_variance_has_its_mean_and_its_covariance_with_the_spot(market_and_paths):
    r"""E[v] = theta + (v0 - theta) e^{-kappa t}. With x as numeraire kappa becomes kappa - rho xi
    and kappa theta stays, which gives E[x v]."""
    market, spot, variance = market_and_paths
    assert np.all(variance >= 0)
    assert_array_equal(variance[:, 0], np.float32(market.v0))
    time = DT * np.arange(1, 121)
    for numeraire, kappa in (
        (1.0, market.kappa),
        (spot[:, 1:] / market.spot, market.kappa - market.rho * market.xi),
    ):
        theta = market.kappa * market.theta / kappa
        mean = theta + (market.v0 - theta) * np.exp(-kappa * time)
        # Over steps of finite length the scheme's covariance of spot and variance is not exact.
        assert np.all(np.abs(z_score(numeraire * variance[:, 1:], mean)) < 4.5)


@pytest.mark.parametrize("v0", [0.0, 1e-4, 0.01, 0.0625, 1.0])
@pytest.mark.parametrize("dt", [DT, 0.25])
def test_conditional_moments_of_one_step(v0, dt):
    """Both laws of the scheme have the mean and the variance of the square-root process."""
    market = dataclasses.replace(PAPER, v0=v0)
    _, variance = simulated(market, 131072, 1, dt)
    decay = np.exp(-market.kappa * dt)
    mean = market.theta + (v0 - market.theta) * decay
    square = (
        market.xi**2
        / market.kappa
        * (v0 * decay * (1 - decay) + 0.5 * market.theta * (1 - decay) ** 2)
    )
    after = variance[:, 1].astype(np.float64)
    assert abs(z_score(after, mean)) < 4.0
    assert abs(z_score((after - mean) ** 2, square)) < 4.0


FROM_ZERO = dataclasses.replace(PAPER, v0=0.0)


@pytest.mark.parametrize(
    ("market", "dt"),
    [(PAPER, 1.0), (FROM_ZERO, 0.1), (FROM_ZERO, 1.0), (POSITIVE_RHO, 1.0)],
)
def test_the_correction_makes_long_steps_martingales(market, dt):
    """Without it the mean after one step is off by 8 to 250 standard errors in these cases."""
    spot, _ = simulated(market, 131072, 2, dt)
    assert np.all(np.abs(z_score(spot[:, 1:], market.spot)) < 4.0)


def test_deterministic_variance_is_the_limit_of_small_xi():
    market = Heston(spot=1.0, v0=0.09, kappa=2.0, theta=0.04, xi=1e-6, rho=-0.5)
    spot, variance = simulated(market, 16384, 50, 0.02)
    time = 0.02 * np.arange(51)
    expected = 0.04 + 0.05 * np.exp(-2.0 * time)
    assert_allclose(variance, np.broadcast_to(expected, variance.shape), rtol=1e-4)
    integrated = 0.04 + 0.05 * (1.0 - np.exp(-2.0)) / 2.0
    log_spot = np.log(spot[:, -1].astype(np.float64))
    assert abs(z_score(log_spot, -0.5 * integrated)) < 4.0
    assert_allclose(log_spot.var(), integrated, rtol=4 * np.sqrt(2 / 16384))


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_a_path_is_the_same_in_every_batch(market):
    spot, variance = simulate(market, 600, 15, DT, (3, 4))
    cases = [(1, 0), (1, 599), (5, 126), (128, 128), (129, 127), (300, 1), (130, 470), (600, 0)]
    for num_paths, first in cases:
        for index in (first, tf.constant(first, tf.int32), tf.constant(first, tf.int64)):
            part = simulate(market, num_paths, 15, DT, tf.constant([3, 4]), index)
            assert_array_equal(part[0], spot[first : first + num_paths])
            assert_array_equal(part[1], variance[first : first + num_paths])


def test_a_path_is_the_same_in_a_graph_and_in_a_large_batch():
    spot, variance = simulated(PAPER, 32768, 15, DT, seed=(3, 4))
    part = simulate(PAPER, 50, 15, DT, (3, 4), first_path=32768 - 50)
    assert_array_equal(part[0], spot[-50:])
    assert_array_equal(part[1], variance[-50:])


def test_paths_and_seeds_differ():
    spot, _ = simulate(PAPER, 1000, 5, DT, (3, 4))
    other, _ = simulate(PAPER, 1000, 5, DT, (3, 5))
    assert len(np.unique(np.concatenate([spot[:, -1], other[:, -1]]))) > 1990


def test_one_trace_serves_all_batches_of_a_dataset():
    traces = []

    def batch(index):
        traces.append(index)
        return simulate(PAPER, 200, 5, DT, (3, 4), first_path=200 * index)

    dataset = tf.data.Dataset.range(3).map(batch, num_parallel_calls=2)
    assert dataset.element_spec == (tf.TensorSpec([200, 6]), tf.TensorSpec([200, 6]))
    spot = np.concatenate([spot for spot, _ in dataset])
    assert len(traces) == 1
    assert_array_equal(spot, simulate(PAPER, 600, 5, DT, (3, 4))[0])


@settings(max_examples=20)
@given(
    market=st.builds(
        Heston,
        spot=st.floats(0.01, 1e4),
        v0=st.just(0.0) | st.floats(0.0, 4.0),
        kappa=st.floats(1e-3, 50.0),
        theta=st.floats(1e-6, 1.0) | st.just(1e-300),
        xi=st.floats(1e-4, 5.0),
        rho=st.floats(-1.0, 1.0, exclude_min=True, exclude_max=True),
    ),
    dt=st.sampled_from([1e-5, 1 / 250, 0.1, 1.0]),
)
def test_paths_are_finite_whatever_the_parameters(market, dt):
    spot, variance = simulate(market, 128, 8, dt, (3, 4))
    assert np.all(np.isfinite(spot))
    assert np.all(np.isfinite(variance))
    assert np.all(spot.numpy() >= 0)
    assert np.all(variance.numpy() >= 0)


@pytest.mark.parametrize(
    ("name", "value", "expectation"),
    [
        ("num_paths", 0, "a positive integer"),
        ("num_paths", 2.5, "a positive integer"),
        ("num_steps", -1, "a positive integer"),
        ("dt", 0.0, "a positive number"),
    ],
)
def test_bad_arguments_are_refused(name, value, expectation):
    arguments = {"num_paths": 8, "num_steps": 4, "dt": DT, "seed": (1, 2), name: value}
    with pytest.raises(ValueError, match=f"`{name}` to be {expectation}. Received: {name}={value}"):
        simulate(PAPER, **arguments)
