"""What actions are, against loops over the definition."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.hedging.controls import CONTROLS, Controls
from tfhedge.workflow import config

GRIDS = {
    "floating": (th.FloatingGrid(maturities=(2, 3), strikes=(1.01, 1.0)), [True, False, False]),
    "fixed": (th.FixedGrid((2, 6), (1.01, 1.0), (True, False)), [True, True, True]),
    "underlying alone": (th.FloatingGrid(maturities=(), strikes=()), [True]),
}


@pytest.fixture(params=GRIDS.values(), ids=GRIDS)
def case(request):
    """A problem, and which of its instruments can be held."""
    grid, held = request.param
    problem = th.HedgingProblem(
        market=th.Heston.from_paper(),
        claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
        instruments=grid,
        objective=th.MeanVariance(risk_aversion=1000.0),
    )
    return problem, held


def random_actions(problem, seed=0):
    shape = [4, problem.num_steps, problem.num_instruments]
    return np.random.default_rng(seed).normal(size=shape) * problem.availability


@pytest.mark.parametrize("kind", CONTROLS)
def test_trades_are_changes_of_positions_in_what_can_be_held(case, kind):
    problem, held = case
    actions = random_actions(problem)
    trades = Controls.of(problem, kind).trades(tf.constant(actions)).numpy()
    for n, t, i in np.ndindex(*actions.shape):
        expected = actions[n, t, i]
        if kind == "positions" and held[i] and problem.availability[t, i] and t:
            expected -= actions[n, t - 1, i]
        assert trades[n, t, i] == expected


def test_actions_are_the_positions_that_their_trades_lead_to(case):
    problem, held = case
    actions = random_actions(problem)
    trades = Controls.of(problem, "positions").trades(tf.constant(actions))
    positions = np.cumsum(trades, axis=1) * problem.availability
    assert_allclose(positions[..., held], actions[..., held], rtol=1e-12, atol=1e-12)


def test_a_position_in_the_underlying_earns_the_return_of_its_own_day():
    problem = th.HedgingProblem(
        market=th.Heston(2.0, 0.0625, 8.0, 0.0625, 1.0, -0.7, rate=0.3, dividend_yield=2.0),
        claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
        instruments=th.FloatingGrid(maturities=(), strikes=()),
        objective=th.MeanVariance(risk_aversion=1000.0),
    )
    spot, variance = problem.simulate(4, seed=0)
    _, (returns, _) = problem.episodes_along(spot, variance)
    position = random_actions(problem)
    trades = Controls.of(problem, "positions").trades(tf.constant(position)).numpy()
    discounted = spot.numpy() / 2.0 * np.exp(-0.3 * problem.dt * np.arange(7))
    of_the_day = np.exp(2.0 * problem.dt) * discounted[:, 1:] - discounted[:, :-1]
    expected = np.sum(position[..., 0] * of_the_day, axis=1)
    assert_allclose(np.einsum("nti,nti->n", trades, returns), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", CONTROLS)
def test_gradients_by_actions_are_those_of_automatic_differentiation(case, kind):
    problem, _ = case
    controls = Controls.of(problem, kind)
    actions, by_trades = (tf.constant(random_actions(problem, seed)) for seed in (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(actions)
        result = tf.reduce_sum(controls.trades(actions) * by_trades)
    assert_allclose(controls.by_actions(by_trades), tape.gradient(result, actions), rtol=1e-12)


def test_trades_are_as_exact_as_the_actions(case):
    problem, _ = case
    actions = tf.constant(random_actions(problem), tf.float32)
    assert Controls.of(problem, "positions").trades(actions).dtype == tf.float32


def test_a_hedger_that_decides_on_trades_has_its_policy_s_actions_as_trades(case):
    problem, _ = case
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(3, num_blocks=1), controls="trades")
    features, _ = problem.episodes(2, seed=0)
    assert_array_equal(hedger(features), hedger.policy(features, problem.availability))


def test_unknown_controls_are_refused(case):
    with pytest.raises(ValueError, match=r"`controls` to be one of .*controls='greeks'"):
        th.DeepHedger(case[0], th.RecurrentPolicy(3, num_blocks=1), controls="greeks")


def test_the_command_line_knows_the_same():
    assert config.CONTROLS == CONTROLS
