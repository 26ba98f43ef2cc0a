"""The Gauss-Newton matrix of a tiny policy, dense and in float64, against what DH-KFAC is given."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.training.gauss_newton import GaussNewton

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(2,), strikes=(1.01,)),
    objective=th.MeanVariance(risk_aversion=10.0),
)
NUM_PATHS = 4


@pytest.fixture(scope="module")
def episodes():
    features, (returns, _) = PROBLEM.episodes(NUM_PATHS, seed=0)
    return tf.cast(features, tf.float64), tf.cast(returns, tf.float64)


@pytest.fixture(scope="module")
def policy(episodes):
    policy = th.RecurrentPolicy(units=2, num_blocks=1, dtype="float64")
    policy(episodes[0], PROBLEM.availability)
    rng = np.random.default_rng(0)
    policy.set_weights([rng.normal(0.0, 0.4, w.shape) for w in policy.weights])
    return policy


@pytest.fixture(scope="module")
def dense(policy, episodes):
    """B = E[J' H_u J], eq. (12), over the weights in their order."""
    features, returns = episodes
    with tf.GradientTape() as tape:
        actions = tf.reshape(policy(features, PROBLEM.availability), [NUM_PATHS, -1])
    jacobian = tape.jacobian(actions, [w.value for w in policy.trainable_variables])
    jacobian = np.concatenate([np.reshape(j, [*actions.shape, -1]) for j in jacobian], axis=-1)
    costs = np.tile(PROBLEM.instruments.costs.astype(np.float64), PROBLEM.num_steps)
    matrices = []
    for J, r in zip(jacobian, np.reshape(returns, actions.shape), strict=True):
        H = 2.0 * 10.0 * np.outer(r, r) + 2.0 * np.diag(8.0 * costs)
        matrices.append(J.T @ H @ J)
    return np.mean(matrices, axis=0)


def test_gram_is_the_dense_matrix_seen_from_the_directions(policy, episodes, dense):
    rng = np.random.default_rng(1)
    directions = [[rng.normal(size=w.shape) for w in policy.trainable_variables] for _ in range(3)]
    flat = np.stack([np.concatenate([x.ravel() for x in d]) for d in directions])
    expected = flat @ dense @ flat.T
    tensors = [[tf.constant(x) for x in d] for d in directions]

    @tf.function(autograph=False)
    def gram(num_paths, *episodes):
        return GaussNewton(PROBLEM, policy, *episodes).gram(tensors, num_paths)

    # The costs are float32 numbers, multiplied by 8 in float32.
    assert_allclose(gram(NUM_PATHS, *episodes), expected, rtol=1e-6)
    assert_allclose(gram(100, *episodes), expected, rtol=1e-6)  # there are no more paths
    twice = [tf.concat([x, 0.0 * x], axis=0) for x in episodes]
    assert_allclose(gram(NUM_PATHS, *twice), expected, rtol=1e-6)  # only the first paths count


def test_samples_have_the_dense_blocks_as_second_moments(policy, episodes, dense):
    """Each entry within its standard errors, for the layers in the order of the weights."""
    num_copies = 4000
    num_samples = num_copies * NUM_PATHS

    @tf.function(autograph=False)
    def sample(features, returns):
        return GaussNewton(PROBLEM, policy, features, returns).sample(num_samples, seed=(1, 2))

    weights, start = list(policy.trainable_variables), 0
    for a, g in sample(*(tf.tile(x, [num_copies, 1, 1]) for x in episodes)):
        kernel = weights.pop(0)
        assert a.shape[:2] == g.shape[:2] == (num_samples, PROBLEM.num_steps)
        if len(kernel.shape) == 1:
            per_path = np.einsum("nti,nti->ni", a, g)
        else:
            a = np.append(a, np.ones_like(a[..., :1]), axis=-1)
            assert (a.shape[-1] - 1, g.shape[-1]) == kernel.shape
            assert weights.pop(0).shape == g.shape[-1:]
            per_path = np.einsum("nti,nto->nio", a, g).reshape(num_samples, -1)
        end = start + per_path.shape[-1]
        products = np.einsum("ni,nj->nij", per_path, per_path)
        error = products.std(axis=0) / np.sqrt(num_samples)
        block = dense[start:end, start:end]
        assert np.diag(block).max() > 0.0
        assert np.all(np.abs(products.mean(axis=0) - block) <= 4.5 * error)
        start = end
    assert not weights
    assert start == len(dense)


def test_samples_are_of_the_first_paths_and_of_the_seed(policy, episodes):
    @tf.function(autograph=False)
    def sample(num_paths, seed):
        return GaussNewton(PROBLEM, policy, *episodes).sample(num_paths, seed)

    two, again, other = sample(2, (1, 2)), sample(2, (1, 2)), sample(2, (1, 3))
    everything = sample(NUM_PATHS, (1, 2))
    for layer, (a, g) in enumerate(two):
        assert_array_equal(again[layer][1], g)
        assert np.all(other[layer][1] != g)
        assert_allclose(a, everything[layer][0][:2], rtol=1e-12)
