"""Statistics against NumPy, and the three strategies of a report against direct computation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.evaluation.report import (
    LEARNED,
    NO_HEDGE,
    WITHOUT_OPTIONS,
    HedgeReport,
    HedgeStatistics,
    evaluate_hedge,
)

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(3, 2), strikes=(1.01, 1.0)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)


def policy(features):
    """Trades something, from the last three features."""
    return features[..., -3:] * 0.1 + 0.05


@pytest.mark.parametrize(("num_paths", "num_worst"), [(1, 1), (99, 1), (100, 1), (1000, 10)])
def test_statistics_equal_numpy(num_paths, num_worst):
    rng = np.random.default_rng(0)
    pnl, cost = rng.normal(-0.01, 0.02, num_paths), rng.uniform(size=num_paths)
    statistics = HedgeStatistics.of(pnl.astype(np.float32), cost, PROBLEM.objective)
    variance = np.mean(pnl**2) - np.mean(pnl) ** 2
    assert_allclose(statistics.mean, np.mean(pnl), rtol=1e-6)
    assert_allclose(statistics.std, np.sqrt(max(variance, 0.0)), rtol=1e-5, atol=1e-8)
    assert_allclose(statistics.expected_shortfall, -np.mean(sorted(pnl)[:num_worst]), rtol=1e-6)
    assert_allclose(statistics.cost, np.mean(cost), rtol=1e-12)
    assert_allclose(statistics.loss, 1000.0 * variance + np.mean(cost), rtol=1e-5)


def test_sums_are_not_in_float32():
    pnl = np.full(2_000_000, 0.1, np.float32)
    statistics = HedgeStatistics.of(pnl, pnl, PROBLEM.objective)
    assert_allclose([statistics.mean, statistics.cost], np.float32(0.1), rtol=1e-9)
    assert statistics.std < 1e-8


@pytest.mark.parametrize(("num_paths", "batch_size"), [(30, 30), (30, 8), (3, 10)])
def test_strategies_equal_direct_computation(num_paths, batch_size):
    report = evaluate_hedge(PROBLEM, policy, PROBLEM.dataset(num_paths, batch_size, seed=6))
    features, (returns, payoff) = PROBLEM.episodes(num_paths, seed=6)
    features, returns, payoff = (np.asarray(x, np.float64) for x in (features, returns, payoff))
    gains, costs = policy(features) * returns, np.abs(policy(features)) * [1e-4, 1e-2, 1e-2]
    expected = {
        NO_HEDGE: (-payoff, 0.0 * payoff),
        WITHOUT_OPTIONS: (gains[..., 0].sum(1) - payoff, costs[..., 0].sum(1)),
        LEARNED: (gains.sum((1, 2)) - payoff, costs.sum((1, 2))),
    }
    assert list(report.pnl) == list(report.statistics) == list(expected)
    for name, (pnl, cost) in expected.items():
        assert_allclose(report.pnl[name], pnl, rtol=1e-5, atol=1e-6)
        statistics = report.statistics[name]
        assert_allclose(statistics.mean, pnl.mean(), rtol=1e-4, atol=1e-6)
        assert_allclose(statistics.std, pnl.std(), rtol=1e-4)
        assert_allclose(statistics.cost, cost.mean(), rtol=1e-5)
        assert_allclose(statistics.loss, 1000.0 * pnl.var() + cost.mean(), rtol=1e-3)


def test_a_policy_is_traced_once_for_each_of_two_sizes_of_batches():
    traces = []

    def traced(features):
        traces.append(features.shape)
        return policy(features)

    evaluate_hedge(PROBLEM, traced, PROBLEM.dataset(20, 8))
    assert len(traces) <= 2


def test_a_report_prints_as_a_table():
    statistics = HedgeStatistics(-0.00624, 0.02128, 0.0789, 0.0, 0.4529)
    lines = str(HedgeReport({}, {NO_HEDGE: statistics, LEARNED: statistics})).splitlines()
    assert [line.split() for line in lines] == [
        ["mean", "std", "1%", "ES", "cost", "loss"],
        ["no", "hedge", "-0.00624", "0.02128", "0.07890", "0.00000", "0.4529"],
        ["learned", "-0.00624", "0.02128", "0.07890", "0.00000", "0.4529"],
    ]
    assert_array_equal([len(line) for line in lines], len(lines[0]))
