"""Every objective, and its curvature, against other routes; a new objective is one row in CASES."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.hedging.objectives import MeanVariance

NUM_STEPS, COSTS = 3, np.array([0.01, 0.2], np.float32)
RETURNS = np.random.default_rng(0).normal(0.0, 0.1, [4, NUM_STEPS, len(COSTS)])


@dataclasses.dataclass
class Case:
    objective: object
    loss: Callable  # of pnl and cost
    surrogate: Callable  # of the actions on one path and their returns: its Hessian is H_u
    quadratic_costs: np.ndarray  # c~
    bad: dict  # argument: values that are refused


def mean_variance(risk_aversion, ratio):
    quadratic_costs = ratio * np.float64(COSTS)

    def loss(pnl, cost):
        return risk_aversion * np.mean((pnl - pnl.mean()) ** 2) + cost.mean()

    def surrogate(actions, returns):
        """Section 3.3, before eq. (12); what the P&L is compared with does not matter."""
        gains = tf.reduce_sum(actions * returns)
        return risk_aversion * (gains - 0.3) ** 2 + tf.reduce_sum(quadratic_costs * actions**2)

    not_positive = [0.0, -1.0, math.nan, True, "1", None]
    return Case(
        MeanVariance(risk_aversion),
        loss,
        surrogate,
        quadratic_costs,
        {"risk_aversion": not_positive},
    )


CASES = {
    "mean-variance": mean_variance(1000.0, 8.0),
    "mean-variance, mostly costs": mean_variance(0.5, 3.0),
}
BAD = [
    pytest.param(case.objective, name, value, id=f"{key}-{name}={value}")
    for key, case in CASES.items()
    for name, values in case.bad.items()
    for value in values
]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def hessian(case, returns):
    """H_u of one path by automatic differentiation, as a matrix."""
    actions = tf.constant(np.random.default_rng(1).normal(size=returns.shape))
    with tf.GradientTape() as outer:
        outer.watch(actions)
        with tf.GradientTape() as inner:
            inner.watch(actions)
            loss = case.surrogate(actions, returns)
        gradient = inner.gradient(loss, actions)
    return outer.jacobian(gradient, actions).numpy().reshape(returns.size, returns.size)


def assert_covariance(sample, expected, num_errors=4.5):
    """The sample's second moments are `expected`, each within so many of its standard errors."""
    products = np.einsum("ni,nj->nij", sample, sample)
    error = products.std(axis=0) / np.sqrt(len(sample))
    assert_array_equal(np.abs(products.mean(axis=0) - expected) < num_errors * error, True)


@every_case
def test_loss_equals_numpy(case):
    rng = np.random.default_rng(0)
    pnl, cost = rng.normal(-0.01, 0.02, 1000), rng.uniform(0.0, 0.01, 1000)
    loss = case.objective.loss(tf.constant(pnl), tf.constant(cost))
    assert_allclose(loss, case.loss(pnl, cost), rtol=1e-12)
    assert_allclose(case.objective.loss_of_moments(pnl.var(), cost.mean()), loss, rtol=1e-12)


def test_hessian_of_mean_variance_is_that_of_the_paper():
    """Eq. (12), with its matrices written out."""
    r = RETURNS[0].ravel()
    expected = 2.0 * 1000.0 * np.outer(r, r) + 2.0 * np.diag(np.tile(8.0 * COSTS, NUM_STEPS))
    assert_allclose(hessian(CASES["mean-variance"], RETURNS[0]), expected, rtol=1e-7)


@every_case
def test_gram_is_the_mean_product_with_the_hessian(case):
    changes = np.random.default_rng(2).normal(size=[3, *RETURNS.shape])
    hessians = [hessian(case, returns) for returns in RETURNS]
    flat = changes.reshape(3, len(RETURNS), -1)
    expected = np.einsum("kni,nij,lnj->kl", flat, hessians, flat) / len(RETURNS)
    gram = case.objective.curvature_gram(list(changes), RETURNS, case.quadratic_costs)
    assert_allclose(gram, expected, rtol=1e-10)
    unit_changes = np.eye(RETURNS[0].size).reshape(-1, 1, *RETURNS[0].shape)
    gram = case.objective.curvature_gram(list(unit_changes), RETURNS[:1], case.quadratic_costs)
    assert_allclose(gram, hessians[0], rtol=1e-10, atol=1e-12)


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pseudo_gradients_have_the_hessian_as_covariance(case, dtype):
    """As do those of Algorithm 1, lines 7 and 8, whose law they share, being normal as well."""
    num_paths, returns = 100_000, RETURNS[0].astype(dtype)
    sample = case.objective.pseudo_gradient(
        tf.constant(np.broadcast_to(returns, [num_paths, *returns.shape])),
        case.quadratic_costs,
        seed=(1, 2),
    ).numpy()
    assert sample.dtype == dtype
    sample = sample.reshape(num_paths, -1).astype(np.float64)
    expected = hessian(case, RETURNS[0])
    assert_covariance(sample, expected)
    assert np.all(np.abs(sample.mean(axis=0)) < 4.5 * sample.std(axis=0) / np.sqrt(num_paths))

    normal = tf.random.stateless_normal([num_paths, len(expected)], seed=(3, 4), dtype=tf.float64)
    cholesky = tf.linalg.matvec(tf.linalg.cholesky(expected), normal).numpy()
    assert_covariance(cholesky, expected)
    theirs, ours = (np.cov(x, rowvar=False) for x in (cholesky, sample))
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert_allclose(ours / scale, theirs / scale, rtol=0, atol=4.5 * np.sqrt(2 * 2 / num_paths))


@every_case
def test_pseudo_gradients_of_different_paths_are_independent(case):
    num_pairs = 20_000
    returns = tf.constant(np.broadcast_to(RETURNS[:2], [num_pairs, *RETURNS[:2].shape]))
    returns = tf.reshape(returns, [-1, *RETURNS.shape[1:]])
    sample = case.objective.pseudo_gradient(returns, case.quadratic_costs, seed=(5, 6)).numpy()
    blocks = [hessian(case, r) for r in RETURNS[:2]]
    zero = np.zeros_like(blocks[0])
    expected = np.block([[blocks[0], zero], [zero, blocks[1]]])
    assert_covariance(sample.reshape(num_pairs, -1), expected)


@every_case
def test_pseudo_gradients_depend_on_the_seed_alone(case):
    seeds = [(0, 0), (0, 1), (1, 0)]
    draw = functools.partial(
        case.objective.pseudo_gradient, tf.constant(RETURNS), case.quadratic_costs
    )
    first, again = ([draw(seed) for seed in seeds] for _ in range(2))
    assert_array_equal(first, again)
    for x, y in itertools.combinations(first, 2):
        assert not np.any(x == y)


@pytest.mark.parametrize(("objective", "name", "value"), BAD)
def test_bad_arguments_are_refused(objective, name, value):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be a positive .*{name}={value!r}"):
        dataclasses.replace(objective, **{name: value})
