import dataclasses
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.market import premiums
from tfhedge.market.fourier import vanilla_price
from tfhedge.market.heston import Heston
from tfhedge.market.premiums import PremiumSurface, PriceSurface

GRID = {
    10: [0.99, 1.0, 1.01],
    20: [0.97, 0.99, 1.0, 1.01, 1.03],
    40: [0.95, 1.0, 1.05],
    80: [0.91, 1.0, 1.09],
    120: [0.85, 0.95, 1.0, 1.05, 1.15],
}
MATURITY = np.array([days / 250 for days, strikes in GRID.items() for _ in strikes])
LOG_MONEYNESS = np.log([strike for strikes in GRID.values() for strike in strikes])
IS_CALL = LOG_MONEYNESS >= 0

MARKETS = {
    "paper": Heston.from_paper(),
    "feller violated": Heston(100.0, 0.04, 0.5, 0.04, 1.0, -0.9),
    "slow reversion": Heston(1.0, 0.04, 1.5, 0.02, 1.5, -0.95),
    "little volatility of variance": Heston(1.0, 0.04, 2.0, 0.04, 0.1, 0.5),
    "far from its mean": Heston(1.0, 0.5, 3.0, 0.02, 0.5, -0.3),
}


@pytest.fixture(scope="module")
def surface():
    return PremiumSurface(Heston.from_paper(), LOG_MONEYNESS, MATURITY, IS_CALL)


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_error_is_below_2e_7_of_spot(market):
    surface = PremiumSurface(market, LOG_MONEYNESS, MATURITY, IS_CALL)
    variance = np.append(0.0, np.geomspace(1e-7, surface.max_variance, 1000)).astype(np.float32)
    expected = vanilla_price(market, variance[:, np.newaxis], LOG_MONEYNESS, MATURITY, IS_CALL)
    assert_allclose(surface(variance), expected, rtol=0, atol=2e-7)


def test_range_covers_the_stationary_law_and_the_start():
    # The paper's stationary law is exponential with mean 1/16.
    surface = PremiumSurface(Heston.from_paper(), [0.0], [0.04], [True])
    assert_allclose(surface.max_variance, -np.log(1e-9) / 16, rtol=1e-8)
    surface = PremiumSurface(MARKETS["far from its mean"], [0.0], [0.04], [True])
    assert surface.max_variance >= 4.0


def test_options_that_are_worth_nothing_cost_nothing():
    surface = PremiumSurface(Heston.from_paper(), [5.0, -5.0], [0.04, 0.04], [True, False])
    assert_allclose(surface([0.0, 0.0625, 1.0]), np.zeros((3, 2)), rtol=0, atol=2e-7)


def test_variance_out_of_range_is_clipped(surface):
    inside = surface([0.0, surface.max_variance])
    assert_array_equal(surface([-0.5, 100.0]), inside)


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_premiums_are_bounded_and_rise_with_the_variance(market):
    surface = PremiumSurface(market, LOG_MONEYNESS, MATURITY, IS_CALL)
    inside = np.geomspace(1e-7, surface.max_variance, 1000)
    outside = surface.max_variance * np.geomspace(1.0, 1e6, 100)
    variance = np.concatenate([[-1e6, -1e-3, 0.0], inside, outside]).astype(np.float32)
    premiums = surface(variance).numpy()
    assert np.all(premiums > -2e-7)
    assert np.all(premiums < np.where(IS_CALL, 1.0, np.exp(LOG_MONEYNESS)))
    assert np.all(np.diff(premiums, axis=0) > -2e-7)  # but for the rounding of float32
    assert_array_equal(np.diff(premiums[-100:], axis=0), 0.0)


def test_premiums_of_a_market_with_drift_are_prices_today_per_unit_of_spot():
    market = Heston(250.0, 0.04, 2.0, 0.05, 0.6, -0.6, rate=0.05, dividend_yield=0.02)
    surface = PremiumSurface(market, LOG_MONEYNESS, MATURITY, IS_CALL)
    for v0 in (0.0, 0.04, 0.3):
        today = dataclasses.replace(market, v0=v0)
        price = today.vanilla_price(250.0 * np.exp(LOG_MONEYNESS), MATURITY, IS_CALL)
        assert_allclose(surface(v0), price / 250.0, rtol=0, atol=2e-7)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0)])
def test_options_come_last(surface, shape):
    prices = surface(tf.fill(shape, 0.0625))
    assert prices.shape == (*shape, 19)
    assert prices.dtype == tf.float32
    one_by_one = np.broadcast_to(surface([0.0625])[0], prices.shape)
    assert_allclose(prices, one_by_one, rtol=0, atol=1e-7)


def test_one_trace_serves_all_sizes_inside_a_dataset(surface):
    traces = []

    def price(variance):
        traces.append(variance)
        return surface(variance)

    variances = tf.data.Dataset.from_tensor_slices(np.linspace(0, 1, 10, dtype=np.float32))
    batches = list(variances.batch(4).map(price))
    assert len(traces) == 1
    assert [batch.shape for batch in batches] == [(4, 19), (4, 19), (2, 19)]
    assert_allclose(tf.concat(batches, 0), surface(np.linspace(0, 1, 10)), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("log_moneyness", "maturity", "is_call", "message"),
    [
        ([0.0], [0.04, 0.08], [True], r"one shape .* Received shapes: \(1,\), \(2,\), \(1,\)"),
        (0.0, 0.04, True, r"Received shapes: \(\), \(\), \(\)"),
        ([], [], [], r"Received shapes: \(0,\), \(0,\), \(0,\)"),
        ([0.0, 0.1], [0.04, 0.0], [True, True], r"`maturity` to be positive.*0\.04 0\. "),
        ([np.nan], [0.04], [True], r"`log_moneyness` to be finite.*nan"),
    ],
)
def test_bad_options_are_refused(log_moneyness, maturity, is_call, message):
    with pytest.raises(ValueError, match=message):
        PremiumSurface(Heston.from_paper(), log_moneyness, maturity, is_call)


