"""Hedges beside each other on the same paths, with bootstrap intervals."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from tfhedge import checks

RESAMPLES_AT_ONCE = 20


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Row:
    """What one hedge did; amounts in units of the claim's notional.

    Attributes:
        std: Standard deviation of the P&L before costs.
        skewness: Its skewness.
        cost: Mean transaction costs.
        loss: The problem's objective.
        excess_loss: By how much its loss is higher than that of the first hedge.
    """

    std: Interval
    skewness: Interval
    cost: Interval
    loss: Interval
    excess_loss: Interval


def run_hedges(hedges, num_paths, seed, batch_size=2048):
    """Profits and losses of several hedges on the same paths.

    Args:
        hedges: By name, pairs of a `HedgingProblem` and a function from spot and variance, each
            `[num_paths, num_steps + 1]`, to actions. The problems' markets, claims and time steps
            are the same, and so are the costs; what can be traded may differ.
        num_paths: Number of paths.
        seed: An integer, or a pair of them to tell streams of one seed apart.
        batch_size: Paths simulated at once.

    Returns:
        P&L before costs and costs by name, each float64 NumPy `[2, num_paths]`.

    Raises:
        ValueError: If there are no hedges, or their problems differ in more than what can be
            traded, or a number is not a positive integer, or actions have another shape.
    """
    checks.positive_integer("num_paths", num_paths)
    checks.positive_integer("batch_size", batch_size)
    if not hedges:
        raise ValueError("Expected at least one hedge. Received: hedges={}")
    problems = [problem for problem, _ in hedges.values()]
    first = problems[0]
    for problem in problems:
        costs = [(x.instruments.spot_cost, x.instruments.option_cost) for x in (first, problem)]
        same = dataclasses.replace(problem, instruments=first.instruments) == first
        if not same or costs[0] != costs[1]:
            raise ValueError(
                "Expected problems that differ in their instruments alone, at the same costs. "
                f"Received: {first} and {problem}"
            )
    outcomes = {name: [] for name in hedges}
    for start in range(0, num_paths, batch_size):
        size = min(batch_size, num_paths - start)
        spot, variance = first.simulate(size, seed, start)
        targets = {id(problem): problem.episodes_along(spot, variance)[1] for problem in problems}
        for name, (problem, actions_of) in hedges.items():
            actions = tf.cast(actions_of(spot, variance), tf.float32)
            shape = [size, problem.num_steps, problem.num_instruments]
            checks.shape(f"actions of {name}", actions, shape)
            pnl = problem.pnl(actions, *targets[id(problem)])
            outcomes[name].append(np.float64([pnl, problem.cost(actions)]))
    return {name: np.concatenate(parts, axis=1) for name, parts in outcomes.items()}


def compare_hedges(outcomes, objective, num_resamples=1000, seed=0):
    """Statistics of hedges on the same paths, with intervals by the paired percentile bootstrap.

    Args:
        outcomes: What `run_hedges` returns.
        objective: The problems' objective.
        num_resamples: Number of samples of paths, with replacement; each is one for all hedges.
        seed: Their seed.

    Returns:
        A `Row` by name.

    Raises:
        ValueError: If `num_resamples` is not a positive integer, or there are no outcomes, or not
            of the same number of paths, or numbers that are not finite.

    Reference: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Example:
    >>> from tfhedge.hedging.objectives import MeanVariance
    >>> pnl, cost = np.random.default_rng(0).normal(0.0, 0.01, [2, 2000])
    >>> outcomes = {"one": np.stack([pnl, abs(cost)]), "twice": np.stack([2 * pnl, abs(cost)])}
    >>> row = compare_hedges(outcomes, MeanVariance(risk_aversion=1000.0))["twice"]
    >>> print(f"{row.std.value:.4f} in [{row.std.low:.4f}, {row.std.high:.4f}]")
    0.0200 in [0.0194, 0.0206]
    """
    checks.positive_integer("num_resamples", num_resamples)
    shapes = {name: np.shape(outcome) for name, outcome in outcomes.items()}
    num_paths = max((shape[-1] for shape in shapes.values() if shape), default=0)
    if not num_paths or set(shapes.values()) != {(2, num_paths)}:
        raise ValueError(
            "Expected for each hedge P&L and costs of the same paths, [2, num_paths]. "
            f"Received shapes: {shapes}"
        )
    for name, outcome in outcomes.items():
        checks.elements(f"outcomes of {name}", outcome, np.isfinite, "finite numbers")
    pnl, cost = np.stack(list(outcomes.values()), axis=1)
    centred = pnl - pnl.mean(axis=1, keepdims=True)
    powers = np.stack([centred, centred**2, centred**3, cost])

    @tf.function(
        input_signature=[tf.TensorSpec([num_paths, *x], tf.float64) for x in ([], [], [None])],
        autograph=False,
    )
    def losses(pnl, cost, counts):
        """Computes one hedge's loss on samples of paths, `[num_samples]`."""
        init = tf.repeat(objective.init()[:, tf.newaxis], tf.shape(counts)[1], axis=1)
        return objective.result(objective.update(init, pnl, cost, counts))

    def statistics(counts):
        """Computes the fields of `Row` for samples of paths, `[5, num_hedges, num_samples]`.

        The counts say how many times a path is in a sample, `[num_paths, num_samples]`.
        """
        mean, square, cube, mean_cost = np.tensordot(powers, counts, axes=1) / num_paths
        std = np.sqrt(square - mean**2)
        skewness = (cube - 3.0 * mean * square + 2.0 * mean**3) / np.maximum(std, 1e-300) ** 3
        counts = tf.constant(counts)
        loss = np.stack([losses(*x, counts) for x in zip(pnl, cost, strict=True)])
        return np.stack([std, skewness, mean_cost, loss, loss - loss[0]])

    rng = np.random.default_rng(seed)
    draws = (rng.integers(num_paths, size=num_paths) for _ in range(num_resamples))
    counts = (np.bincount(draw, minlength=num_paths) for draw in draws)
    batches = iter(lambda: list(itertools.islice(counts, RESAMPLES_AT_ONCE)), [])
    sample = [statistics(np.float64(np.stack(batch, axis=1))) for batch in batches]
    low, high = np.quantile(np.concatenate(sample, axis=-1), [0.025, 0.975], axis=-1)
    value = statistics(np.ones([num_paths, 1]))[..., 0]
    intervals = np.stack([value, low, high], axis=-1)  # [statistic, hedge, 3]
    return {
        name: Row(*(Interval(*numbers) for numbers in intervals[:, i].tolist()))
        for i, name in enumerate(outcomes)
    }
