"""Every objective, and its curvature, against other routes; a new objective is one row in CASES."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.hedging.objectives import EntropicRisk, MeanVariance

NUM_STEPS, COSTS = 3, np.array([0.01, 0.2], np.float32)
RETURNS = np.random.default_rng(0).normal(0.0, 0.1, [4, NUM_STEPS, len(COSTS)])
PNL, COST = np.array([[-0.04, 0.01, 0.0, 0.03], [0.0, 0.002, 0.01, 0.0]])  # of these paths


@dataclasses.dataclass
class Case:
    objective: object
    loss: Callable  # of pnl and cost
    surrogate: Callable  # of the actions on a path, and its number: its Hessian is H_u
    quadratic_costs: np.ndarray  # c~
    bad: dict  # argument: values that are refused


def mean_variance(risk_aversion, ratio):
    quadratic_costs = ratio * np.float64(COSTS)

    def loss(pnl, cost):
        return risk_aversion * np.mean((pnl - pnl.mean()) ** 2) + cost.mean()

    def surrogate(actions, path):
        """Section 3.3, before eq. (12); what the P&L is compared with does not matter."""
        gains = tf.reduce_sum(actions * RETURNS[path])
        return risk_aversion * (gains - 0.3) ** 2 + tf.reduce_sum(quadratic_costs * actions**2)

    not_positive = [0.0, -1.0, math.nan, True, "1", None]
    return Case(
        MeanVariance(risk_aversion),
        loss,
        surrogate,
        quadratic_costs,
        {"risk_aversion": not_positive},
    )


def entropic(risk_aversion, ratio):
    quadratic_costs = ratio * np.float64(COSTS)

    def loss(pnl, cost):
        return np.log(np.mean(np.exp(risk_aversion * (cost - pnl)))) / risk_aversion

    def surrogate(actions, path):
        """With what the trades do to the other paths' part of the mean left out."""
        gains = PNL[path] + tf.reduce_sum((actions - ACTIONS) * RETURNS[path])
        utility = tf.exp(risk_aversion * (COST[path] - gains)) / risk_aversion
        mean = np.mean(np.exp(risk_aversion * (COST - PNL)))
        weight = np.exp(risk_aversion * (COST[path] - PNL[path]))
        return (utility + weight * tf.reduce_sum(quadratic_costs * actions**2)) / mean

    not_positive = [0.0, -1.0, math.inf, "1"]
    return Case(
        EntropicRisk(risk_aversion),
        loss,
        surrogate,
        quadratic_costs,
        {"risk_aversion": not_positive},
    )


# At these trades the paths have their P&L.
ACTIONS = np.random.default_rng(1).normal(size=RETURNS[0].shape)
CASES = {
    "mean-variance": mean_variance(1000.0, 8.0),
    "mean-variance, mostly costs": mean_variance(0.5, 3.0),
    "entropic": entropic(50.0, 8.0),
}
BAD = [
    pytest.param(case.objective, name, value, id=f"{key}-{name}={value}")
    for key, case in CASES.items()
    for name, values in case.bad.items()
    for value in values
]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def hessian(case, path):
    """H_u of one path by automatic differentiation, as a matrix."""
    actions = tf.constant(ACTIONS)
    with tf.GradientTape() as outer:
        outer.watch(actions)
        with tf.GradientTape() as inner:
            inner.watch(actions)
            loss = case.surrogate(actions, path)
        gradient = inner.gradient(loss, actions)
    return outer.jacobian(gradient, actions).numpy().reshape(actions.shape.num_elements(), -1)


def path_curvature(case, paths=slice(None)):
    """k and w of some of the paths."""
    return [x[paths] for x in case.objective.path_curvature(tf.constant(PNL), tf.constant(COST))]


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
    state = case.objective.update(case.objective.init(), pnl, cost)
    assert_allclose(case.objective.result(state), loss, rtol=1e-12)


def stream(objective, *batches):
    """The loss of batches of P&L and costs, and perhaps counts."""
    state = objective.init()
    for batch in batches:
        state = objective.update(state, *batch)
    return objective.result(state)


