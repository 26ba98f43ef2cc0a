"""The compiled route against `keras.layers.RNN`, which defines what it computes."""

import contextlib
import gc
import math

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.policy import compiled, compiled_linearize, linearize
from tfhedge.policy.cell import OBSERVABLE, HedgeCell
from tfhedge.policy.linearize import pseudo_gradients
from tfhedge.policy.rollout import RecurrentPolicy

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


class Case:
    """A policy far from its start, and paths for it, of sizes that divide nothing."""

    def __init__(self, seed, dtype="float64", num_paths=None, observes="log_action"):
        rng = np.random.default_rng(seed)
        num_steps, num_features, num_instruments = rng.integers(1, [9, 5, 7])
        units, num_blocks = rng.integers([2, 1], [9, 4]).tolist()
        self.policy = RecurrentPolicy(units, num_blocks, observes, dtype=dtype)
        self.available = (rng.uniform(size=[num_steps, num_instruments]) < 0.8).astype(dtype)
        self.policy.build((None, num_steps, num_features), self.available.shape)
        # The head is small, as symexp feeds back into itself.
        scales = [0.5] * (len(self.policy.weights) - 2) + [0.1, 0.1]
        pairs = zip(scales, self.policy.weights, strict=True)
        self.policy.set_weights([rng.normal(0.0, scale, w.shape) for scale, w in pairs])
        shape = [num_paths or rng.integers(1, 100), num_steps]
        self.features = tf.constant(rng.normal(size=[*shape, num_features]), dtype)
        self.cotangent = tf.constant(rng.normal(size=[*shape, num_instruments]), dtype)

    def results(self, route):
        """Actions, and gradients by the features and the weights."""
        with tf.GradientTape() as tape:
            tape.watch(self.features)
            actions = route(self.features, self.available)
            loss = tf.reduce_sum(actions * self.cotangent)
        sources = [self.features, *(w.value for w in self.policy.trainable_variables)]
        return [actions, *tape.gradient(loss, sources)]


def assert_close(results, expected, tolerance):
    for x, y in zip(results, expected, strict=True):
        assert_allclose(x, y, rtol=0, atol=tolerance * max(np.abs(y).max(), 1e-3))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that a few paths are several chunks for each lane."""
    monkeypatch.setattr(compiled, "_CHUNK", 16)


@pytest.mark.parametrize("observes", OBSERVABLE)
@pytest.mark.parametrize(("seed", "dtype"), [(0, "float64"), (1, "float64"), (3, "float32")])
def test_actions_and_gradients_are_those_of_keras(seed, dtype, observes):
    case = Case(seed, dtype, observes=observes)
    expected = case.results(case.policy)
    in_graph = tf.function(case.results, autograph=False)(case.policy.compiled)
    assert_close(in_graph, expected, TOLERANCE[dtype])
    actions = case.policy.compiled(case.features, case.available, differentiable=False)
    assert_close([actions], expected[:1], TOLERANCE[dtype])


@pytest.mark.parametrize("seed", [3, 10, 11])
def test_gradients_through_float16_are_close(seed, monkeypatch):
    """The gradient by all weights together: in a tensor of few numbers, roundings cancel less."""
    case = Case(seed, "float32")
    expected = case.results(case.policy)
    monkeypatch.setattr(compiled, "_MAX_EXACT_BYTES", 0)
    results = case.results(case.policy.compiled)
    assert_close(results[:1], expected[:1], 1e-5)
    gradient, truth = (np.concatenate([np.ravel(g) for g in x[2:]]) for x in (results, expected))
    error = np.linalg.norm(gradient - truth) / np.linalg.norm(truth)
    assert 1e-6 < error <= 3e-4


def test_logits_beyond_float16_saturate(monkeypatch):
    """Where a gate's logit is too large for float16, its slope is zero, as it is in float32."""
    case = Case(12, "float32")
    weights = case.policy.get_weights()
    weights[4] += 1e6  # the biases of the first block's gates
    case.policy.set_weights(weights)
    expected = case.results(case.policy)
    monkeypatch.setattr(compiled, "_MAX_EXACT_BYTES", 0)
    assert_close(case.results(case.policy.compiled), expected, 1e-3)


