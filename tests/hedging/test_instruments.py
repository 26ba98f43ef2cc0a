"""The floating grid against loops written from its definition; a new grid is one row in GRIDS."""

import math

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.hedging.instruments import FloatingGrid
from tfhedge.market.fourier import vanilla_price
from tfhedge.market.heston import Heston

NUM_STEPS = 6
GRIDS = {
    "sorted": FloatingGrid((1, 1, 3, 6), (0.98, 1.02, 1.0, 1.05)),
    "interleaved": FloatingGrid((3, 1, 3, 3, 2, 1), (1.01, 1.0, 0.97, 1.03, 1.02, 0.99)),
    "longer than the horizon": FloatingGrid((7, 2, 100, 7), (1.0, 0.99, 1.01, 1.02)),
    "one option": FloatingGrid([2], [1.0], spot_cost=0.0, option_cost=0.25),
    "of the paper": FloatingGrid.from_paper(spot_cost=0.5, option_cost=0.25),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def paths_and_premiums(grid, num_paths=4):
    rng = np.random.default_rng(0)
    steps = rng.normal(0.0, 0.03, [num_paths, NUM_STEPS + 1])
    premiums = rng.uniform(0.0, 0.1, [num_paths, NUM_STEPS, grid.num_instruments - 1])
    return np.exp(np.cumsum(steps, axis=1)).astype(np.float32), premiums.astype(np.float32)


def returns_by_definition(grid, spot, premiums):
    """Section 2.1 (b), one number after the other."""
    returns = np.zeros([len(spot), NUM_STEPS, grid.num_instruments])
    for n, x in enumerate(spot.astype(np.float64)):
        for t in range(NUM_STEPS):
            returns[n, t, 0] = x[NUM_STEPS] - x[t]
            for i, (tau, k) in enumerate(zip(grid.maturities, grid.strikes, strict=True)):
                if t + tau <= NUM_STEPS:
                    intrinsic = x[t + tau] - k * x[t]
                    payoff = max(intrinsic if math.log(k) > 0 else -intrinsic, 0.0)
                    returns[n, t, i + 1] = payoff - premiums[n, t, i] * x[t]
    return returns


@every_grid
def test_returns_equal_loops_over_the_definition(grid):
    spot, premiums = paths_and_premiums(grid)
    returns = grid.returns(tf.constant(spot), tf.constant(premiums))
    assert returns.dtype == tf.float32
    assert_allclose(returns, returns_by_definition(grid, spot, premiums), rtol=1e-5, atol=2e-7)


@every_grid
def test_options_are_available_if_they_expire_in_time(grid):
    available = grid.availability(NUM_STEPS)
    assert available.shape == (NUM_STEPS, grid.num_instruments)
    assert np.all(available[:, 0] == 1.0)
    for t in range(NUM_STEPS):
        expected = [float(t + maturity <= NUM_STEPS) for maturity in grid.maturities]
        assert_array_equal(available[t, 1:], expected)
    returns = grid.returns(*map(tf.constant, paths_and_premiums(grid)))
    assert np.all(returns.numpy()[:, available == 0.0] == 0.0)


@every_grid
def test_costs_are_those_of_the_underlying_and_of_options(grid):
    expected = [grid.spot_cost] + [grid.option_cost] * len(grid.maturities)
    assert_array_equal(grid.costs, np.float32(expected))


@every_grid
def test_premiums_are_those_of_calls_above_the_spot_and_puts_elsewhere(grid):
    market, dt, variance = Heston.from_paper(), 1 / 250, np.array([[0.01, 0.0625], [0.2, 0.5]])
    premiums = grid.premiums(market, dt)(variance)
    assert premiums.shape == (2, 2, len(grid.maturities))
    for i, (maturity, strike) in enumerate(zip(grid.maturities, grid.strikes, strict=True)):
        price = vanilla_price(market, variance, math.log(strike), maturity * dt, strike > 1.0)
        assert_allclose(premiums[..., i], price, rtol=0, atol=2e-7)


def test_a_graph_serves_every_number_of_paths():
    grid = GRIDS["interleaved"]
    specs = [tf.TensorSpec([None, NUM_STEPS + 1]), tf.TensorSpec([None, NUM_STEPS, 6])]
    graph = tf.function(grid.returns).get_concrete_function(*specs)
    for num_paths in (1, 5):
        spot, premiums = map(tf.constant, paths_and_premiums(grid, num_paths))
        expected = grid.returns(spot, premiums)
        assert_allclose(graph(spot, premiums), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maturities": (1,), "strikes": (1.0, 1.1)}, "of one length. Received: 1 and 2"),
        ({"maturities": (), "strikes": ()}, "at least one option"),
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
