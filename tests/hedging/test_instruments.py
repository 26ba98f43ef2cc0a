"""Every grid against loops written from its definition; a new grid is one more row in CASES."""

import dataclasses
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import QuantLib as ql
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.hedging.instruments import FixedGrid, FloatingGrid
from tfhedge.market.fourier import vanilla_price
from tfhedge.market.heston import Heston

NUM_STEPS, MARKET, DT = 6, Heston.from_paper(), 1 / 365


@dataclasses.dataclass
class Case:
    grid: object
    lives: str  # the name of the field
    num_times: int  # at which there are premiums
    alive: Callable  # of life and time
    premium: Callable  # of a path's spot and variance, option and time
    returns: Callable  # of a path's spot and premiums, option, time and rate


def payoff(x, strike, is_call):
    return max(x - strike if is_call else strike - x, 0.0)


def floating(*args, **kwargs):
    """Section 2.1 (b), one number after the other."""
    grid = FloatingGrid(*args, **kwargs) if args else FloatingGrid.from_paper(**kwargs)

    def premium(spot, variance, i, t):
        k, maturity = math.log(grid.strikes[i]), grid.maturities[i] * DT
        return vanilla_price(MARKET, variance[t], k, maturity, k > 0.0)

    def returns(spot, premiums, i, t, rate):
        expiry, strike = t + grid.maturities[i], grid.strikes[i] * spot[t]
        if expiry > NUM_STEPS:
            return 0.0
        paid = math.exp(-rate * expiry) * payoff(spot[expiry], strike, grid.strikes[i] > 1.0)
        return paid - math.exp(-rate * t) * premiums[t, i] * spot[t]

    return Case(
        grid, "maturities", NUM_STEPS, lambda tau, t: t + tau <= NUM_STEPS, premium, returns
    )


def fixed(*args, **kwargs):
    """Section 2.1 (a), likewise."""
    grid = FixedGrid(*args, **kwargs)

    def premium(spot, variance, i, t):
        expiry, strike, is_call = grid.expiries[i], grid.strikes[i], grid.is_call[i]
        if t >= expiry:
            return payoff(spot[expiry], strike, is_call)
        k, maturity = math.log(strike / spot[t]), (expiry - t) * DT
        return spot[t] * vanilla_price(MARKET, variance[t], k, maturity, is_call)

    def returns(spot, premiums, i, t, rate):
        expiry, strike = grid.expiries[i], grid.strikes[i]
        if t >= expiry:
            return 0.0
        last = min(expiry, NUM_STEPS)
        value = premiums[last, i]
        if expiry <= NUM_STEPS:
            value = payoff(spot[expiry], strike, grid.is_call[i])
        return math.exp(-rate * last) * value - math.exp(-rate * t) * premiums[t, i]

    return Case(grid, "expiries", NUM_STEPS + 1, lambda e, t: t < e, premium, returns)


CASES = {
    "sorted": floating((1, 1, 3, 6), (0.98, 1.02, 1.0, 1.05)),
    "interleaved": floating((3, 1, 3, 3, 2, 1), (1.01, 1.0, 0.97, 1.03, 1.02, 0.99)),
    "longer than the horizon": floating((7, 2, 100, 7), (1.0, 0.99, 1.01, 1.02)),
    "one option": floating([2], [1.0], spot_cost=0.0, option_cost=0.25),
    "of the paper": floating(spot_cost=0.5, option_cost=0.25),
    "the underlying alone": floating((), ()),
    "fixed": fixed((6, 1, 6, 3), (1.0, 0.98, 1.02, 1.01), (True, False, False, True)),
    "fixed, longer than the horizon": fixed((9, 5, 9), (95.0, 1.0, 0.01), (True, False, True)),
    "one fixed option": fixed([1], [1.0], [False], spot_cost=0.0, option_cost=0.25),
}
FIXED = [name for name in CASES if "fixed" in name]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_fixed_grid = pytest.mark.parametrize("case", [CASES[name] for name in FIXED], ids=FIXED)


