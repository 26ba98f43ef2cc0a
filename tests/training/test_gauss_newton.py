"""The Gauss-Newton matrix of a tiny policy, dense and in float64, against what DH-KFAC is given."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.hedging.controls import Controls
from tfhedge.training.gauss_newton import GaussNewton, majorizing_costs

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(2,), strikes=(1.01,)),
    objective=th.MeanVariance(risk_aversion=10.0),
)
CONTRACTS = th.FixedGrid(expiries=(2, 6), strikes=(1.01, 1.0), is_call=(True, False))
# A problem, and what the policy decides on.
PROBLEMS = {
    "floating grid, trades": (PROBLEM, "trades"),
    "floating grid": (PROBLEM, "positions"),
    "fixed grid": (dataclasses.replace(PROBLEM, instruments=CONTRACTS), "positions"),
}
QUADRATIC_COST = 8.0
NUM_PATHS = 3


@pytest.fixture(scope="module", params=PROBLEMS.values(), ids=PROBLEMS)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def problem(case):
    return case[0]


@pytest.fixture(scope="module")
def episodes(problem):
    features, (returns, _) = problem.episodes(NUM_PATHS, seed=0)
    return tf.cast(features, tf.float64), tf.cast(returns, tf.float64)


@pytest.fixture(scope="module")
def policy(case, episodes):
    problem, _ = case
    policy = th.RecurrentPolicy(units=2, num_blocks=1, dtype="float64")
    policy(episodes[0], problem.availability)
    rng = np.random.default_rng(0)
    policy.set_weights([rng.normal(0.0, 0.4, w.shape) for w in policy.weights])
    return policy


@pytest.fixture(scope="module")
def curvature_of(case, policy):
    """From features and returns to their curvature."""
    problem, kind = case
    controls = Controls.of(problem, kind)

    def curvature_of(features, returns):
        of_no_matter = tf.zeros(features.shape[:1], tf.float64)
        return GaussNewton(
            problem,
            policy,
            controls,
            QUADRATIC_COST,
            features,
            returns,
            payoff=of_no_matter,
            pnl=of_no_matter,
            cost=of_no_matter,
        )

    return curvature_of


@pytest.fixture(scope="module")
def dense(case, policy, episodes):
    """B = E[J' H_u J], eq. (12), over the weights in their order, less what the threshold takes."""
    (problem, kind), (features, returns) = case, episodes
    hedger = th.DeepHedger(problem, policy, kind)
    weights = [w.value for w in policy.trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        actions = tf.reshape(hedger(features), [NUM_PATHS, -1])
    jacobian = tape.jacobian(actions, weights, experimental_use_pfor=False)
    jacobian = np.concatenate([np.reshape(j, [*actions.shape, -1]) for j in jacobian], axis=-1)
    costs = np.tile(problem.instruments.costs.astype(np.float64), problem.num_steps)
    matrices, gains = [], []
    for J, r in zip(jacobian, np.reshape(returns, actions.shape), strict=True):
        gains.append(r @ J)
        H = 2.0 * 10.0 * np.outer(r, r) + 2.0 * np.diag(QUADRATIC_COST * costs)
        matrices.append(J.T @ H @ J)
    mean = np.mean(gains, axis=0)
    return np.mean(matrices, axis=0) - 2.0 * 10.0 * np.outer(mean, mean)


def test_gram_is_the_dense_matrix_seen_from_the_directions(curvature_of, policy, episodes, dense):
    rng = np.random.default_rng(1)
    directions = [[rng.normal(size=w.shape) for w in policy.trainable_variables] for _ in range(3)]
    flat = np.stack([np.concatenate([x.ravel() for x in d]) for d in directions])
    expected = flat @ dense @ flat.T
    tensors = [[tf.constant(x) for x in d] for d in directions]

    @tf.function(autograph=False)
    def gram(*episodes):
        return curvature_of(*episodes).quadratic(tensors, NUM_PATHS)[1]

    # Every second path of twice as many.
    factors = tf.constant([1.0, 9.0] * NUM_PATHS, tf.float64)[:, tf.newaxis, tf.newaxis]
    among_others = [factors * tf.repeat(x, 2, axis=0) for x in episodes]
    # The costs are float32 numbers, multiplied by 8 in float32.
    assert_allclose(gram(*among_others), expected, rtol=1e-6)


def test_samples_are_of_the_same_paths_and_of_the_seed(problem, curvature_of, episodes):
    features, returns = episodes

    @tf.function(autograph=False)
    def sample(seed):
        return curvature_of(features, returns).sample(2, seed)

    inputs, first = zip(*sample(tf.constant([1, 2])), strict=True)
    _, again = zip(*sample(tf.constant([1, 2])), strict=True)
    _, other = zip(*sample(tf.constant([1, 3])), strict=True)
    for g, same, different in zip(first, again, other, strict=True):
        assert_array_equal(g, same)
        assert not np.allclose(g, different, rtol=0.1)
    n = problem.num_instruments
    assert inputs[0].shape == (2, problem.num_steps, n + features.shape[-1])
    assert_array_equal(inputs[0][..., n:], tf.gather(features, [0, 2]))


def test_majorizing_costs_touch_the_costs_from_above():
    rng = np.random.default_rng(4)
    trades, costs = rng.normal(size=[50, 3, 2]), np.array([[0.1, 0.2], [0.1, 0.2], [0.0, 0.0]])
    quadratic = majorizing_costs(costs, trades)
    sizes = np.abs(trades).mean(axis=0)
    assert_allclose(2.0 * quadratic * sizes, costs)  # one slope where they touch
    u = np.linspace(-3.0, 3.0, 61)[:, np.newaxis, np.newaxis]
    assert np.all(quadratic * u**2 + 0.5 * costs * sizes >= costs * np.abs(u) - 1e-12)


def test_majorizing_costs_of_what_is_hardly_traded_are_finite():
    trades = np.zeros([4, 1, 3])
    trades[..., 0], trades[..., 1] = 2.0, 1e-9
    assert_allclose(majorizing_costs(np.ones([1, 3]), trades), [[0.25, 2.5, 2.5]])
    assert_array_equal(majorizing_costs(np.ones([1, 3]), 0.0 * trades), np.zeros([1, 3]))
