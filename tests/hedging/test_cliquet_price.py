"""The cliquet's price against Monte Carlo, against two calls, and against independent returns."""

import dataclasses

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.hedging.claims import Cliquet
from tfhedge.hedging.cliquet_price import CliquetPricer
from tfhedge.market.heston import Heston
from tfhedge.market.simulation import simulate

DT = 1.0 / 250.0
CLIQUET = Cliquet.from_paper()
PAPER = CliquetPricer(Heston.from_paper(), CLIQUET, DT)
NAMES = "spot", "variance", "spot_at_last_reset", "accrued"


def price(pricer, step, *observed):
    return pricer(step, **{name: np.atleast_1d(x) for name, x in zip(NAMES, observed, strict=True)})


def monte_carlo(market, claim, step, spot, variance, reset, accrued, num_paths=40_000):
    """Mean and standard error, from a state in the middle of a path."""
    here = dataclasses.replace(market, spot=spot, v0=variance)
    steps_left = claim.num_steps - step
    payoffs = []
    for batch in range(num_paths // 20_000):
        path, _ = simulate(here, 20_000, steps_left, DT, (step, batch))
        path = np.float64(path)
        first = steps_left % claim.period or claim.period
        fixings = np.column_stack([np.full(len(path), reset), path[:, first :: claim.period]])
        returns = np.minimum(fixings[:, 1:] / fixings[:, :-1] - 1.0, claim.cap)
        payoffs.append(np.maximum(accrued + returns.sum(axis=1), 0.0))
    payoffs = np.exp(-market.rate * steps_left * DT) * np.concatenate(payoffs)
    return payoffs.mean(), payoffs.std() / np.sqrt(payoffs.size)


def test_price_of_the_paper():
    """0.006236 to 1e-6 is that of another program; simulations below are good for 1e-5 at best."""
    assert_allclose(price(PAPER, 0, 1.0, 0.0625, 1.0, 0.0), [0.006236], atol=1e-6)


@pytest.mark.parametrize(
    ("step", "spot", "variance", "reset", "accrued"),
    [
        (0, 1.0, 0.0625, 1.0, 0.0),
        (0, 1.0, 0.3, 1.0, 0.0),
        (100, 0.84, 0.2, 0.8, -0.1),
        (199, 1.224, 0.03, 1.2, -0.02),
        (210, 0.97, 0.1, 1.0, 0.05),
        (219, 1.01, 0.001, 1.0, 0.0),
        (230, 0.99, 0.02, 1.0, 0.02),
    ],
)
def test_price_in_the_middle_of_a_path(step, spot, variance, reset, accrued):
    (value,) = price(PAPER, step, spot, variance, reset, accrued).numpy()
    mean, error = monte_carlo(PAPER.market, CLIQUET, step, spot, variance, reset, accrued)
    assert abs(value - mean) < 4.0 * error


@pytest.mark.slow
def test_price_of_the_paper_by_many_paths():
    (value,) = price(PAPER, 0, 1.0, 0.0625, 1.0, 0.0).numpy()
    mean, error = monte_carlo(PAPER.market, CLIQUET, 0, 1.0, 0.0625, 1.0, 0.0, 4_000_000)
    assert abs(value - mean) < 3.0 * error


def test_price_with_drift_where_the_variance_reaches_zero():
    market = Heston(1.0, 0.04, 1.0, 0.05, 1.0, -0.7, rate=0.05, dividend_yield=0.02)
    claim = Cliquet(num_periods=4, period=60, cap=0.05)
    (value,) = price(CliquetPricer(market, claim, DT), 10, 1.01, 0.03, 1.0, 0.0).numpy()
    mean, error = monte_carlo(market, claim, 10, 1.01, 0.03, 1.0, 0.0)
    assert abs(value - mean) < 4.0 * error


def test_price_where_the_variance_is_mostly_zero_and_at_times_very_high():
    market = Heston(1.0, 0.01, 0.5, 0.04, 1.0, -0.7)  # 2 kappa theta / xi^2 is 0.04
    pricer = CliquetPricer(market, CLIQUET, DT)
    for step, spot, variance, accrued, bias in (
        (119, 1.0, 0.04, -0.02, 0.0),
        (215, 0.99, 0.04, 0.0, 0.0),
        (215, 0.99, 0.0, 0.0, 1e-4),
    ):
        (value,) = price(pricer, step, spot, variance, 1.0, accrued).numpy()
        mean, error = monte_carlo(market, CLIQUET, step, spot, variance, 1.0, accrued)
        assert abs(value - mean) < 4.0 * error + bias


@pytest.mark.parametrize(("num_periods", "cap"), [(2, 0.015), (2, 0.2), (5, 0.002)])
def test_independent_returns(num_periods, cap):
    """With hardly any volatility of variance the returns are lognormal: a sum on a fine grid."""
    theta, period = 0.0625, 20
    market = Heston(1.0, theta, 8.0, theta, 1e-3, 0.0)
    claim = Cliquet(num_periods, period, cap)
    spacing = cap / 100
    edges = cap - spacing * np.arange(int((1.0 + cap) / spacing) - 1)[::-1]
    deviation = np.sqrt(theta * period * DT)
    law = scipy.stats.lognorm(deviation, scale=np.exp(-0.5 * deviation**2))
    # The mass between two points goes to both of them such that its mean stays.
    points, weights = np.polynomial.legendre.leggauss(8)
    inside = edges[:-1, None] + 0.5 * spacing * (points + 1.0)
    mass = 0.5 * spacing * weights * law.pdf(1.0 + inside)
    upper = (inside - edges[:-1, None]) / spacing
    density = np.zeros(len(edges))
    density[:-1] += np.sum(mass * (1.0 - upper), axis=1)
    density[1:] += np.sum(mass * upper, axis=1)
    density[-1] += law.sf(1.0 + cap)
    total, lowest = density, edges[0]
    for _ in range(num_periods - 1):
        total, lowest = scipy.signal.fftconvolve(total, density), lowest + edges[0]
    sums = lowest + spacing * np.arange(len(total))
    expected = np.sum(total * np.maximum(sums, 0.0))
    value = price(CliquetPricer(market, claim, DT), 0, 1.0, theta, 1.0, 0.0)
    assert_allclose(value, [expected], rtol=2e-4, atol=1e-6)


def test_one_period_is_a_call_spread():
    """By the integral, which the last period does without."""
    rng = np.random.default_rng(0)
    moneyness, variance = np.exp(0.05 * rng.standard_normal(10)), rng.gamma(1.0, 0.0625, 10)
    accrued = 0.05 * rng.standard_normal(10)
    arguments = [tf.constant(x) for x in (moneyness, variance, accrued)]
    for steps_left in (20, 7, 2):
        by_calls = PAPER._last_period(steps_left, *arguments)
        by_integral = PAPER._before(0, steps_left, *arguments)
        assert_allclose(by_integral, by_calls, atol=2e-5)


def test_mean_over_the_next_reset_is_the_price():
    spot, variance = (np.float64(x[:, -1]) for x in simulate(PAPER.market, 500, 20, DT, (7, 0)))
    observed = np.stack([spot, variance, spot, np.minimum(spot - 1.0, CLIQUET.cap)])
    later = np.concatenate([price(PAPER, 20, *x) for x in np.array_split(observed, 10, axis=1)])
    (now,) = price(PAPER, 0, 1.0, 0.0625, 1.0, 0.0).numpy()
    assert abs(later.mean() - now) < 4.0 * later.std() / np.sqrt(later.size)


@pytest.mark.parametrize("step", [3, 119, 219, 235])
def test_derivatives(step):
    rng = np.random.default_rng(step)
    spot, variance = np.exp(0.05 * rng.standard_normal(8)), 0.01 + rng.gamma(1.0, 0.06, 8)
    reset, accrued = np.ones(8), np.minimum(rng.normal(-0.03, 0.08, 8), step // 20 * 0.015 - 1e-5)
    observed = [tf.constant(x) for x in (spot, variance, reset, accrued)]
    with tf.GradientTape() as tape:
        tape.watch(observed)
        value = PAPER(step, *observed)
    slopes = tape.gradient(value, observed)
    for number, slope in enumerate(slopes):
        change = np.zeros((4, 1))
        change[number] = 1e-5
        up, down = (price(PAPER, step, *(np.stack(observed) + sign * change)) for sign in (1, -1))
        assert_allclose(slope, (up - down) / 2e-5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [-1, 240, 1.5])
def test_times_without_a_price_are_refused(step):
    with pytest.raises(ValueError, match="step"):
        price(PAPER, step, 1.0, 0.0625, 1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spot", 0.0),
        ("variance", -0.1),
        ("variance", 3.0),
        ("spot_at_last_reset", np.nan),
        ("accrued", np.inf),
        ("accrued", 0.01),
    ],
)
def test_observations_that_cannot_be_are_refused(name, value):
    observed = dict(zip(NAMES, (1.0, 0.0625, 1.0, 0.0), strict=True)) | {name: value}
    with pytest.raises(ValueError, match=f"`{name}`"):
        price(PAPER, 0, *observed.values())


@pytest.mark.parametrize("step", [0, 239])
def test_observations_of_other_numbers_of_states_are_refused(step):
    observed = {"spot": [1.0], "variance": [0.06], "spot_at_last_reset": [1.0], "accrued": [0.0]}
    for name in NAMES[1:]:
        for value in (0.0625, [0.06, 0.06]):
            with pytest.raises(ValueError, match=rf"`{name}` to be of shape \[1\]"):
                PAPER(step, **observed | {name: np.zeros_like(value) + observed[name][0]})
    with pytest.raises(ValueError, match=r"`spot` to be of shape \[n\]"):
        PAPER(step, **observed | {"spot": 1.0})


def test_paths_of_float32_can_be_priced():
    observed = 1.0, 0.0625, 1.0, 0.0
    tensors = [tf.constant([x]) for x in observed]
    assert_allclose(PAPER(0, *tensors), price(PAPER, 0, *observed), rtol=1e-12)


def test_a_time_step_is_positive():
    with pytest.raises(ValueError, match="dt"):
        CliquetPricer(Heston.from_paper(), CLIQUET, dt=0.0)