@pytest.fixture(scope="module")
def pricing():
    """The function that prices a grid's options, made once for each grid."""
    made = {}

    def price(grid):
        if id(grid) not in made:
            made[id(grid)] = grid.premiums(MARKET, DT)
        return made[id(grid)]

    return price


def paths(num_paths=4):
    rng = np.random.default_rng(0)
    steps = rng.normal(0.0, 0.03, [num_paths, NUM_STEPS + 1])
    variance = rng.exponential(0.0625, [num_paths, NUM_STEPS + 1])
    spot = np.exp(np.cumsum(steps, axis=1))
    return spot.astype(np.float32), variance.astype(np.float32)


def random_premiums(case, num_paths=4):
    shape = [num_paths, case.num_times, case.grid.num_instruments - 1]
    premiums = np.random.default_rng(1).uniform(0.0, 0.1, shape).astype(np.float32)
    if case.num_times > NUM_STEPS:  # once a contract has expired, its premium is what it has paid
        spot, _ = paths(num_paths)
        for n, t, i in np.ndindex(*shape):
            if t >= case.grid.expiries[i]:
                premiums[n, t, i] = case.premium(spot[n], None, i, t)
    return premiums


def returns_by_definition(case, spot, premiums, rate, dividend_yield):
    spot, premiums = spot.astype(np.float64), premiums.astype(np.float64)
    returns = np.zeros([len(spot), NUM_STEPS, case.grid.num_instruments])
    for n, t, i in np.ndindex(*returns.shape):
        if i == 0:
            units = math.exp(dividend_yield * (NUM_STEPS - t))
            sold = math.exp(-rate * NUM_STEPS) * units * spot[n, -1]
            returns[n, t, i] = sold - math.exp(-rate * t) * spot[n, t]
        else:
            returns[n, t, i] = case.returns(spot[n], premiums[n], i - 1, t, rate)
    return returns


@every_case
@pytest.mark.parametrize("drift", [(0.0, 0.0), (0.02, 0.01)])
def test_returns_equal_loops_over_the_definition(case, drift):
    (spot, _), premiums = paths(), random_premiums(case)
    returns = case.grid.returns(tf.constant(spot), tf.constant(premiums), *drift)
    assert returns.dtype == tf.float32
    expected = returns_by_definition(case, spot, premiums, *drift)
    assert_allclose(returns, expected, rtol=1e-5, atol=3e-7)


@every_case
def test_what_is_not_available_returns_nothing(case):
    available = case.grid.availability(NUM_STEPS)
    assert available.shape == (NUM_STEPS, case.grid.num_instruments)
    assert np.all(available[:, 0] == 1.0)
    for t in range(NUM_STEPS):
        expected = [float(case.alive(life, t)) for life in getattr(case.grid, case.lives)]
        assert_array_equal(available[t, 1:], expected)
    returns = case.grid.returns(tf.constant(paths()[0]), tf.constant(random_premiums(case)))
    assert np.all(returns.numpy()[:, available == 0.0] == 0.0)


@every_case
def test_costs_are_those_of_the_underlying_and_of_options(case):
    expected = [case.grid.spot_cost] + [case.grid.option_cost] * len(case.grid.strikes)
    assert_array_equal(case.grid.costs, np.float32(expected))


@every_case
def test_premiums_are_the_exact_prices_one_by_one(case, pricing):
    spot, variance = paths(num_paths=2)
    premiums = pricing(case.grid)(spot, variance)
    assert premiums.shape == (2, case.num_times, len(case.grid.strikes))
    assert premiums.dtype == tf.float32
    exact = np.zeros(premiums.shape)
    for n, t, i in np.ndindex(*exact.shape):
        exact[n, t, i] = case.premium(spot[n].astype(np.float64), variance[n], i, t)
    # Of the deepest contract in the table the price is that of 95 spots.
    assert_allclose(premiums, exact, rtol=0, atol=5e-7 * np.max(exact, initial=1.0))


