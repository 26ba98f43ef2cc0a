"""A desk's hedges: what they hold, against Greeks one by one, and what they leave of risk."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.hedging.claims import Cliquet
from tfhedge.hedging.cliquet_greeks import CliquetGreeks
from tfhedge.hedging.instruments import FixedGrid, FloatingGrid
from tfhedge.hedging.objectives import MeanVariance
from tfhedge.hedging.problem import HedgingProblem
from tfhedge.hedging.strategies import DeltaHedge, DeltaVegaHedge, MinimumVarianceHedge
from tfhedge.market.fourier import heston_price
from tfhedge.market.heston import Heston

MARKET = Heston(2.0, 0.0625, 8.0, 0.0625, 1.0, -0.7, rate=0.03, dividend_yield=0.01)
PROBLEM = HedgingProblem(
    market=MARKET,
    claim=Cliquet(num_periods=3, period=4, cap=0.015),
    instruments=FloatingGrid(maturities=(4, 8), strikes=(1.01, 0.98)),
    objective=MeanVariance(risk_aversion=1000.0),
)


@pytest.fixture(scope="module")
def greeks():
    return CliquetGreeks(MARKET, PROBLEM.claim, PROBLEM.dt)


@pytest.fixture(scope="module")
def paths():
    return PROBLEM.simulate(500, seed=1)


def option_greeks(problem, option, spot, variance, bought, time):
    """Delta and vega at a time of the option bought at another, by the pricing formula itself."""
    grid, market = problem.instruments, problem.market
    strike = grid.strikes[option - 1]
    now, v = (tf.constant(x[:, time], tf.float64) for x in (spot, variance))
    terms = {"strike": strike * np.float64(spot[:, bought]), "is_call": strike > 1.0}
    terms["maturity"] = (grid.maturities[option - 1] - time + bought) * problem.dt
    with tf.GradientTape() as tape:
        tape.watch([now, v])
        price = heston_price(**terms, **dataclasses.asdict(market) | {"spot": now, "v0": v})
    delta, vega = tape.gradient(price, [now, v])
    return delta, vega / market.spot


def test_delta_is_held(greeks, paths):
    actions = DeltaHedge(PROBLEM, greeks)(*paths)
    assert not actions[..., 1:].any()
    growth = np.exp(MARKET.dividend_yield * PROBLEM.dt)
    held = np.zeros(len(actions))
    for time in range(PROBLEM.num_steps):
        held = growth * held + actions[:, time, 0]
        assert_allclose(held, greeks(*paths).delta[:, time], atol=1e-6)


@pytest.mark.parametrize(("option", "interval", "share"), [(1, 1, 1.0), (1, 4, 0.5), (2, 3, 1.0)])
def test_a_share_of_the_vega_is_gone_after_each_trade(greeks, paths, option, interval, share):
    actions = DeltaVegaHedge(PROBLEM, greeks, option, interval, share)(*paths)
    assert not actions[PROBLEM.availability[np.newaxis] * np.ones_like(actions) == 0.0].any()
    spot, variance = (x.numpy() for x in paths)
    of_claim, life = greeks(*paths), PROBLEM.instruments.maturities[option - 1]
    growth = np.exp(MARKET.dividend_yield * PROBLEM.dt)
    held = np.zeros(len(spot))
    for time in range(PROBLEM.num_steps):
        delta, vega = -of_claim.delta[:, time].numpy(), -of_claim.vega[:, time].numpy()
        for bought in range(max(0, time - life + 1), time + 1):
            of_option = option_greeks(PROBLEM, option, spot, variance, bought, time)
            delta += actions[:, bought, option] * of_option[0]
            vega += actions[:, bought, option] * of_option[1]
        held = growth * held + actions[:, time, 0]
        along_spot = MARKET.rho * MARKET.xi * MARKET.spot / spot[:, time]
        assert_allclose(held + delta + along_spot * vega, 0.0, atol=2e-3)
        if time % interval == 0 and time <= PROBLEM.num_steps - life:
            before = vega - actions[:, time, option] * of_option[1]  # the one just bought
            assert_allclose(vega, (1.0 - share) * before, atol=2e-4)
        else:
            assert not actions[:, time, option].any()


def test_hedges_reduce_the_variance_in_their_order(greeks, paths):
    _, targets = PROBLEM.episodes_along(*paths)
    nothing = np.zeros([500, PROBLEM.num_steps, 3], np.float32)
    hedges = (
        DeltaHedge(PROBLEM, greeks),
        MinimumVarianceHedge(PROBLEM, greeks),
        DeltaVegaHedge(PROBLEM, greeks, option=1, interval=1),
    )
    actions = [nothing, *(hedge(*paths) for hedge in hedges)]
    none, delta, least, delta_vega = (np.std(PROBLEM.pnl(x, *targets)) for x in actions)
    assert delta < 0.5 * none
    assert least < 0.98 * delta
    assert delta_vega < 0.95 * least


def test_the_hedge_of_least_variance_is_a_regression_on_the_spot(greeks, paths):
    """Of the price's change over a moment, by both derivatives, on the change of the spot."""
    spot, variance = (x.numpy()[:20] for x in paths)
    actions = MinimumVarianceHedge(PROBLEM, greeks)(spot, variance)
    growth = np.exp(MARKET.dividend_yield * PROBLEM.dt) ** np.arange(PROBLEM.num_steps)
    held = growth * np.cumsum(actions[..., 0] / growth, axis=1)
    delta, vega = (x.numpy() for x in greeks(spot, variance))
    rng, root = np.random.default_rng(0), np.sqrt(variance[:, :-1])
    first, other = rng.normal(size=[2, 400_000, 1, 1])
    second = MARKET.rho * first + np.sqrt(1.0 - MARKET.rho**2) * other
    for i in range(0, 20, 5):
        relative = spot[i, :-1:3] / MARKET.spot * root[i, ::3] * first[:, 0]
        price = delta[i, ::3] * relative + vega[i, ::3] * MARKET.xi * root[i, ::3] * second[:, 0]
        slope = np.mean(price * relative, axis=0) / np.mean(relative**2, axis=0)
        assert_allclose(held[i, ::3], slope, atol=5e-3)


def test_bad_arguments(greeks):
    other = dataclasses.replace(PROBLEM, market=dataclasses.replace(MARKET, spot=1.0))
    with pytest.raises(ValueError, match="Expected the Greeks of the problem's claim"):
        DeltaHedge(other, greeks)
    fixed = FixedGrid.chain(expiries=(4,), strikes=(1.0,))
    problem = dataclasses.replace(PROBLEM, instruments=fixed)
    with pytest.raises(ValueError, match="Expected a problem with a FloatingGrid"):
        DeltaVegaHedge(problem, greeks, option=1, interval=4)
    with pytest.raises(ValueError, match="Expected `option` to be an integer from 1 to 2"):
        DeltaVegaHedge(PROBLEM, greeks, option=3, interval=4)
    with pytest.raises(ValueError, match="Expected `interval` to be a positive integer"):
        DeltaVegaHedge(PROBLEM, greeks, option=1, interval=0)
    with pytest.raises(ValueError, match=r"Expected `share` to be a number in \(0.0, 1.0\]"):
        DeltaVegaHedge(PROBLEM, greeks, option=1, interval=1, share=0.0)


def test_an_option_without_vega_hedges_none(greeks, paths):
    far = dataclasses.replace(PROBLEM, instruments=FloatingGrid((2,), (1.5,)))
    with pytest.raises(ValueError, match="Expected an option with a vega"):
        DeltaVegaHedge(far, greeks, option=1, interval=1)(*paths)
