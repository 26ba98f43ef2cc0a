import dataclasses
import gc
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.market import simulation
from tfhedge.market.heston import Heston
from tfhedge.market.quadratic_exponential import QuadraticExponentialScheme
from tfhedge.market.simulation import simulate

PAPER = Heston.from_paper()
FELLER_VIOLATED = Heston(spot=100.0, v0=0.04, kappa=0.5, theta=0.04, xi=1.0, rho=-0.9)
WITH_DRIFT = Heston(2.0, 0.09, 2.0, 0.04, 0.8, 0.6, rate=0.05, dividend_yield=0.02)
CASES = {
    "exact, paper": ("exact", PAPER),
    "exact, feller violated": ("exact", FELLER_VIOLATED),
    "exact, with drift": ("exact", WITH_DRIFT),
    "qe, paper": ("qe", PAPER),
    "qe, with drift": ("qe", WITH_DRIFT),
}
# Andersen (2008), table 1, with their maturities and the longest of his steps.
ANDERSEN = {
    "I": (Heston(100.0, 0.04, 0.5, 0.04, 1.0, -0.9), 10.0, 1.0),
    "II": (Heston(100.0, 0.04, 0.3, 0.04, 0.9, -0.5), 15.0, 1.0),
    "III": (Heston(100.0, 0.09, 1.0, 0.09, 1.0, -0.3), 5.0, 1.0),
}
DT = 1 / 250


def z_score(sample, mean):
    """Distance of the sample's mean from `mean`, in standard errors."""
    sample = np.asarray(sample, np.float64)
    return (sample.mean(axis=0) - mean) / (sample.std(axis=0) / np.sqrt(len(sample)))


def simulated(market, num_paths, num_steps, dt, seed=(1, 2), scheme="exact"):
    """`simulate` in batches, so that a test needs no large memory."""
    size = min(num_paths, 16384)
    batches = [
        simulate(market, size, num_steps, dt, seed, tf.constant(first), scheme)
        for first in range(0, num_paths, size)
    ]
    return [np.concatenate(x) for x in zip(*batches, strict=True)]


def fourier_price(market, moneyness, maturity, is_call):
    """Undiscounted prices in units of spot, as the means of payoffs are."""
    price = market.vanilla_price(moneyness * market.spot, maturity, is_call).numpy()
    return price / market.spot * np.exp(market.rate * maturity)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def market_and_paths(request):
    scheme, market = request.param
    return market, *simulated(market, 65536, 120, DT, scheme=scheme)


def test_vanilla_prices_agree_with_fourier(market_and_paths):
    market, spot, _ = market_and_paths
    for days in (10, 40, 120):
        strike = np.array([0.85, 0.95, 1.0, 1.05, 1.15])
        for is_call, sign in ((True, 1.0), (False, -1.0)):
            payoff = np.maximum(sign * (spot[:, days, np.newaxis] / market.spot - strike), 0.0)
            paid = payoff.astype(bool).mean(axis=0) > 1e-3  # else the error is no normal number
            price = fourier_price(market, strike, days * DT, is_call)
            assert np.all(np.abs(z_score(payoff[:, paid], price[paid])) < 4.0)


@pytest.mark.parametrize(("market", "maturity", "dt"), ANDERSEN.values(), ids=ANDERSEN)
def test_long_exact_steps_price_as_fourier_does(market, maturity, dt):
    spot, _ = simulated(market, 131072, round(maturity / dt), dt)
    strike = np.array([0.6, 1.0, 1.4])
    payoff = np.maximum(spot[:, -1, np.newaxis] / market.spot - strike, 0.0)
    price = fourier_price(market, strike, maturity, True)
    assert np.all(np.abs(z_score(payoff, price)) < 4.0)
    assert abs(z_score(spot[:, -1], market.spot)) < 4.0


def test_spot_is_a_martingale_but_for_its_drift(market_and_paths):
    market, spot, _ = market_and_paths
    assert_array_equal(spot[:, 0], np.float32(market.spot))
    time = DT * np.arange(1, 121)
    forward = market.spot * np.exp((market.rate - market.dividend_yield) * time)
    assert np.all(np.abs(z_score(spot[:, 1:], forward)) < 4.0)


def test_variance_has_its_mean_and_its_covariance_with_the_spot(market_and_paths):
    r"""E[v] = theta + (v0 - theta) e^{-kappa t}. With x as numeraire kappa becomes kappa - rho xi
    and kappa theta stays, which gives E[x v]."""
    market, spot, variance = market_and_paths
    assert np.all(variance >= 0)
    assert_array_equal(variance[:, 0], np.float32(market.v0))
    time = DT * np.arange(1, 121)
    forward = market.spot * np.exp((market.rate - market.dividend_yield) * time)
    for numeraire, kappa in (
        (1.0, market.kappa),
        (spot[:, 1:] / forward, market.kappa - market.rho * market.xi),
    ):
        theta = market.kappa * market.theta / kappa
        mean = theta + (market.v0 - theta) * np.exp(-kappa * time)
        assert np.all(np.abs(z_score(numeraire * variance[:, 1:], mean)) < 4.5)


