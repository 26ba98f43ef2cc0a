"""The gradient of a batch, and of its two halves."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import tfhedge as th
from tfhedge.training.loss_gradient import loss_gradient

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(3,), strikes=(1.0,)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)
OBJECTIVES = {"variance": th.MeanVariance(1000.0), "entropic": th.EntropicRisk(50.0)}


def new_hedger(objective, policy_class):
    problem = th.HedgingProblem(PROBLEM.market, PROBLEM.claim, PROBLEM.instruments, objective)
    keras.utils.set_random_seed(0)
    hedger = th.DeepHedger(problem, policy_class(4, 1, dtype="float64"))
    rng = np.random.default_rng(0)
    hedger.set_weights([w + rng.normal(0.0, 0.3, w.shape) for w in hedger.get_weights()])
    hedger.compile(keras.optimizers.SGD())
    return hedger


def by_graph(hedger, num_parts, num_paths=None):
    """From a batch to its P&L, costs, gradient and halves; of a known number of paths or any."""
    specs = [
        tf.TensorSpec([num_paths, 6, PROBLEM.num_features], tf.float64),
        tf.TensorSpec([num_paths, 6, 2], tf.float64),
        tf.TensorSpec([num_paths], tf.float64),
    ]
    return tf.function(
        lambda *batch: loss_gradient(hedger, batch, num_parts)[:-1],
        input_signature=specs,
        autograph=False,
    )


def episodes(num_paths):
    features, (returns, payoff) = PROBLEM.episodes(num_paths, seed=1)
    return [tf.cast(x, tf.float64) for x in (features, returns, payoff)]


@pytest.mark.parametrize("policy", [th.RecurrentPolicy, th.DensePolicy])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_halves_add_up_to_the_batch(objective, policy):
    """By the compiled route and by Keras', which the two policies take."""
    hedger = new_hedger(objective, policy)
    for whole, by_halves in (
        (by_graph(hedger, 1), by_graph(hedger, 2)),
        (by_graph(hedger, 1, 5), by_graph(hedger, 2, 5)),
    ):
        for num_paths in (5,) if whole.input_signature[0].shape[0] else (1, 2, 5, 40):
            batch = episodes(num_paths)
            pnl, cost, expected, none = whole(*batch)
            assert none is None
            *outcome, gradient, halves = by_halves(*batch)
            for x, y in zip(outcome, (pnl, cost), strict=True):
                assert_allclose(x, y, rtol=1e-12)
            _, weights = objective.path_curvature(pnl, cost)
            middle = (num_paths + 1) // 2
            shares = [tf.reduce_sum(weights[:middle]), tf.reduce_sum(weights[middle:])]
            shares = np.array(shares) / np.sum(weights)
            for x, y, first, second in zip(gradient, expected, *halves, strict=True):
                assert_allclose(x, y, rtol=1e-9, atol=1e-12)
                if num_paths > 1:
                    sums = shares[0] * first + shares[1] * second
                    assert_allclose(sums, y, rtol=1e-9, atol=1e-12)


def test_a_half_has_the_gradient_that_it_has_alone():
    """Of an entropic risk, whose threshold is in no other way of both halves."""
    hedger, batch = new_hedger(th.EntropicRisk(50.0), th.RecurrentPolicy), episodes(24)
    *_, halves = by_graph(hedger, 2)(*batch)
    whole = by_graph(hedger, 1)
    for half, part in zip(halves, (slice(12), slice(12, None)), strict=True):
        _, _, expected, _ = whole(*(x[part] for x in batch))
        for x, y in zip(half, expected, strict=True):
            assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def test_halves_are_as_far_apart_as_independent_estimates():
    """Their difference has, on average, four times the variance of the batch's gradient."""
    hedger = new_hedger(th.MeanVariance(1000.0), th.RecurrentPolicy)
    compute, gradients, differences = by_graph(hedger, 2), [], []
    for features, (returns, payoff) in PROBLEM.dataset(64 * 400, 64, seed=2):
        batch = [tf.cast(x, tf.float64) for x in (features, returns, payoff)]
        _, _, gradient, halves = compute(*batch)
        gradients.append(np.concatenate([np.ravel(x) for x in gradient]))
        first, second = (np.concatenate([np.ravel(x) for x in half]) for half in halves)
        differences.append(np.sum((first - second) ** 2))
    variance = np.sum(np.var(gradients, axis=0, ddof=1))
    error = np.std(differences) / np.sqrt(len(differences))
    assert abs(np.mean(differences) - 4.0 * variance) < 4.0 * error + 0.2 * variance