@every_fixed_grid
def test_buying_now_and_selling_later_gives_the_difference_of_prices(case, pricing):
    spot, variance = map(tf.constant, paths())
    prices = pricing(case.grid)(spot, variance).numpy()
    returns = case.grid.returns(spot, prices).numpy()[..., 1:]
    for buy in range(NUM_STEPS):
        for sell in range(buy, NUM_STEPS):
            gain = prices[:, sell] - prices[:, buy]
            assert_allclose(returns[:, buy] - returns[:, sell], gain, rtol=0, atol=2e-6)
    held = np.sum(np.diff(prices, axis=1), axis=1)  # day after day, from 0 to the horizon
    assert_allclose(returns[:, 0], held, rtol=0, atol=2e-6)


@every_fixed_grid
def test_holdings_are_the_sums_of_past_trades_in_what_is_alive(case):
    shape = [3, NUM_STEPS, case.grid.num_instruments]
    actions = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    holdings = case.grid.holdings(tf.constant(actions))
    expiries = [NUM_STEPS, *case.grid.expiries]
    for n, t, i in np.ndindex(*shape):
        expected = sum(actions[n, : t + 1, i]) if t < expiries[i] else 0.0
        assert_allclose(holdings[n, t, i], expected, rtol=1e-5, atol=1e-6)


@every_fixed_grid
def test_trades_gain_what_their_holdings_gain_from_day_to_day(case, pricing):
    """Summation by parts: trades times returns to the horizon, holdings times changes of price."""
    spot, variance = map(tf.constant, paths())
    prices = pricing(case.grid)(spot, variance)
    shape = [len(spot), NUM_STEPS, case.grid.num_instruments]
    actions = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    gains = np.sum(actions * case.grid.returns(spot, prices), axis=1, dtype=np.float64)
    changes = np.diff(np.concatenate([spot[..., None], prices], axis=-1), axis=1)
    by_day = np.sum(case.grid.holdings(actions) * changes, axis=1, dtype=np.float64)
    assert_allclose(by_day, gains, rtol=1e-5, atol=2e-5)


def test_a_chain_has_every_strike_at_every_expiry():
    chain = FixedGrid.chain([2, 5], [0.9, 1.0, 1.1], option_cost=0.5)
    assert chain.expiries == (2, 2, 2, 5, 5, 5)
    assert chain.strikes == (0.9, 1.0, 1.1) * 2
    assert chain.is_call == (False, False, True) * 2
    assert_array_equal(chain.costs, np.float32([1e-4] + [0.5] * 6))


def test_prices_are_those_of_quantlib():
    today, spot, strike, variance = ql.Date(1, 1, 2020), 99.0, 100.0, 0.09
    ql.Settings.instance().evaluationDate = today
    flat = ql.YieldTermStructureHandle(ql.FlatForward(today, 0.0, ql.Actual365Fixed()))
    quote = ql.QuoteHandle(ql.SimpleQuote(spot))
    parameters = (variance, MARKET.kappa, MARKET.theta, MARKET.xi, MARKET.rho)
    model = ql.HestonModel(ql.HestonProcess(flat, flat, quote, *parameters))
    engine = ql.AnalyticHestonEngine(model, 1e-13, 1_000_000)
    grid = FixedGrid((30, 30), (strike, strike), (True, False))
    path = np.full([1, 31], spot, np.float32), np.full([1, 31], variance, np.float32)
    prices = grid.premiums(MARKET, 1 / 365)(*path)[0]
    for days in (1, 2, 7, 30):
        for i, kind in enumerate((ql.Option.Call, ql.Option.Put)):
            expiry = ql.EuropeanExercise(today + days)
            option = ql.VanillaOption(ql.PlainVanillaPayoff(kind, strike), expiry)
            option.setPricingEngine(engine)
            assert_allclose(prices[30 - days, i], option.NPV(), rtol=0, atol=5e-7 * strike)