def test_gradients_are_finite_differences():
    case, step = Case(seed=3), 1e-6
    policy, weights = case.policy, case.policy.get_weights()
    _, _, *gradients = case.results(policy.compiled)
    rng = np.random.default_rng(0)
    direction = [rng.normal(size=w.shape) for w in weights]
    losses = []
    for sign in (1.0, -1.0):
        pairs = zip(weights, direction, strict=True)
        policy.set_weights([w + sign * step * d for w, d in pairs])
        actions = policy.compiled(case.features, case.available, differentiable=False)
        losses.append(np.sum(actions * case.cotangent))
    expected = (losses[0] - losses[1]) / (2.0 * step)
    slope = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))
    assert_allclose(slope, expected, rtol=1e-7)


@pytest.mark.parametrize("max_bytes", [0, 40_000])
def test_what_does_not_fit_into_memory_is_computed_again(max_bytes, monkeypatch):
    case = Case(seed=4, num_paths=150)
    expected = case.results(case.policy)
    monkeypatch.setattr(compiled, "_MAX_BYTES", max_bytes)
    assert_close(case.results(case.policy.compiled), expected, 1e-10)
    (lanes,) = case.policy.compiled._lanes.values()
    num_turns = -(-150 // (16 * len(lanes)))
    assert lanes[0].num_slots < num_turns


def test_calls_do_not_disturb_each_other():
    """Two forward passes, then their backward passes, the first of them twice."""
    case = Case(seed=5, num_paths=70)
    other = tf.constant(case.features[::-1].numpy())
    policy, gradients = case.policy, {}
    weights = [w.value for w in policy.trainable_variables]
    for name, route in (("keras", policy), ("compiled", policy.compiled)):
        with tf.GradientTape(persistent=True) as tape:
            losses = [
                tf.reduce_sum(route(x, case.available) * case.cotangent)
                for x in (case.features, other)
            ]
        orders = (0, 1, 0)
        gradients[name] = [g for i in orders for g in tape.gradient(losses[i], weights)]
    assert_close(gradients["compiled"], gradients["keras"], 1e-10)


def test_one_trace_serves_batches_of_all_sizes():
    case, traces = Case(seed=6, num_paths=50), []

    @tf.function(autograph=False, reduce_retracing=True)
    def gradients(features, cotangent):
        traces.append(features.shape)
        case.features, case.cotangent = features, cotangent
        return case.results(case.policy.compiled)

    features, cotangent = case.features, case.cotangent
    for num_paths in (50, 33, 1, 17, 50, 49):
        results = gradients(features[:num_paths], cotangent[:num_paths])
        case.features, case.cotangent = features[:num_paths], cotangent[:num_paths]
        assert_close(results, case.results(case.policy), 1e-10)
    assert len(traces) == 2  # the first batch's, and that of an unknown size


def test_actions_are_the_same_in_batches_of_the_same_size():
    case = Case(seed=7, num_paths=64)
    first = case.policy.compiled(case.features, case.available)
    assert_array_equal(case.policy.compiled(case.features, case.available), first)


@pytest.mark.parametrize(
    ("num_paths", "observes"), [(1, "log_action"), (64, "last_action"), (150, "nothing")]
)
def test_gains_and_costs_are_sums_of_the_trades(num_paths, observes):
    case = Case(seed=15, num_paths=num_paths, observes=observes)
    returns, costs = case.cotangent, np.abs(case.available - 0.3)
    carried = np.random.default_rng(1).uniform(-1.0, 1.0, case.available.shape)
    by_gains, by_costs = np.random.default_rng(0).normal(size=[2, num_paths])

    def results(sums):
        with tf.GradientTape() as tape:
            gains, cost = sums()
            loss = tf.reduce_sum(gains * by_gains + cost * by_costs)
        return [gains, cost, *tape.gradient(loss, case.policy.trainable_variables)]

    def of_keras():
        actions = tf.unstack(case.policy(case.features, case.available), axis=1)
        trades = [y - k * x for x, y, k in zip(actions, actions[1:], carried[1:], strict=False)]
        trades = tf.stack([actions[0], *trades], axis=1)
        gains = tf.einsum("nti,nti->n", trades, returns)
        return gains, tf.einsum("nti,ti->n", tf.abs(trades), costs)

    def along_the_paths():
        forward_pass = case.policy.compiled.forward(case.features, case.available)
        return forward_pass.gains_and_costs(returns, costs, carried)

    assert_close(tf.function(results, autograph=False)(along_the_paths), results(of_keras), 1e-10)


@pytest.mark.parametrize(
    ("max_bytes", "observes"), [(10**9, "log_action"), (10**9, "nothing"), (40_000, "last_action")]
)
def test_moments_of_the_layer_inputs_are_those_of_keras(max_bytes, observes, monkeypatch):
    case = Case(seed=13, num_paths=150, observes=observes)
    policy, cotangent = case.policy, tf.zeros_like(case.cotangent)
    pairs = pseudo_gradients(policy, case.features, case.available, cotangent)
    inputs = [np.append(a, np.ones_like(a[..., :1]), axis=-1) for a, _ in pairs]
    expected = [np.einsum("nti,ntj->ij", a, a) for a in inputs]
    monkeypatch.setattr(compiled, "_MAX_BYTES", max_bytes)
    forward_pass = policy.compiled.forward(case.features, case.available)
    policy.compiled(case.features[::-1], case.available)  # takes what was kept
    assert_close(compiled_linearize.input_moments(policy, forward_pass), expected, 1e-10)
    moments = linearize.input_moments(policy, case.features, case.available)
    assert_close(moments, expected, 1e-10)


def test_second_derivatives_are_refused():
    case = Case(seed=8)
    with tf.GradientTape() as outer:
        outer.watch(case.features)
        with tf.GradientTape() as tape:
            tape.watch(case.features)
            loss = tf.reduce_sum(case.policy.compiled(case.features, case.available) ** 2)
        slope = tape.gradient(loss, case.features)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        outer.gradient(slope, case.features)


def test_obstacles_are_named(monkeypatch):
    def obstacle(policy):
        policy.build((None, 3, 2), (3, 4))
        return policy.compiled.obstacle()

    assert obstacle(RecurrentPolicy(3, 1)) is None
    assert obstacle(RecurrentPolicy(3, 1, dtype="float64")) is None
    mixed = RecurrentPolicy(3, 1, dtype="mixed_float16")
    assert obstacle(mixed) == "its precision is mixed_float16"
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        assert obstacle(RecurrentPolicy(3, 1)) == "there is a distribution strategy"

    class OtherCell(HedgeCell):
        pass

    cell = OtherCell(num_instruments=4, units=3, num_blocks=1)
    assert compiled.CompiledRollout(cell).obstacle() == "the cell is a OtherCell"
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    assert obstacle(RecurrentPolicy(3, 1)) == "there is a GPU"


def test_what_the_lanes_keep_is_no_state_of_the_policy(tmp_path):
    case = Case(seed=9, num_paths=50)
    case.results(case.policy.compiled)
    path = tf.train.Checkpoint(case.policy).save(str(tmp_path / "checkpoint"))
    sizes = [math.prod(shape) for _, shape in tf.train.list_variables(path)]
    assert max(sizes) <= max(w.numpy().size for w in case.policy.weights)


@pytest.mark.parametrize("where", [contextlib.nullcontext, lambda: tf.Graph().as_default()])
def test_memory_is_given_back_with_the_policy(where):
    case = Case(seed=14, num_paths=50)
    tf.function(case.results, autograph=False)(case.policy.compiled)
    (lanes,) = case.policy.compiled._lanes.values()
    variable = lanes[0].kept[0]
    assert tf.size(tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)) > 0
    del case, lanes
    with where():
        gc.collect()
    assert tf.size(tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)) == 0