def test_drift_only_multiplies_the_spot():
    driftless = dataclasses.replace(WITH_DRIFT, rate=0.0, dividend_yield=0.0)
    for scheme in ("exact", "qe"):
        spot, variance = simulate(WITH_DRIFT, 64, 15, 0.1, (3, 4), scheme=scheme)
        plain, same = simulate(driftless, 64, 15, 0.1, (3, 4), scheme=scheme)
        assert_array_equal(variance, same)
        assert_allclose(spot, plain * np.exp(0.003 * np.arange(16)), rtol=2e-6)


def test_qe_converges_with_the_step_and_the_exact_scheme_has_no_error_of_the_step():
    """Calls of one year in the paper's market; the errors of QE-M are 0.0075, 0.0022 and less."""
    strike = np.array([0.9, 1.0])
    price = fourier_price(PAPER, strike, 1.0, True)
    error, deviation = {}, {}
    for scheme, num_steps in (("qe", 1), ("qe", 2), ("qe", 4), ("qe", 16), ("exact", 1)):
        spot, _ = simulated(PAPER, 524288, num_steps, 1.0 / num_steps, scheme=scheme)
        payoff = np.maximum(spot[:, -1, np.newaxis].astype(np.float64) - strike, 0.0)
        error[scheme, num_steps] = payoff.mean(axis=0) - price
        deviation[scheme, num_steps] = payoff.std(axis=0) / np.sqrt(len(payoff))
    order = np.log2(error["qe", 1] / error["qe", 2])
    assert np.all((order > 1.3) & (order < 2.5))
    assert np.all(abs(error["qe", 4]) < error["qe", 2] / 2)
    for case in (("qe", 16), ("exact", 1)):
        assert np.all(abs(error[case]) < 4.0 * deviation[case])