@pytest.mark.parametrize("name", ["interleaved", "the underlying alone", "fixed"])
def test_a_graph_serves_every_number_of_paths(name, pricing):
    grid = CASES[name].grid
    price = pricing(grid)

    def returns(spot, variance):
        return grid.returns(spot, price(spot, variance))

    spec = tf.TensorSpec([None, NUM_STEPS + 1])
    graph = tf.function(returns).get_concrete_function(spec, spec)
    for num_paths in (1, 5):
        spot, variance = map(tf.constant, paths(num_paths))
        expected = returns(spot, variance)
        assert_allclose(graph(spot, variance), expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maturities": (1,), "strikes": (1.0, 1.1)}, "of one length. Received: 1 and 2"),
        ({"maturities": 1}, "`maturities` to be a list. Received: maturities=1"),
        ({"strikes": 1.0}, "`strikes` to be a list. Received: strikes=1.0"),
        ({"maturities": (0,)}, "`maturities` to be a positive integer.*maturities=0"),
        ({"maturities": (2.0,)}, "`maturities` to be a positive integer.*maturities=2.0"),
        ({"strikes": (0.0,)}, "`strikes` to be a positive number.*strikes=0.0"),
        ({"strikes": (math.nan,)}, "`strikes` to be a positive number.*strikes=nan"),
        ({"spot_cost": -1e-4}, "`spot_cost` to be a non-negative number.*spot_cost=-0.0001"),
        ({"option_cost": math.inf}, "`option_cost` to be a non-negative number.*=inf"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FloatingGrid(**{"maturities": (1,), "strikes": (1.0,), **arguments})
    arguments = {name.replace("maturities", "expiries"): x for name, x in arguments.items()}
    with pytest.raises(ValueError, match=message.replace("maturities", "expiries")):
        FixedGrid(**{"expiries": (1,), "strikes": (1.0,), "is_call": (True,), **arguments})


@pytest.mark.parametrize(
    ("is_call", "message"),
    [
        ((True, False), "`is_call` and `strikes` to be of one length. Received: 2 and 1"),
        ((), "`is_call` and `strikes` to be of one length. Received: 0 and 1"),
        (("call",), "`is_call` to be True or False. Received: is_call='call'"),
        ((1,), "`is_call` to be True or False. Received: is_call=1"),
        (True, "`is_call` to be a list. Received: is_call=True"),
    ],
)
def test_options_are_calls_or_puts(is_call, message):
    with pytest.raises(ValueError, match=message):
        FixedGrid((1,), (1.0,), is_call)


def test_grids_of_arrays_and_of_lists_are_those_of_tuples():
    lives, strikes, is_call = (3, 1), (1.0, 1.1), (False, True)
    for convert in (list, np.array):
        grid = FixedGrid(convert(lives), convert(strikes), convert(is_call))
        assert grid == FixedGrid(lives, strikes, is_call)
        assert hash(grid) == hash(FixedGrid(lives, strikes, is_call))
        grid = FloatingGrid(convert(lives), convert(strikes))
        assert hash(grid) == hash(FloatingGrid(lives, strikes))


@pytest.mark.parametrize("shape", [(4, 6, 2), (6, 3), (3,)])
def test_actions_of_another_shape_have_no_holdings(shape):
    grid = FixedGrid((3, 1), (1.0, 1.1), (False, True))
    message = rf"`actions` to be of shape \[num_paths, num_steps, 3\]. .*: {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        grid.holdings(tf.zeros(shape))


def test_a_fixed_grid_has_options():
    with pytest.raises(ValueError, match="Expected at least one option"):
        FixedGrid(expiries=(), strikes=(), is_call=())
