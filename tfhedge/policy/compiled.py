r"""The policy over all time steps, forward and backward, compiled by XLA: the route of `fit`.

It computes what `HedgeCell` in `keras.layers.RNN` does, and is faster on a CPU, by the steps of
`tfhedge.policy.folded`, time first and paths last.

The backward pass needs the logits, carries and hidden states of all steps, 0.9 GB for 2048 paths of
240 steps. They are kept in variables, which XLA updates in place: as outputs of the forward pass
they would be fresh memory at every step of the training, whose pages the system has to clear. Only
the last call's are kept, and no more than fit into `_MAX_BYTES`; a backward pass that does not find
its own runs the forward pass of that chunk again.

Where they are many, a policy of float32 keeps them in float16, for half the memory and a tenth of
the time. That costs its gradient at most 3e-4 of its size, far less than the sampling of paths.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import tensorflow as tf

from tfhedge.policy.cell import HedgeCell
from tfhedge.policy.folded import fold, kept_around, step, step_back, unroll, zero_state

# Paths in a chunk, whose step works in a core's cache.
_CHUNK = 256
# What the variables may take, and up to where they are as exact as the policy.
_MAX_BYTES = 1_000_000_000
_MAX_EXACT_BYTES = 100_000_000


class CompiledRollout:
    """All actions of a batch of paths, as one differentiable operation.

    The paths are cut into chunks, and the chunks dealt to lanes, one for each core: loops that run
    side by side.

    Args:
        cell: A built `HedgeCell`.
    """

    # Shared, as TensorFlow never forgets a custom gradient, nor the variables in it: a process that
    # trains one policy after another would fill its memory. The tags tell the passes apart.
    _lanes: ClassVar[dict] = {}

    def __init__(self, cell):
        self.cell = cell
        self.num_lanes = num_cores()

    def obstacle(self):
        """Why this is not the way to compute here, or None."""
        if type(self.cell) is not HedgeCell:
            return f"the cell is a {type(self.cell).__name__}"
        if self.cell.compute_dtype != self.cell.variable_dtype:
            return f"its precision is {self.cell.dtype_policy.name}"
        if tf.distribute.has_strategy():
            return "there is a distribution strategy"
        if tf.config.list_logical_devices("GPU"):
            return "there is a GPU"
        return None

    def __call__(self, features, availability, differentiable=True):
        """All actions of each path.

        Args:
            features: `[num_paths, num_steps, num_features]`.
            availability: `[num_steps, num_instruments]`.
            differentiable: Whether gradients may be asked for.

        Returns:
            Actions, `[num_paths, num_steps, num_instruments]`.
        """
        num_paths, (_, num_steps, num_features) = tf.shape(features)[0], features.shape
        chunk = _CHUNK
        if features.shape[0]:
            chunk = min(chunk, 16 * math.ceil(features.shape[0] / (16 * self.num_lanes)))
        # The last chunks are filled up with copies of a path, for which no one asks.
        copies = tf.tile(features[:1], [-num_paths % (self.num_lanes * chunk), 1, 1])
        features = tf.concat([features, copies], axis=0)
        features = tf.reshape(features, [-1, self.num_lanes, chunk, num_steps, num_features])
        features = tf.unstack(tf.transpose(features, [1, 0, 3, 4, 2]))
        weights = fold([w for layer in self.cell.linear_layers for w in layer.weights])
        shared = (
            self.cell.observes == "holdings",
            tf.cast(availability, weights[0].dtype)[..., tf.newaxis],
            weights,
        )
        if differentiable:
            actions = _rollout(self._lanes_for(features[0], weights), shared, features)
        else:
            actions = [_each(lambda x: _infer(*shared, x), lane, shared) for lane in features]
        actions = tf.transpose(tf.stack(actions), [1, 0, 4, 2, 3])
        return tf.reshape(actions, [-1, num_steps, availability.shape[1]])[:num_paths]

    def _lanes_for(self, features, weights):
        """The lanes' memory, made once for policies, numbers of steps and chunks of one size."""
        num_turns, num_steps, _, chunk = features.shape
        # What the inlet saw and gave stays as it is: it has no bound, and no gate to saturate.
        sizes = [weights[0].shape[1] - features.shape[2], weights[0].shape[0]]
        dtypes = [features.dtype] * 2
        for bias in weights[3:-2:2]:
            sizes += [bias.shape[0], bias.shape[0] // 4, bias.shape[0] // 4]
        num_paths = math.inf if num_turns is None else num_turns * self.num_lanes * chunk
        exact = sum(sizes) * features.dtype.size * num_steps * num_paths <= _MAX_EXACT_BYTES
        half = features.dtype == tf.float32 and not exact
        dtypes += [tf.float16 if half else features.dtype] * (len(sizes) - 2)
        bytes_of_path = sum(size * dtype.size for size, dtype in zip(sizes, dtypes, strict=True))
        num_slots = max(1, _MAX_BYTES // (self.num_lanes * chunk * num_steps * bytes_of_path))
        num_slots = min(num_slots, num_turns or num_slots)
        key = tuple(sizes), num_slots, num_steps, chunk, tuple(dtypes)
        lanes = self._lanes.setdefault(key, [])
        if len(lanes) < self.num_lanes:
            # In a thread of its own, where no graph is being built: `tf.function` allows the making
            # of variables in its first trace only.
            with ThreadPoolExecutor() as pool:
                lanes += pool.map(lambda _: _Lane(*key), range(len(lanes), self.num_lanes))
        return lanes[: self.num_lanes]


class _Lane:
    """What a lane keeps of the forward pass: in each slot one chunk, and a tag to know it by."""

    def __init__(self, sizes, num_slots, num_steps, chunk, dtypes):
        self.num_slots = num_slots
        self.kept = [
            tf.Variable(tf.zeros([num_slots * num_steps, size, chunk], dtype), trainable=False)
            for size, dtype in zip(sizes, dtypes, strict=True)
        ]
        self.tags = tf.Variable(tf.zeros([num_slots], tf.int64), trainable=False)
        self.calls = tf.Variable(0, dtype=tf.int64, trainable=False)

    def forward(self, shared, features):
        """The actions of all chunks, and the tag of the first."""
        tag = self.calls.assign_add(1) * 2**20
        indices = tf.range(tf.shape(features)[0])
        actions = _each(lambda i: self._fill(i, tag, shared, features), indices, shared)
        return actions, tag

    def _fill(self, index, tag, shared, features):
        slot = tf.minimum(index, self.num_slots - 1)
        self.tags.scatter_nd_update([[slot]], [tag + tf.cast(index, tf.int64)])
        return _forward(*shared, features[index], self.kept, slot)

    def backward(self, shared, features, actions, cotangent, tag):
        """The gradients by the features and by the weights."""

        def turn(index, by_features, by_weights):
            index -= 1
            slot = tf.minimum(index, self.num_slots - 1)
            tf.cond(
                self.tags[slot] == tag + tf.cast(index, tf.int64),
                lambda: actions[index],
                lambda: self._fill(index, tag, shared, features),
            )
            part, gradients = _backward(
                *shared, features[index], self.kept, slot, actions[index], cotangent[index]
            )
            by_weights = [a + b for a, b in zip(by_weights, gradients, strict=True)]
            return index, by_features.write(index, part), by_weights

        num_turns, weights = tf.shape(features)[0], shared[-1]
        by_features = tf.TensorArray(features.dtype, num_turns, element_shape=features.shape[1:])
        _, by_features, by_weights = tf.while_loop(
            lambda index, *_: index > 0,
            turn,
            (num_turns, by_features, [tf.zeros_like(w) for w in weights]),
            parallel_iterations=1,
        )
        return by_features.stack(), by_weights


def _rollout(lanes, shared, features):
    """The actions in each lane, a differentiable function of the features and the weights."""
    *options, weights = shared

    def split(arguments):
        # Without the stop a tape would have the compiled functions differentiated too.
        arguments = [tf.stop_gradient(x) for x in arguments]
        return arguments[: len(lanes)], (*options, arguments[len(lanes) :])

    @tf.custom_gradient
    def rollout(*arguments):
        features, shared = split(arguments)
        results = [lane.forward(shared, x) for lane, x in zip(lanes, features, strict=True)]
        actions, tags = zip(*results, strict=True)

        @tf.custom_gradient
        def gradient(*arguments_and_cotangents):
            arguments = arguments_and_cotangents[: -len(lanes)]
            cotangents = [tf.stop_gradient(x) for x in arguments_and_cotangents[-len(lanes) :]]
            features, shared = split(arguments)
            parts = zip(lanes, features, actions, cotangents, tags, strict=True)
            by_features, by_weights = zip(
                *(lane.backward(shared, *part) for lane, *part in parts), strict=True
            )
            return [*by_features, *map(tf.add_n, zip(*by_weights, strict=True))], _no_more

        return list(actions), lambda *cotangents: gradient(*arguments, *cotangents)

    return rollout(*features, *weights)


def _no_more(*_):
    raise NotImplementedError("The compiled rollout has first derivatives only")


def _each(function, elements, shared):
    """`function` of each of the elements, chunk after chunk."""
    available = shared[1]
    spec = tf.TensorSpec([*available.shape[:2], None], available.dtype)
    return tf.map_fn(function, elements, fn_output_signature=spec, parallel_iterations=1)


def num_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@tf.function(autograph=False, jit_compile=True)
def _infer(holds, available, weights, features):
    num_steps, _, chunk = features.shape

    def body(t, state):
        action, state, _ = step(holds, available[t], weights, features[t], state)
        return [action], state

    (actions,) = unroll(body, num_steps, zero_state(weights, chunk))
    return actions


@tf.function(autograph=False, jit_compile=True)
def _forward(holds, available, weights, features, kept, slot):
    """The actions of a chunk; what the backward pass needs goes to the slot."""
    num_steps, _, chunk = features.shape
    first, outlet = slot * num_steps, weights[-2]
    arrays = [
        tf.TensorArray(v.dtype, v.shape[0], element_shape=v.shape[1:]).unstack(v) for v in kept
    ]
    actions = tf.TensorArray(outlet.dtype, num_steps, element_shape=[outlet.shape[0], chunk])

    def body(t, state, actions, arrays):
        action, state, values = step(holds, available[t], weights, features[t], state)
        values = [tf.cast(x, v.dtype) for x, v in zip(values, kept, strict=True)]
        arrays = [array.write(first + t, x) for array, x in zip(arrays, values, strict=True)]
        return t + 1, state, actions.write(t, action), arrays

    *_, actions, arrays = tf.while_loop(
        lambda t, *_: t < num_steps,
        body,
        (0, zero_state(weights, chunk), actions, arrays),
        maximum_iterations=num_steps,
    )
    for variable, array in zip(kept, arrays, strict=True):
        variable.assign(array.stack())
    return actions.stack()


@tf.function(autograph=False, jit_compile=True)
def _backward(holds, available, weights, features, kept, slot, actions, cotangent):
    """Gradients of <cotangent, actions> by the features and the weights of a chunk."""
    num_steps, _, chunk = features.shape
    first = slot * num_steps

    def body(t, d_state, d_features, d_weights):
        t -= 1
        now, before = tf.nest.map_structure(
            lambda x: tf.cast(x, features.dtype), kept_around(kept, t, first)
        )
        pairs, d_observed, d_state = step_back(
            holds,
            available[t],
            weights,
            features[t],
            now,
            before,
            actions[t],
            cotangent[t],
            d_state,
        )
        gradients = []
        for a, g in pairs:
            gradients += [
                tf.matmul(g, a, transpose_b=True),
                tf.reduce_sum(g, axis=1, keepdims=True),
            ]
        d_weights = [x + y for x, y in zip(d_weights, gradients, strict=True)]
        return t, d_state, d_features.write(t, d_observed), d_weights

    d_features = tf.TensorArray(features.dtype, num_steps, element_shape=features.shape[1:])
    *_, d_features, d_weights = tf.while_loop(
        lambda t, *_: t > 0,
        body,
        (num_steps, zero_state(weights, chunk), d_features, [tf.zeros_like(w) for w in weights]),
        maximum_iterations=num_steps,
    )
    return d_features.stack(), d_weights
