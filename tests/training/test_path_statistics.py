"""What is logged along the path, against gradients path by path and differences of actions.

In float64, as differences of actions ask for.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import tfhedge as th
from tfhedge.training.gauss_newton import majorizing_costs
from tfhedge.training.path_statistics import PathStatistics

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(2,), strikes=(1.01,)),
    objective=th.MeanVariance(risk_aversion=100.0),
)
NUM_GRADIENTS, NUM_QUADRATIC_PATHS = 5, 12


@pytest.fixture(scope="module", params=["dh-kfac", "adam"])
def case(request):
    """A hedger after two steps, and what is logged then."""
    keras.utils.set_random_seed(0)
    policy = th.RecurrentPolicy(units=3, num_blocks=1, dtype="float64")
    hedger = th.DeepHedger(PROBLEM, policy)
    hedger.compile(th.DHKFAC() if request.param == "dh-kfac" else "adam")
    hedger.set_weights([np.random.default_rng(0).normal(0.0, 0.4, w.shape) for w in hedger.weights])
    episodes = PROBLEM.episodes(16, seed=1)
    episodes = tf.nest.map_structure(lambda x: tf.cast(x, tf.float64), episodes)
    callback = PathStatistics(episodes, NUM_GRADIENTS, NUM_QUADRATIC_PATHS)
    history = hedger.fit(PROBLEM.dataset(32, 16), callbacks=[callback], verbose=0).history
    return hedger, episodes, history


def test_the_gradient_variance_is_that_of_the_gradients_of_single_paths(case):
    hedger, (features, (returns, payoff)), history = case
    mean = tf.reduce_mean(PROBLEM.pnl(hedger(features), returns, payoff))
    gradients = []
    for i in range(NUM_GRADIENTS):
        path = slice(i, i + 1)
        with tf.GradientTape() as tape:
            actions = hedger(features[path])
            pnl = PROBLEM.pnl(actions, returns[path], payoff[path])
            loss = 100.0 * (pnl - mean) ** 2 + PROBLEM.cost(actions)
        gradients.append(
            np.concatenate([np.ravel(g) for g in tape.gradient(loss, hedger.trainable_variables)])
        )
    expected = np.trace(np.cov(gradients, rowvar=False))
    assert_allclose(history["gradient_variance"], [expected], rtol=1e-6)


def test_the_overshoot_is_that_of_the_actions_along_the_preconditioned_gradient(case):
    hedger, (features, (returns, payoff)), history = case
    if not isinstance(hedger.optimizer, th.DHKFAC):
        assert "overshoot" not in history
        return
    with tf.GradientTape() as tape:
        actions = hedger(features)
        loss = PROBLEM.objective.loss(PROBLEM.pnl(actions, returns, payoff), PROBLEM.cost(actions))
    gradients = tape.gradient(loss, hedger.trainable_variables)
    direction = hedger.optimizer.precondition(gradients)
    estimated = sum(np.sum(g * v) for g, v in zip(gradients, direction, strict=True))

    counts = np.full(len(features), NUM_QUADRATIC_PATHS / len(features))
    paths = np.searchsorted(np.cumsum(counts), np.arange(NUM_QUADRATIC_PATHS) + 0.5)
    start, few = hedger.get_weights(), tf.gather(features, paths)
    size = 1e-5 / max(np.abs(v).max() for v in direction)
    ahead_and_behind = []
    for h in (size, -size):
        hedger.set_weights([w + h * v for w, v in zip(start, direction, strict=True)])
        ahead_and_behind.append(hedger(few))
    hedger.set_weights(start)
    change = (ahead_and_behind[0] - ahead_and_behind[1]) / (2.0 * size)
    quadratic_costs = majorizing_costs(PROBLEM.costs, hedger(few))
    gram = PROBLEM.objective.curvature_gram(
        [change],
        tf.gather(returns, paths),
        quadratic_costs,
        tf.repeat(tf.constant([[2.0 * 100.0], [1.0]], tf.float64), NUM_QUADRATIC_PATHS, axis=1),
    )
    assert_allclose(history["overshoot"], [gram[0, 0] / estimated], rtol=1e-6)


def gradient_variance(hedger, episodes, num_gradients):
    """What is logged of the hedger as it is."""
    callback = PathStatistics(episodes, num_gradients)
    callback.set_model(hedger)
    callback.on_epoch_end(0, logs := {})
    return logs["gradient_variance"]


def test_fewer_paths_than_asked_for_are_averaged_as_what_they_are(case):
    hedger, episodes, _ = case
    few = tf.nest.map_structure(lambda x: x[:4], episodes)
    variances = [gradient_variance(hedger, few, num_gradients) for num_gradients in (4, 32)]
    assert_allclose(*variances, rtol=1e-12)


def test_weights_that_are_frozen_do_not_count(case):
    hedger, episodes, history = case
    if isinstance(hedger.optimizer, th.DHKFAC):  # which does not train such a policy
        return
    inlet, *others = hedger.policy.cell.linear_layers
    parts = []
    for frozen in ([inlet], others):
        for layer in frozen:
            layer.trainable = False
        parts.append(gradient_variance(hedger, episodes, NUM_GRADIENTS))
        for layer in frozen:
            layer.trainable = True
    assert_allclose(sum(parts), history["gradient_variance"][-1], rtol=1e-10)


def test_a_variance_is_of_two_paths_or_more():
    episodes = PROBLEM.episodes(4, seed=1)
    with pytest.raises(ValueError, match="two paths or more"):
        PathStatistics(episodes, num_gradients=1)
    with pytest.raises(ValueError, match="Received: num_gradients=32 and 1 paths"):
        PathStatistics(PROBLEM.episodes(1, seed=1))
    for name in ("num_gradients", "num_quadratic_paths"):
        for value in (0, -1, 2.5):
            with pytest.raises(ValueError, match=f"Expected `{name}` to be a positive integer"):
                PathStatistics(episodes, **{name: value})
