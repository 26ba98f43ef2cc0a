"""Tabulated Greeks against those of the pricer itself, by automatic differentiation."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.hedging.claims import Cliquet
from tfhedge.hedging.cliquet_greeks import CliquetGreeks
from tfhedge.hedging.cliquet_price import CliquetPricer
from tfhedge.market.heston import Heston
from tfhedge.market.simulation import simulate

DT = 1.0 / 250.0
MARKET = Heston(2.0, 0.0625, 8.0, 0.0625, 1.0, -0.7, rate=0.03, dividend_yield=0.01)
CLAIM = Cliquet(num_periods=3, period=4, cap=0.015)


@pytest.fixture(scope="module")
def greeks():
    return CliquetGreeks(MARKET, CLAIM, DT)


def errors_of_greeks(greeks, num_paths, steps):
    """Of delta and vega against those of the pricer at some steps, `[2, num_steps, num_paths]`."""
    market, claim = greeks.market, greeks.claim
    spot, variance = simulate(market, num_paths, claim.num_steps, DT, seed=(1, 0))
    delta, vega = (x.numpy() for x in greeks(spot, variance))
    past = claim.observables(spot[:, :-1])
    pricer = CliquetPricer(market, claim, DT)
    errors = []
    for step in steps:
        states = spot, variance, past["spot_at_last_reset"], past["accrued"]
        now, v, reset, accrued = (tf.cast(x[:, step], tf.float64) for x in states)
        with tf.GradientTape() as tape:
            tape.watch([now, v])
            price = pricer(step, now, v, reset, accrued)
        by_spot, by_variance = tape.gradient(price, [now, v])
        errors.append([delta[:, step] - market.spot * by_spot, vega[:, step] - by_variance])
    return np.abs(np.moveaxis(errors, 1, 0))


def test_greeks_of_the_pricer(greeks):
    deltas, vegas = errors_of_greeks(greeks, 40, range(CLAIM.num_steps))
    # Where the price bends, a day before a reset, the tables are coarse.
    assert np.max(deltas) < 0.02
    assert np.mean(deltas) < 5e-4
    assert np.max(vegas) < 5e-3
    assert np.mean(vegas) < 1e-4


@pytest.mark.slow
def test_greeks_of_the_pricer_for_the_claim_of_the_paper():
    greeks = CliquetGreeks(Heston.from_paper(), Cliquet.from_paper(), DT)
    steps = [0, 7, 19, 20, 58, 59, 110, 150, 178, 199, 211, 219, 220, 230, 239]
    deltas, vegas = errors_of_greeks(greeks, 20, steps)
    assert np.max(deltas) < 0.05
    assert np.mean(deltas) < 5e-4
    assert np.max(vegas) < 5e-3
    assert np.mean(vegas) < 1e-4


def test_a_claim_that_cannot_pay_any_more(greeks):
    spot = np.full([1, 13], 2.0)
    spot[:, 4:] = 1.8
    assert_allclose(greeks(spot, np.full_like(spot, 0.04))[0][:, 4:], 0.0)


def test_a_single_period_is_two_calls():
    claim = Cliquet(num_periods=1, period=4, cap=0.015)
    spot, variance = simulate(MARKET, 3, 4, DT, seed=(2, 0))
    delta, _ = CliquetGreeks(MARKET, claim, DT)(spot, variance)
    above, below = (
        dataclasses.replace(MARKET, spot=MARKET.spot + bump).vanilla_price(
            [MARKET.spot, MARKET.spot * (1.0 + claim.cap)], 4 * DT, True
        )
        for bump in (1e-3, -1e-3)
    )
    call, capped = (above - below) / 2e-3
    assert_allclose(delta[:, 0], np.full(3, call - capped), rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spot": np.ones([2, 12])}, "Expected spot and variance of shape"),
        ({"spot": np.zeros([2, 13])}, "Expected `spot` to be positive"),
        ({"variance": np.full([2, 13], np.nan)}, "Expected `variance` to be non-negative"),
    ],
)
def test_paths_that_are_none(greeks, change, message):
    paths = {"spot": np.ones([2, 13]), "variance": np.ones([2, 13])} | change
    with pytest.raises(ValueError, match=message):
        greeks(**paths)