@every_case
@given(
    seed=st.integers(0, 99),
    num_paths=st.integers(1, 100),
    splits=st.lists(st.integers(0, 100), max_size=5),
    shift=st.floats(-10.0, 10.0),
    scale=st.sampled_from([0.0, 0.02, 10.0]),
)
@settings(max_examples=25)
def test_the_loss_is_the_same_however_paths_are_split_in_batches(
    case, seed, num_paths, splits, shift, scale
):
    rng = np.random.default_rng(seed)
    pnl, cost = shift + scale * rng.normal(size=num_paths), rng.uniform(0.0, 0.01, num_paths)
    loss = case.objective.loss(tf.constant(pnl), tf.constant(cost))
    atol = 1e-12 * (1.0 + abs(shift))
    parts = [np.split(x, sorted(splits)) for x in (pnl, cost)]
    streamed = stream(case.objective, *zip(*parts, strict=True))
    assert_allclose(streamed, loss, rtol=1e-12, atol=atol)
    order = rng.permutation(num_paths)
    assert_allclose(stream(case.objective, (pnl[order], cost[order])), loss, rtol=1e-12, atol=atol)


@every_case
@given(seed=st.integers(0, 99), num_paths=st.integers(1, 100), scale=st.sampled_from([0.02, 1e3]))
@settings(max_examples=10)
def test_a_path_that_counts_twice_is_two_paths(case, seed, num_paths, scale):
    rng = np.random.default_rng(seed)
    pnl, cost = rng.normal(0.0, scale, num_paths), rng.uniform(0.0, 0.01, num_paths)
    counts = rng.multinomial(num_paths, np.ones(num_paths) / num_paths, size=3)
    repeated = [[np.repeat(x, n) for x in (pnl, cost)] for n in counts]
    expected = [case.objective.loss(*map(tf.constant, sample)) for sample in repeated]
    for n, loss in zip(counts, expected, strict=True):
        assert_allclose(stream(case.objective, (pnl, cost, n)), loss, rtol=1e-12)
    state = tf.repeat(case.objective.init()[:, tf.newaxis], len(counts), axis=1)
    for half in np.split(np.arange(num_paths), [num_paths // 3]):
        state = case.objective.update(state, pnl[half], cost[half], counts.T[half])
    assert_allclose(case.objective.result(state), expected, rtol=1e-12)


@every_case
def test_no_paths_have_a_loss_of_zero_and_change_nothing(case):
    objective, none = case.objective, (np.zeros(0), np.zeros(0))
    assert objective.init().dtype == tf.float64
    assert stream(objective) == stream(objective, none) == 0.0
    assert_allclose(stream(objective, none, (PNL, COST), none), case.loss(PNL, COST), rtol=1e-12)


@every_case
def test_a_loss_that_is_not_finite_shows(case):
    for bad in (np.nan, -np.inf):
        pnl = np.append(np.linspace(-1.0, 1.0, 99), bad)
        batches = np.split(pnl, 4)
        assert not np.isfinite(stream(case.objective, *((x, np.zeros(25)) for x in batches)))


@every_case
def test_float32_is_summed_in_float64(case):
    pnl, cost = np.float32([PNL, COST])
    assert stream(case.objective, (pnl, cost)).dtype == tf.float64
    expected = case.loss(np.float64(pnl), np.float64(cost))
    assert_allclose(stream(case.objective, (pnl, cost)), expected, rtol=1e-12)


@pytest.mark.parametrize("risk_aversion", [50.0, 1000.0])
@pytest.mark.parametrize("shift", [-100.0, -0.8, 0.8, 1.0, 100.0])
def test_cash_reduces_an_entropic_risk_by_itself(risk_aversion, shift):
    objective = EntropicRisk(risk_aversion)
    pnl, cost = np.random.default_rng(0).normal(0.0, 0.01, [2, 100])
    batches = zip(np.split(pnl + shift, 4), np.split(abs(cost), 4), strict=True)
    loss = objective.loss(tf.constant(pnl), tf.constant(abs(cost)))
    assert_allclose(stream(objective, *batches), loss - shift, rtol=1e-12)


def test_the_largest_losses_do_not_hide_the_others():
    """A sample without the largest loss is that of the next, e^1000 times less."""
    objective, pnl = EntropicRisk(1000.0), -np.arange(100.0)
    for highest in (99, 98, 70):
        counts = np.where(np.arange(100) <= highest, 1.0, 0.0)
        expected = highest - np.log(highest + 1.0) / 1000.0
        assert_allclose(stream(objective, (pnl, np.zeros(100), counts)), expected, rtol=1e-12)


def test_the_variance_of_batches_does_not_cancel():
    pnl = 1e3 + 1e-3 * np.random.default_rng(0).normal(size=1000)
    batches = [(x, np.zeros_like(x)) for x in np.split(pnl, [1, 10, 400])]
    assert_allclose(stream(MeanVariance(1.0), *batches), np.var(pnl), rtol=1e-9)


@every_case
@pytest.mark.parametrize("cash", [0.0, 1.0, -30.0])
def test_risk_is_the_loss_about_the_mean(case, cash):
    rng = np.random.default_rng(0)
    pnl, cost = rng.normal(-0.01, 0.02, 1000), rng.uniform(0.0, 0.01, 1000)
    risk = case.objective.risk(tf.constant(pnl + cash), tf.constant(cost))
    assert_allclose(risk, case.loss(pnl - pnl.mean(), cost), rtol=1e-11)
    mean = pnl.mean() if isinstance(case.objective, EntropicRisk) else 0.0
    assert_allclose(risk, case.loss(pnl, cost) + mean, rtol=1e-11)


@every_case
@given(seed=st.integers(0, 99), num_paths=st.integers(1, 50), away=st.floats(-0.1, 0.1))
@settings(max_examples=25)
def test_the_loss_is_the_least_mean_of_path_losses(case, seed, num_paths, away):
    objective, rng = case.objective, np.random.default_rng(seed)
    pnl = tf.constant(rng.normal(-0.01, 0.02, num_paths))
    cost = tf.constant(rng.uniform(0.0, 0.01, num_paths))
    loss, threshold = objective.loss(pnl, cost), objective.threshold(pnl, cost)
    mean = tf.reduce_mean(objective.path_losses(pnl, cost, threshold))
    assert_allclose(mean, loss, rtol=1e-12, atol=1e-15)
    other = tf.reduce_mean(objective.path_losses(pnl, cost, threshold + away))
    assert other >= loss - 1e-12 * abs(loss)


@every_case
def test_derivatives_of_path_losses_are_those_of_the_loss_and_the_curvature(case):
    """At the fixed threshold: the envelope theorem."""
    objective, rng, num_paths = case.objective, np.random.default_rng(0), 20
    pnl = tf.constant(rng.normal(-0.01, 0.02, num_paths))
    cost = tf.constant(rng.uniform(0.0, 0.01, num_paths))
    threshold = objective.threshold(pnl, cost)
    with tf.GradientTape() as outer:
        outer.watch(pnl)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch([pnl, cost])
            loss = objective.loss(pnl, cost)
            path_losses = objective.path_losses(pnl, cost, threshold)
        slopes = inner.gradient(path_losses, [pnl, cost])
    of_loss = inner.gradient(loss, [pnl, cost])
    for slope, expected in zip(slopes, of_loss, strict=True):
        assert_allclose(slope / num_paths, expected, rtol=1e-12, atol=1e-15)
    k, w = objective.path_curvature(pnl, cost)
    assert_allclose(outer.gradient(slopes[0], pnl), k, rtol=1e-12)
    assert_allclose(slopes[1], w, rtol=1e-12)


@every_case
def test_path_curvature_is_that_of_the_loss_of_many_paths(case):
    """Each path is a thousandth of the mean, whose change the curvature leaves out."""
    rng, num_paths = np.random.default_rng(3), 1000
    pnl, cost = tf.constant(rng.normal(0.0, 0.01, num_paths)), tf.zeros(num_paths, tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(pnl)
        with tf.GradientTape() as inner:
            inner.watch([pnl, cost])
            loss = case.objective.loss(pnl, cost)
        by_pnl, by_cost = inner.gradient(loss, [pnl, cost])
    second = np.diag(outer.jacobian(by_pnl, pnl))
    k, w = case.objective.path_curvature(pnl, cost)
    assert_allclose(w, num_paths * by_cost, rtol=1e-10)
    assert_allclose(k, num_paths * second, rtol=0.01)


def test_hessian_of_mean_variance_is_that_of_the_paper():
    """Eq. (12), with its matrices written out."""
    r = RETURNS[0].ravel()
    expected = 2.0 * 1000.0 * np.outer(r, r) + 2.0 * np.diag(np.tile(8.0 * COSTS, NUM_STEPS))
    assert_allclose(hessian(CASES["mean-variance"], 0), expected, rtol=1e-7)


@every_case
def test_gram_is_the_mean_product_with_the_hessian_less_what_the_threshold_takes(case):
    changes = np.random.default_rng(2).normal(size=[3, *RETURNS.shape])
    hessians = [hessian(case, path) for path in range(len(RETURNS))]
    flat = changes.reshape(3, len(RETURNS), -1)
    expected = np.einsum("kni,nij,lnj->kl", flat, hessians, flat) / len(RETURNS)
    curvature = k, _ = path_curvature(case)
    shift = np.einsum("knti,nti->kn", changes, RETURNS) @ np.array(k) / len(k)
    expected -= np.outer(shift, shift) / np.mean(k)
    gram = case.objective.curvature_gram(list(changes), RETURNS, case.quadratic_costs, curvature)
    assert_allclose(gram, expected, rtol=1e-10)


@every_case
def test_gram_is_the_hessian_of_the_loss(case):
    """Along three changes of the trades, by automatic differentiation; there are no costs."""
    changes = np.random.default_rng(2).normal(size=[3, *RETURNS.shape])
    gains = tf.constant(np.einsum("knti,nti->kn", changes, RETURNS))
    at = tf.zeros([3], tf.float64)
    with tf.GradientTape() as outer:
        outer.watch(at)
        with tf.GradientTape() as inner:
            inner.watch(at)
            pnl = PNL + tf.linalg.matvec(gains, at, transpose_a=True)
            loss = case.objective.loss(pnl, tf.constant(COST))
        slope = inner.gradient(loss, at)
    expected = outer.jacobian(slope, at)
    gram = case.objective.curvature_gram(list(changes), RETURNS, 0.0 * COSTS, path_curvature(case))
    assert_allclose(gram, expected, rtol=1e-9)


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pseudo_gradients_have_the_hessian_as_covariance(case, dtype):
    """As do those of Algorithm 1, lines 7 and 8, whose law they share, being normal as well."""
    num_paths, returns = 100_000, RETURNS[0].astype(dtype)
    sample = case.objective.pseudo_gradient(
        tf.constant(np.broadcast_to(returns, [num_paths, *returns.shape])),
        case.quadratic_costs,
        [tf.repeat(tf.cast(x, dtype), num_paths) for x in path_curvature(case, slice(1))],
        seed=(1, 2),
    ).numpy()
    assert sample.dtype == dtype
    sample = sample.reshape(num_paths, -1).astype(np.float64)
    expected = hessian(case, 0)
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
    curvature = [tf.tile(x, [num_pairs]) for x in path_curvature(case, slice(2))]
    sample = case.objective.pseudo_gradient(
        returns, case.quadratic_costs, curvature, seed=(5, 6)
    ).numpy()
    blocks = [hessian(case, path) for path in range(2)]
    zero = np.zeros_like(blocks[0])
    expected = np.block([[blocks[0], zero], [zero, blocks[1]]])
    assert_covariance(sample.reshape(num_pairs, -1), expected)


@every_case
def test_pseudo_gradients_depend_on_the_seed_alone(case):
    seeds = [(0, 0), (0, 1), (1, 0)]
    draw = functools.partial(
        case.objective.pseudo_gradient,
        tf.constant(RETURNS),
        case.quadratic_costs,
        path_curvature(case),
    )
    first, again = ([draw(seed) for seed in seeds] for _ in range(2))
    assert_array_equal(first, again)
    for x, y in itertools.combinations(first, 2):
        assert not np.any(x == y)


def test_costs_of_other_paths_are_refused():
    pnl, cost = np.zeros([3, 1]), np.zeros(3)
    with pytest.raises(ValueError, match=r"`cost` to be of shape \[3, 1\]. Received shape: \(3,\)"):
        EntropicRisk(10.0).loss(pnl, cost)
    for objective in (EntropicRisk(10.0), MeanVariance(10.0)):
        with pytest.raises(ValueError, match=r"`cost` to be of shape \[3\]. Received .*\(2,\)"):
            objective.update(objective.init(), np.zeros(3), np.zeros(2))


@pytest.mark.parametrize(("objective", "name", "value"), BAD)
def test_bad_arguments_are_refused(objective, name, value):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be a positive .*{name}={value!r}"):
        dataclasses.replace(objective, **{name: value})
