"""Derivatives of the actions against Keras' own backpropagation.

By both routes: in terms of the cell, and compiled.
"""

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.policy import compiled_linearize, linearize
from tfhedge.policy.rollout import RecurrentPolicy

NUM_PATHS, NUM_STEPS, NUM_FEATURES, NUM_INSTRUMENTS = 3, 4, 2, 3
AVAILABLE = (np.arange(NUM_STEPS)[:, None] < [4, 3, 1]).astype(np.float64)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=[NUM_PATHS, NUM_STEPS, NUM_FEATURES])
COTANGENT = RNG.normal(size=[NUM_PATHS, NUM_STEPS, NUM_INSTRUMENTS])


POLICIES = {
    "two blocks": (3, 2),
    "blind to its actions": (3, 2, "nothing"),
}


@pytest.fixture(params=[linearize, compiled_linearize], ids=["of the cell", "compiled"])
def route(request):
    return request.param


@pytest.fixture(scope="module", params=POLICIES.values(), ids=POLICIES)
def policy(request):
    policy = RecurrentPolicy(*request.param, dtype="float64")
    policy.build(FEATURES.shape, AVAILABLE.shape)
    rng = np.random.default_rng(1)
    policy.set_weights([rng.normal(0.0, 0.3, w.shape) for w in policy.weights])
    return policy


def some_directions(policy):
    """Two that are random, and zero."""
    rng, weights = np.random.default_rng(2), policy.trainable_variables
    random = [[tf.constant(rng.normal(size=w.shape)) for w in weights] for _ in range(2)]
    return [*random, [tf.zeros_like(w) for w in weights]]


@pytest.fixture(scope="module")
def jacobian(policy):
    """That of the actions by each weight."""
    with tf.GradientTape(persistent=True) as tape:
        actions = policy(FEATURES, AVAILABLE)
    weights = [w.value for w in policy.trainable_variables]
    return tape.jacobian(actions, weights, experimental_use_pfor=False)


def test_derivatives_equal_the_jacobian(policy, jacobian, route):
    directions = some_directions(policy)
    actions, changes = tf.function(route.action_derivatives, autograph=False)(
        policy, FEATURES, AVAILABLE, directions
    )
    assert_allclose(actions, policy(FEATURES, AVAILABLE), rtol=1e-10, atol=1e-12)
    assert_allclose(route.actions(policy, FEATURES, AVAILABLE), actions, rtol=1e-10, atol=1e-12)
    for direction, change in zip(directions, changes, strict=True):
        expected = sum(
            np.tensordot(j, d, axes=d.ndim) for j, d in zip(jacobian, direction, strict=True)
        )
        assert_allclose(change, expected, rtol=1e-10, atol=1e-12)


def test_inputs_times_pseudo_gradients_are_the_gradients_of_the_weights(policy, route):
    """sum_t a_t g_t' for a kernel, sum_t g_t for a bias, sum_t a_t g_t for a scale."""
    with tf.GradientTape() as tape:
        inner_product = tf.reduce_sum(policy(FEATURES, AVAILABLE) * COTANGENT)
    expected = tape.gradient(inner_product, [w.value for w in policy.trainable_variables])
    gradients = []
    pairs = tf.function(route.pseudo_gradients, autograph=False)(
        policy, FEATURES, AVAILABLE, COTANGENT
    )
    for layer, (a, g) in zip(policy.cell.linear_layers, pairs, strict=True):
        assert a.shape[:2] == g.shape[:2] == (NUM_PATHS, NUM_STEPS)
        if len(layer.weights) == 2:
            gradients += [np.einsum("nti,nto->io", a, g), np.einsum("nto->o", g)]
        else:
            gradients += [np.einsum("nti,nti->i", a, g)]
    for gradient, other in zip(gradients, expected, strict=True):
        assert np.abs(other).max() > 1e-3
        assert_allclose(gradient, other, rtol=1e-10, atol=1e-12)


def test_each_path_has_its_own_pseudo_gradients_in_a_batch_of_any_size(policy, route):
    specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in (FEATURES, COTANGENT)]
    graph = tf.function(
        lambda x, y: route.pseudo_gradients(policy, x, AVAILABLE, y), autograph=False
    ).get_concrete_function(*specs)
    together = tf.nest.flatten(
        tf.function(route.pseudo_gradients, autograph=False)(policy, FEATURES, AVAILABLE, COTANGENT)
    )
    for paths in (slice(0, 1), slice(1, 3), slice(0, 3)):
        parts = graph(tf.constant(FEATURES[paths]), tf.constant(COTANGENT[paths]))
        for part, whole in zip(tf.nest.flatten(parts), together, strict=True):
            assert_allclose(part, whole[paths], rtol=1e-11, atol=1e-13)


def test_without_a_graph_the_results_are_the_same(policy, route):
    directions = some_directions(policy)
    for function, last in (
        (route.pseudo_gradients, COTANGENT),
        (route.action_derivatives, directions),
    ):
        eager = tf.nest.flatten(function(policy, FEATURES, AVAILABLE, last))
        graph = tf.function(function, autograph=False)
        expected = tf.nest.flatten(graph(policy, FEATURES, AVAILABLE, last))
        for x, y in zip(eager, expected, strict=True):
            assert_allclose(x, y, rtol=1e-10, atol=1e-12)