def test_prices_that_are_not_resolved_are_refused():
    market = Heston(1.0, 1.0, 1.0, 1e-300, 0.01, -0.9)
    with pytest.raises(ValueError, match="resolved by 256 Chebyshev points"):
        PremiumSurface(market, [0.1], [1.0], [True])


# Lives are tried at both ends of the expansion, 1 and the longest one, and in between.
LIVES = {
    "paper": [1, 2, 3, 7, 30, 101, 250],
    "feller violated": [1, 4, 20],
    "little volatility of variance": [1, 2, 11, 20],
    "far from its mean": [1],
    "with drift": [1, 9, 40],
}
DRIFT = Heston(100.0, 0.03, 2.0, 0.04, 0.6, 0.7, rate=0.05, dividend_yield=0.02)


@pytest.fixture(scope="module", params=LIVES)
def price_surface(request):
    lives = LIVES[request.param]
    market = MARKETS.get(request.param, DRIFT)
    return market, PriceSurface(market, 1 / 250, max(lives)), lives


def test_error_of_a_price_is_below_5e_7_of_spot_and_strike(price_surface):
    """At strikes from 30 standard deviations below to as many above the spot, dense around it."""
    market, surface, lives = price_surface
    variance = np.append(0.0, np.geomspace(1e-6, surface.max_variance, 40)).astype(np.float32)
    widest = 30.0 * np.sqrt(surface.max_variance * max(lives) / 250)
    tail = np.geomspace(1e-4, min(widest, 2.0), 60)
    strikes = np.exp(np.concatenate([-tail, [0.0], tail])).astype(np.float32)
    for life in lives:
        for is_call in (True, False):
            state = np.ones([len(variance), 1]), variance[:, np.newaxis]
            prices = surface(*state, strikes, [is_call] * len(strikes), [life])[:, 0]
            log_moneyness = np.log(strikes.astype(np.float64))
            exact = vanilla_price(
                market, variance[:, np.newaxis], log_moneyness, life / 250, is_call
            )
            assert_allclose(
                prices / np.maximum(1, strikes), exact / np.maximum(1, strikes), 0, 5e-7
            )


def test_prices_are_those_of_the_market_today(price_surface):
    """In money, for a spot that is not 1, and whatever the market's drift."""
    market, surface, lives = price_surface
    strikes, is_call = market.spot * np.float32([0.9, 1.0, 1.1]), [False, True, True]
    for life in lives:
        price = surface([[market.spot]], [[market.v0]], strikes, is_call, [life])[0, 0]
        exact = market.vanilla_price(strikes, life / 250, is_call)
        assert_allclose(price, exact, rtol=0, atol=6e-7 * market.spot)


def test_prices_far_from_the_money_are_intrinsic_values(price_surface):
    market, surface, lives = price_surface
    strikes = np.float32([1e-30, 1e-3, 1e3, 1e30])
    forward, cash = np.exp(np.array([-market.dividend_yield, -market.rate]) * lives[0] / 250)
    for variance in (0.0, 0.0625, 100.0):
        state = [[1.0]], [[variance]], strikes
        calls = surface(*state, [True] * 4, lives[:1])[0, 0]
        assert_allclose(calls, np.maximum(forward - cash * strikes, 0.0), rtol=0, atol=5e-7)
        puts = surface(*state, [False] * 4, lives[:1])[0, 0]
        assert_allclose(puts, np.maximum(cash * strikes - forward, 0.0), rtol=5e-7, atol=5e-7)


def test_variances_out_of_the_surface_s_range_are_clipped(price_surface):
    _, surface, lives = price_surface
    contracts = [0.9, 1.0], [False, True], lives[:1]
    ends = surface([[1.0], [1.0]], [[0.0], [surface.max_variance]], *contracts)
    outside = surface([[1.0], [1.0]], [[-0.5], [1e6]], *contracts)
    assert_array_equal(outside, ends)


def test_each_step_has_its_own_life_and_prices_scale_with_the_spot(price_surface):
    _, surface, lives = price_surface
    rng = np.random.default_rng(0)
    spot = rng.uniform(90.0, 110.0, [3, len(lives)])
    variance = rng.exponential(0.0625, [3, len(lives)])
    together = surface(spot, variance, [95.0, 100.0], [False, True], lives)
    assert together.shape == (3, len(lives), 2)
    for t, life in enumerate(lives):
        state = spot[:, t, np.newaxis] / 100.0, variance[:, t, np.newaxis]
        alone = surface(*state, [0.95, 1.0], [False, True], [life])
        assert_allclose(together[:, t] / 100.0, alone[:, 0], rtol=0, atol=5e-7)


@pytest.mark.parametrize("num_points", [(20, 18), (48, 8)])
def test_surfaces_that_are_not_resolved_are_refused(num_points):
    message = r"Expected the prices to be resolved by \(\d+, \d+, \d+\) Chebyshev points"
    with (
        mock.patch.object(premiums, "_NUM_SURFACE_POINTS", [num_points]),
        pytest.raises(ValueError, match=message),
    ):
        PriceSurface(MARKETS["paper"], 1 / 250, 1)
