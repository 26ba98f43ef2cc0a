"""How well a policy hedges, beside no hedge and beside itself without its option trades."""

import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class HedgeStatistics:
    """One row of a report; amounts in units of the claim's notional.

    Attributes:
        mean: Mean of the P&L before costs, without the premium received for the claim.
        std: Its standard deviation.
        expected_shortfall: Mean loss in the worst 1 % of the paths, before costs.
        cost: Mean transaction costs.
        loss: The problem's objective.
    """

    mean: float
    std: float
    expected_shortfall: float
    cost: float
    loss: float

    @classmethod
    def of(cls, pnl, cost, objective):
        """Statistics of paths with P&L before costs and costs, each `[num_paths]`.

        Example:
        >>> from tfhedge.hedging.objectives import MeanVariance
        >>> pnl, cost = np.array([0.01, -0.03]), np.array([0.001, 0.003])
        >>> statistics = HedgeStatistics.of(pnl, cost, MeanVariance(risk_aversion=100.0))
        >>> f"{statistics.std:.3f} {statistics.expected_shortfall:.3f} {statistics.loss:.3f}"
        '0.020 0.030 0.042'
        """
        pnl, cost = np.asarray(pnl, np.float64), np.asarray(cost, np.float64)
        worst = np.sort(pnl)[: max(1, round(0.01 * pnl.size))]
        figures = (pnl.mean(), pnl.std(), -worst.mean(), cost.mean())
        loss = objective.loss(pnl, cost)
        return cls(*(float(figure) for figure in (*figures, loss)))


@dataclasses.dataclass(frozen=True)
class HedgeReport:
    """P&L, costs and statistics by strategy; `print(report)` shows the statistics as a table.

    Attributes:
        pnl: P&L before costs by strategy, each `[num_paths]`.
        statistics: `HedgeStatistics` by strategy.
    """

    pnl: dict[str, np.ndarray]
    statistics: dict[str, HedgeStatistics]

    def __str__(self):
        head = f"{'':<30}{'mean':>10}{'std':>10}{'1% ES':>10}{'cost':>10}{'loss':>10}"
        rows = [
            f"{name:<30}{row.mean:>10.5f}{row.std:>10.5f}{row.expected_shortfall:>10.5f}"
            f"{row.cost:>10.5f}{row.loss:>10.4f}"
            for name, row in self.statistics.items()
        ]
        return "\n".join([head, *rows])


def histogram(pnl, num_bins=120):
    """Histograms of the P&L of several strategies in the same bins, for `figures.pnl_histogram`.

    The bins reach from the least of the strategies' 0.01 % quantiles to the largest of their
    99.99 % quantiles.

    Args:
        pnl: P&L by strategy, each `[num_paths]`.
        num_bins: Number of bins.

    Returns:
        A JSON-ready dictionary with `edges`, and by strategy `densities` and `stds`.

    Example:
    >>> data = histogram({"no hedge": np.array([0.0, 0.25, 0.5, 1.0])}, num_bins=2)
    >>> print(np.round(data["densities"]["no hedge"], 2))  # the extremes are left out
    [0.5 0.5]
    """
    low, high = np.transpose([np.quantile(x, [1e-4, 1.0 - 1e-4]) for x in pnl.values()])
    edges = np.linspace(low.min(), high.max(), num_bins + 1)
    width = edges[1] - edges[0]
    return {
        "edges": edges.tolist(),
        "densities": {
            name: (np.histogram(x, edges)[0] / (len(x) * width)).tolist() for name, x in pnl.items()
        },
        "stds": {name: float(np.std(x, dtype=np.float64)) for name, x in pnl.items()},
    }


NO_HEDGE = "no hedge"
WITHOUT_OPTIONS = "learned, without its options"
LEARNED = "learned"


def evaluate_hedge(problem, policy, dataset):
    """Runs a policy over a dataset of episodes.

    Args:
        problem: The `HedgingProblem`.
        policy: A function from features to actions.
        dataset: Batches as `problem.dataset` makes them.

    Returns:
        A `HedgeReport` on no hedge, the policy without its option trades (its trades in the
        underlying are those it makes with them), and the policy.
    """
    underlying_only = np.eye(1, problem.num_instruments, dtype=np.float32)

    features_spec, targets_spec = dataset.element_spec

    @tf.function(autograph=False, input_signature=[features_spec, *targets_spec])
    def outcomes(features, returns, payoff):
        actions = tf.cast(policy(features), returns.dtype)
        strategies = (tf.zeros_like(actions), actions * underlying_only, actions)
        return [(problem.pnl(u, returns, payoff), problem.cost(u)) for u in strategies]

    batches = [outcomes(features, *targets) for features, targets in dataset]
    pnl, statistics = {}, {}
    strategies = zip(*batches, strict=True)
    for name, parts in zip((NO_HEDGE, WITHOUT_OPTIONS, LEARNED), strategies, strict=True):
        pnl[name], cost = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        statistics[name] = HedgeStatistics.of(pnl[name], cost, problem.objective)
    return HedgeReport(pnl, statistics)