@pytest.mark.parametrize("v0", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("dt", [DT, 0.25])
def test_conditional_moments_of_one_step_of_qe(v0, dt):
    """Both laws of the scheme have the mean and the variance of the square-root process."""
    market = dataclasses.replace(PAPER, v0=v0)
    _, variance = simulated(market, 131072, 1, dt, scheme="qe")
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
POSITIVE_RHO = dataclasses.replace(WITH_DRIFT, rate=0.0, dividend_yield=0.0)


@pytest.mark.parametrize(
    ("market", "dt"),
    [(PAPER, 1.0), (FROM_ZERO, 0.1), (FROM_ZERO, 1.0), (POSITIVE_RHO, 1.0)],
)
def test_the_correction_of_qe_makes_long_steps_martingales(market, dt):
    """Without it the mean after one step is off by 8 to 250 standard errors in these cases."""
    spot, _ = simulated(market, 131072, 2, dt, scheme="qe")
    assert np.all(np.abs(z_score(spot[:, 1:], market.spot)) < 4.0)


@pytest.mark.parametrize("scheme", ["exact", "qe"])
def test_deterministic_variance_is_the_limit_of_small_xi(scheme):
    market = Heston(spot=1.0, v0=0.09, kappa=2.0, theta=0.04, xi=1e-5, rho=-0.5)
    spot, variance = simulated(market, 16384, 50, 0.02, scheme=scheme)
    time = 0.02 * np.arange(51)
    expected = 0.04 + 0.05 * np.exp(-2.0 * time)
    assert_allclose(variance, np.broadcast_to(expected, variance.shape), rtol=2e-4)
    integrated = 0.04 + 0.05 * (1.0 - np.exp(-2.0)) / 2.0
    log_spot = np.log(spot[:, -1].astype(np.float64))
    assert abs(z_score(log_spot, -0.5 * integrated)) < 4.0
    assert_allclose(log_spot.var(), integrated, rtol=4 * np.sqrt(2 / 16384))


@pytest.mark.parametrize(("scheme", "market"), list(CASES.values())[1:4], ids=list(CASES)[1:4])
def test_a_path_is_the_same_in_every_batch(scheme, market):
    spot, variance = simulate(market, 600, 15, DT, (3, 4), scheme=scheme)
    cases = [(1, 0), (1, 599), (5, 254), (256, 256), (257, 255), (300, 1), (130, 470), (600, 0)]
    for num_paths, first in cases:
        for index in (first, tf.constant(first, tf.int32), tf.constant(first, tf.int64)):
            part = simulate(market, num_paths, 15, DT, tf.constant([3, 4]), index, scheme)
            assert_array_equal(part[0], spot[first : first + num_paths])
            assert_array_equal(part[1], variance[first : first + num_paths])


@pytest.mark.parametrize("scheme", ["exact", "qe"])
def test_a_path_is_the_same_in_a_graph_and_in_a_large_batch(scheme):
    spot, variance = simulated(PAPER, 32768, 15, DT, seed=(3, 4), scheme=scheme)
    batch = tf.function(
        lambda first: simulate(PAPER, 50, 15, DT, (3, 4), first, scheme), autograph=False
    )
    part = batch(tf.constant(32768 - 50))
    assert_array_equal(part[0], spot[-50:])
    assert_array_equal(part[1], variance[-50:])


def test_paths_and_seeds_differ():
    spot, _ = simulate(PAPER, 1000, 15, DT, (3, 4))
    other, _ = simulate(PAPER, 1000, 15, DT, (3, 5))
    assert len(np.unique(np.concatenate([spot[:, -1], other[:, -1]]))) > 1990


def test_one_trace_serves_all_batches_of_a_dataset():
    traces = []

    def batch(index):
        traces.append(index)
        return simulate(PAPER, 200, 15, DT, (3, 4), first_path=200 * index)

    dataset = tf.data.Dataset.range(3).map(batch, num_parallel_calls=2)
    assert dataset.element_spec == (tf.TensorSpec([200, 16]), tf.TensorSpec([200, 16]))
    spot = np.concatenate([spot for spot, _ in dataset])
    assert len(traces) == 1
    assert_array_equal(spot, simulate(PAPER, 600, 15, DT, (3, 4))[0])


def test_one_trace_serves_all_markets_that_are_equal(monkeypatch):
    made, counts = [], []

    def scheme(market, dt):
        made.append(market)
        return QuadraticExponentialScheme(market, dt)

    monkeypatch.setitem(simulation._SCHEMES, "qe", scheme)
    for _ in range(2):  # the first market is gone when the second comes
        simulate(dataclasses.replace(PAPER, v0=0.05), 1, 1, DT, (1, 2), scheme="qe")
        gc.collect()
        counts.append(len(made))
    assert counts[0] == counts[1] > 0


def check_that_paths_are_finite(market, dt, scheme):
    spot, variance = simulate(market, 128, 8, dt, (3, 4), scheme=scheme)
    assert np.all(np.isfinite(spot))
    assert np.all(np.isfinite(variance))
    assert np.all(spot.numpy() >= 0)
    assert np.all(variance.numpy() >= 0)


@settings(max_examples=8, phases=[p for p in Phase if p is not Phase.shrink])
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
def test_qe_paths_are_finite_whatever_the_parameters(market, dt):
    check_that_paths_are_finite(market, dt, "qe")


@pytest.mark.parametrize(
    ("market", "dt"),
    [
        (Heston(1e4, 4.0, 2.0, 1e-6, 1e-4, -0.9999999), 1e-5),
        (Heston(1e4, 0.04, 50.0, 1e-300, 1e-4, 0.99999), 1e-5),
        (Heston(1.0, 0.0, 2.0, 1e-6, 5.0, 0.99999), 1.0),
        (Heston(0.01, 0.0, 50.0, 1.0, 5.0, -0.5), 1.0),
    ],
)
def test_exact_paths_are_finite_at_extreme_parameters(market, dt):
    check_that_paths_are_finite(market, dt, "exact")


@pytest.mark.parametrize(
    ("name", "value", "expectation"),
    [
        ("num_paths", 0, "a positive integer"),
        ("num_paths", 2.5, "a positive integer"),
        ("num_steps", -1, "a positive integer"),
        ("dt", 0.0, "a positive number"),
        ("seed", 5, "two integers"),
        ("seed", (1, 2, 3), "two integers"),
        ("seed", (1.5, 2), "two integers"),
        ("first_path", -1, "a non-negative integer"),
        ("first_path", 0.7, "a non-negative integer"),
        ("first_path", [0], "a non-negative integer"),
        ("market", None, "a Heston"),
    ],
)
def test_bad_arguments_are_refused(name, value, expectation):
    arguments = {"market": PAPER, "num_paths": 8, "num_steps": 4, "dt": DT, "seed": (1, 2)}
    message = f"Expected `{name}` to be {expectation}. Received: {name}={value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate(**arguments | {name: value})


def test_an_unknown_scheme_is_refused():
    message = re.escape("Expected `scheme` to be one of ('exact', 'qe'). Received: scheme='euler'")
    with pytest.raises(ValueError, match=message):
        simulate(PAPER, 8, 4, DT, (1, 2), scheme="euler")
