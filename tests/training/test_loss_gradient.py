"""The gradient of a batch by two halves, and its noise."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.training.loss_gradient import split, sum_and_noise

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(3,), strikes=(1.0,)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)


@pytest.mark.parametrize("num_paths", [1, 2, 3, 8, 33])
def test_noise_has_mean_zero_and_the_covariance_of_the_sum(num_paths):
    """By its coefficients: each path contributes x_i, and e is their sum with weights a_i.

    Of independent x_i of one mean and covariance C, sum a_i x_i has the mean sum a_i E[x] and the
    covariance sum a_i^2 C.
    """
    weights = []
    for path in range(num_paths):
        unit = tf.cast(tf.one_hot([path], num_paths)[0], tf.float64)
        halves = [tf.reduce_sum(x[0]) for x in split([unit], 2)]
        total, (noise,) = sum_and_noise(*([x] for x in halves), num_paths)
        assert_allclose(total, [1.0])
        weights.append(noise)
    if num_paths == 1:
        assert_array_equal(weights, [0.0])
        return
    assert_allclose(np.sum(weights), 0.0, atol=1e-12)
    assert_allclose(np.sum(np.square(weights)), num_paths, rtol=1e-12)


def gradients(num_paths, optimizer, policy=th.RecurrentPolicy, known=True):
    """Those of one batch, from the weights of one seed; by graphs of a known number of paths."""
    keras.utils.set_random_seed(0)
    hedger = th.DeepHedger(PROBLEM, policy(4, 2, dtype="float64"))
    rng = np.random.default_rng(0)
    hedger.set_weights([w + rng.normal(0.0, 0.3, w.shape) for w in hedger.get_weights()])
    hedger.compile(optimizer)
    features, (returns, payoff) = PROBLEM.episodes(num_paths, seed=1)
    batch = [tf.cast(x, tf.float64) for x in (features, returns, payoff)]
    specs = [tf.TensorSpec([num_paths if known else None, *x.shape[1:]], x.dtype) for x in batch]
    compute = lambda *batch: hedger._gradients(*batch)[:-1]  # noqa: E731
    compute = tf.function(compute, input_signature=specs, autograph=False)
    return compute(*batch)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("num_paths", [1, 2, 5, 40])
@pytest.mark.parametrize("policy", [th.RecurrentPolicy, th.DensePolicy])
def test_halves_add_up_to_the_batch(num_paths, policy, known):
    """By the compiled route and by Keras', which the two policies take."""
    pnl, cost, expected, none = gradients(num_paths, keras.optimizers.SGD(), policy, known)
    assert none is None
    *outcome, total, noise = gradients(num_paths, th.DHKFAC(), policy, known)
    for x, y in zip(outcome, (pnl, cost), strict=True):
        assert_allclose(x, y, rtol=1e-12)
    for x, y, e in zip(total, expected, noise, strict=True):
        assert_allclose(x, y, rtol=1e-9, atol=1e-12)
        assert np.any(e) == (num_paths > 1 and np.any(y))


def test_noise_of_a_gradient_has_its_size():
    """The squares of many batches' noise add up to the variance of their gradients."""
    keras.utils.set_random_seed(0)
    hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(4, 1, dtype="float64"))
    rng = np.random.default_rng(0)
    hedger.set_weights([w + rng.normal(0.0, 0.3, w.shape) for w in hedger.get_weights()])
    hedger.compile(th.DHKFAC())
    compute = tf.function(lambda *x: hedger._gradients(*x)[:-1], autograph=False)
    totals, noises = [], []
    for features, (returns, payoff) in PROBLEM.dataset(64 * 400, 64, seed=2):
        batch = [tf.cast(x, tf.float64) for x in (features, returns, payoff)]
        _, _, total, noise = compute(*batch)
        totals.append(np.concatenate([np.ravel(x) for x in total]))
        noises.append(np.concatenate([np.ravel(x) for x in noise]))
    variance = np.sum(np.var(totals, axis=0, ddof=1))
    estimates = np.sum(np.square(noises), axis=1)
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - variance) < 4.0 * error + 0.15 * variance
