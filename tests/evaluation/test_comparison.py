"""Hedges on the same paths: against the report of one policy, and scipy's bootstrap."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from tfhedge.evaluation.comparison import compare_hedges, run_hedges
from tfhedge.evaluation.report import LEARNED, NO_HEDGE
from tfhedge.hedging.claims import Cliquet
from tfhedge.hedging.instruments import FixedGrid, FloatingGrid
from tfhedge.hedging.objectives import EntropicRisk, MeanVariance
from tfhedge.hedging.problem import HedgingProblem
from tfhedge.market.heston import Heston
from tfhedge.policy.rollout import RecurrentPolicy
from tfhedge.training.hedger import DeepHedger

PROBLEM = HedgingProblem(
    market=Heston.from_paper(),
    claim=Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=FloatingGrid(maturities=(3,), strikes=(1.01,)),
    objective=MeanVariance(risk_aversion=1000.0),
)
FIXED = dataclasses.replace(
    PROBLEM, instruments=FixedGrid.chain(expiries=(3, 6), strikes=(0.99, 1.01))
)


def idle(problem):
    shape = [problem.num_steps, problem.num_instruments]
    return problem, lambda spot, variance: np.zeros([len(spot), *shape], np.float32)


def test_the_numbers_of_the_report():
    hedger = DeepHedger(PROBLEM, RecurrentPolicy(units=4, num_blocks=1))
    hedger.compile()

    def learned(spot, variance):
        return hedger.actions(PROBLEM.features(spot, variance), differentiable=False)

    hedges = {LEARNED: (PROBLEM, learned), NO_HEDGE: idle(PROBLEM), "fixed": idle(FIXED)}
    outcomes = run_hedges(hedges, num_paths=300, seed=(3, 2), batch_size=128)
    report = hedger.evaluate_hedge(num_paths=300, seed=(3, 2), batch_size=128)
    rows = compare_hedges(outcomes, PROBLEM.objective, num_resamples=10)
    for name, row in report.statistics.items():
        if name in rows:
            assert_allclose(outcomes[name][0], report.pnl[name], atol=1e-7)
            for field in ("std", "cost", "loss"):
                assert_allclose(getattr(rows[name], field).value, getattr(row, field), rtol=1e-6)
    assert_allclose(outcomes["fixed"], outcomes[NO_HEDGE])


OBJECTIVES = {
    MeanVariance(risk_aversion=300.0): lambda pnl, cost: (
        300.0 * pnl.var(axis=-1) + cost.mean(axis=-1)
    ),
    EntropicRisk(risk_aversion=20.0): lambda pnl, cost: (
        np.log(np.exp(20.0 * (cost - pnl)).mean(axis=-1)) / 20.0
    ),
}


@pytest.mark.parametrize(("objective", "loss"), OBJECTIVES.items(), ids=map(str, OBJECTIVES))
def test_intervals_of_scipy(objective, loss):
    rng = np.random.default_rng(0)
    common = rng.normal(0.0, 0.01, 3000)
    pnl = [common, common + rng.gamma(1.0, 0.002, 3000)]
    cost = rng.gamma(2.0, 0.001, [2, 3000])
    outcomes = {name: np.stack(x) for name, *x in zip("ab", pnl, cost, strict=True)}
    row = compare_hedges(outcomes, objective, num_resamples=4000)["b"]

    statistics = {
        "std": lambda p, c, q, d, axis: q.std(axis=axis),
        "skewness": lambda p, c, q, d, axis: scipy.stats.skew(q, axis=axis),
        "cost": lambda p, c, q, d, axis: d.mean(axis=axis),
        "loss": lambda p, c, q, d, axis: loss(q, d),
        "excess_loss": lambda p, c, q, d, axis: loss(q, d) - loss(p, c),
    }
    sample = pnl[0], cost[0], pnl[1], cost[1]
    for name, statistic in statistics.items():
        value = statistic(*sample, axis=-1)
        interval = scipy.stats.bootstrap(
            sample, statistic, paired=True, n_resamples=4000, method="percentile", rng=1, batch=100
        ).confidence_interval
        ours = getattr(row, name)
        assert_allclose(ours.value, value, rtol=1e-9)
        width = interval.high - interval.low
        assert_allclose([ours.low, ours.high], interval, atol=0.1 * width)


@pytest.mark.parametrize("shift", [-0.8, 0.8])
def test_cash_shifts_entropic_risks_and_their_intervals(shift):
    """At losses whose exponentials are infinite or zero."""
    objective, rng = EntropicRisk(risk_aversion=1000.0), np.random.default_rng(0)
    outcomes = rng.normal(0.0, 0.01, [2, 2, 200])
    shifted = outcomes + np.reshape([shift, 0.0], [2, 1])
    before, after = (
        compare_hedges(dict(zip("ab", x, strict=True)), objective)["b"] for x in (outcomes, shifted)
    )
    for end in ("value", "low", "high"):
        assert_allclose(getattr(after.loss, end), getattr(before.loss, end) - shift, rtol=1e-12)
        excess = getattr(after.excess_loss, end)
        assert_allclose(excess, getattr(before.excess_loss, end), atol=1e-12)


def test_intervals_of_losses_that_are_orders_of_magnitude_apart():
    """A sample without the largest loss has the next, whose exponential is e^1000 times less."""
    outcomes = {"one": np.stack([-np.arange(100.0), np.zeros(100)])}
    loss = compare_hedges(outcomes, EntropicRisk(risk_aversion=1000.0))["one"].loss
    assert 94.0 < loss.low < 99.0
    assert_allclose([loss.value, loss.high], 99.0, atol=0.01)


CHANGES = {
    "claim": Cliquet(num_periods=2, period=3, cap=0.02),
    "instruments": dataclasses.replace(PROBLEM.instruments, option_cost=0.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_problems_that_differ(name):
    other = dataclasses.replace(PROBLEM, **{name: CHANGES[name]})
    with pytest.raises(ValueError, match="Expected problems that differ in their instruments"):
        run_hedges({"one": idle(PROBLEM), "other": idle(other)}, num_paths=10, seed=0)


def test_hedges_that_are_none_or_trade_in_something_else():
    with pytest.raises(ValueError, match="Expected at least one hedge"):
        run_hedges({}, num_paths=10, seed=0)
    _, trades_of_other = idle(FIXED)
    message = r"`actions of x` to be of shape \[10, 6, 2\]. .* \(10, 6, 5\)"
    with pytest.raises(ValueError, match=message):
        run_hedges({"x": (PROBLEM, trades_of_other)}, num_paths=10, seed=0)


@pytest.mark.parametrize(
    ("outcomes", "complaint"),
    [
        ({}, "P&L and costs of the same paths"),
        ({"one": np.zeros([2, 3]), "other": np.zeros([2, 4])}, r"\(2, 3\).*\(2, 4\)"),
        ({"one": np.zeros(3)}, r"\[2, num_paths\]"),
        ({"one": np.zeros([2, 0])}, r"\(2, 0\)"),
        ({"one": np.zeros([2, 3]), "other": np.full([2, 3], np.nan)}, "outcomes of other"),
    ],
)
def test_outcomes_that_cannot_be_compared_are_refused(outcomes, complaint):
    with pytest.raises(ValueError, match=complaint):
        compare_hedges(outcomes, PROBLEM.objective)
