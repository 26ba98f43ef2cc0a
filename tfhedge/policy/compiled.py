r"""The policy over all time steps, forward and backward, compiled by XLA: the route of `fit`.

It computes what `HedgeCell` in `keras.layers.RNN` does, and is faster on a CPU, by the steps of
`tfhedge.policy.folded`, time first and paths last.

The backward pass needs the logits, carries and hidden states of all steps, 0.9 GB for 2048 paths of
240 steps. They are kept in variables, which XLA updates in place: as outputs of the forward pass
they would be fresh memory at every step of the training, whose pages the system has to clear. Only
the last call's are kept, or those of the last call of each part of a batch, and no more than fit
into `_MAX_BYTES`; a backward pass that does not find its own runs the forward pass of that chunk
again.

Where they are many, a policy of float32 keeps them in float16, for half the memory and a tenth of
the time. That costs its gradient at most 3e-4 of its size, far less than the sampling of paths.
"""

import math
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import tensorflow as tf

from tfhedge.policy import compiled_chunk
from tfhedge.policy.cell import HedgeCell
from tfhedge.policy.folded import fold, transpose

# Paths in a chunk, whose step works in a core's cache.
_CHUNK = 256
# What the variables may take, and up to where they are as exact as the policy.
_MAX_BYTES = 1_000_000_000
_MAX_EXACT_BYTES = 100_000_000
# Paths of a batch of which the graph does not know how many it has: there is memory for so many.
_PRESUMED_PATHS = 8192


class CompiledRollout:
    """All actions of a batch of paths, as one differentiable operation.

    The paths are cut into chunks, and the chunks dealt to lanes, one for each core: loops that run
    side by side.

    Args:
        cell: A built `HedgeCell`.
    """

    def __init__(self, cell):
        self.cell = cell
        self.num_lanes = num_cores()
        self._lanes = {}

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
        if differentiable:
            return self.forward(features, availability).all_actions()
        shared, lanes = self._shared(availability), self._deal(features)
        actions = [
            _each(lambda x: compiled_chunk.infer(*shared, x), lane, shared) for lane in lanes
        ]
        return _gather(actions, tf.shape(features)[0])

    def forward(self, features, availability, part=(0, 1)):
        """The forward pass by which the actions are computed, differentiable as they are.

        Args:
            features: `[num_paths, num_steps, num_features]`.
            availability: `[num_steps, num_instruments]`.
            part: Which part of a batch this is, and of how many. Parts share the memory, so that
                the backward passes of all of them find their values.

        Returns:
            A `ForwardPass`.
        """
        shared, dealt = self._shared(availability), self._deal(features)
        lanes = self._lanes_for(dealt[0], shared[-1], *part)
        actions, tags = _rollout(lanes, shared, dealt)
        return ForwardPass(lanes, shared, dealt, actions, tags, tf.shape(features)[0])

    def _shared(self, availability):
        """What all lanes need: what is seen of past actions, availability, weights."""
        weights = fold([w for layer in self.cell.linear_layers for w in layer.weights])
        available = tf.cast(availability, weights[0].dtype)[..., tf.newaxis]
        return self.cell.observes, available, weights

    def _deal(self, features):
        """Chunks for each lane, `[num_turns, num_steps, num_features, chunk]`."""
        chunk = _CHUNK
        if features.shape[0]:
            chunk = min(chunk, 16 * math.ceil(features.shape[0] / (16 * self.num_lanes)))
        return _deal(features, self.num_lanes, chunk)

    def _lanes_for(self, features, weights, part, num_parts):
        """The lanes' memory, made once for each number of steps, size of the chunks, and part."""
        num_turns, num_steps, _, chunk = features.shape
        # What the inlet saw and gave stays as it is: it has no bound, and no gate to saturate.
        sizes = [weights[0].shape[1] - features.shape[2], weights[0].shape[0]]
        dtypes = [features.dtype] * 2
        for bias in weights[3:-2:2]:
            sizes += [bias.shape[0], bias.shape[0] // 4, bias.shape[0] // 4]
        num_turns = num_turns or math.ceil(_PRESUMED_PATHS / (num_parts * self.num_lanes * chunk))
        num_paths = num_turns * num_parts * self.num_lanes * chunk
        exact = sum(sizes) * features.dtype.size * num_steps * num_paths <= _MAX_EXACT_BYTES
        half = features.dtype == tf.float32 and not exact
        dtypes += [tf.float16 if half else features.dtype] * (len(sizes) - 2)
        bytes_of_path = sum(size * dtype.size for size, dtype in zip(sizes, dtypes, strict=True))
        bytes_of_turn = num_parts * self.num_lanes * chunk * num_steps * bytes_of_path
        num_slots = min(max(1, _MAX_BYTES // bytes_of_turn), num_turns)
        memory = tuple(sizes), num_slots, num_steps, chunk, tuple(dtypes)
        key = part, memory
        if key not in self._lanes:
            # In a thread of its own, where no graph is being built: `tf.function` allows the making
            # of variables in its first trace only.
            with ThreadPoolExecutor() as pool:
                self._lanes[key] = list(pool.map(lambda _: _Lane(*memory), range(self.num_lanes)))
            variables = [v for lane in self._lanes[key] for v in lane.kept]
            weakref.finalize(self, _release, variables).atexit = False
        return self._lanes[key]


def _release(variables):
    """Frees the memory of variables; TensorFlow's registry of gradients holds them for ever.

    Garbage is collected anywhere, perhaps where a graph is being built, and with locks held: hence
    a thread of its own, for which nobody waits long.
    """

    def empty():
        for variable in variables:
            nothing = tf.zeros([0], variable.dtype)
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=nothing)

    thread = threading.Thread(target=empty, daemon=True)
    thread.start()
    thread.join(timeout=1.0)


class ForwardPass(NamedTuple):
    """A forward pass of a batch, whose values are there until the next one."""

    lanes: list
    shared: tuple
    features: list
    actions: list
    tags: list
    num_paths: tf.Tensor

    def all_actions(self):
        """The actions of each path, `[num_paths, num_steps, num_instruments]`."""
        return _gather(self.actions, self.num_paths)

    def gains_and_costs(self, returns, costs, carried):
        """The sums of u R and of c |u| along each path, u_t = y_t - k_t y_{t-1} of the actions y.

        They are taken where the actions are: to bring those into the order of the paths, and their
        gradients back, would be 4 % of a training step.

        Args:
            returns: R, `[num_paths, num_steps, num_instruments]`.
            costs: c, `[num_steps, num_instruments]`.
            carried: k, likewise.

        Returns:
            Two tensors `[num_paths]`, differentiable by features and weights alone.
        """
        fixed = [tf.cast(x, returns.dtype)[..., tf.newaxis] for x in (costs, carried)]
        dealt = self._deal(returns)
        sums = [_gains_and_costs(y, r, *fixed) for y, r in zip(self.actions, dealt, strict=True)]
        return [
            tf.reshape(tf.stack(parts, axis=1), [-1])[: self.num_paths]
            for parts in zip(*sums, strict=True)
        ]

    def input_moments(self):
        """The sums of [a; 1] [a; 1]' over paths and times, a the inputs of each matrix.

        Returns:
            For inlet, blocks and outlet, as `fold` makes them, `[inputs + 1, inputs + 1]`.
        """
        counted = self._deal(tf.ones([self.num_paths, 1, 1], self.features[0].dtype), copies=0.0)
        parts = zip(self.lanes, self.features, self.actions, self.tags, counted, strict=True)
        moments = [lane.input_moments(self.shared, *part) for lane, *part in parts]
        return [tf.add_n(x) for x in zip(*moments, strict=True)]

    def _deal(self, x, copies=1.0):
        return _deal(x, len(self.lanes), self.features[0].shape[-1], copies)


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
        return compiled_chunk.forward(*shared, features[index], self.kept, slot)

    def _find(self, index, tag, shared, features, actions):
        """The slot of a chunk, filled again if it holds another."""
        slot = tf.minimum(index, self.num_slots - 1)
        tf.cond(
            self.tags[slot] == tag + tf.cast(index, tf.int64),
            lambda: actions[index],
            lambda: self._fill(index, tag, shared, features),
        )
        return slot

    def input_moments(self, shared, features, actions, tag, counted):
        """As those of a `ForwardPass`, of the chunks of this lane."""
        weights = shared[-1]

        def moments_of(index):
            slot = self._find(index, tag, shared, features, actions)
            return compiled_chunk.input_moments(
                weights, features[index], self.kept, slot, counted[index, 0]
            )

        def turn(index, moments):
            parts = moments_of(index - 1)
            return index - 1, [x + y for x, y in zip(moments, parts, strict=True)]

        last = tf.shape(features)[0] - 1
        _, moments = tf.while_loop(
            lambda index, _: index > 0, turn, (last, moments_of(last)), parallel_iterations=1
        )
        return moments

    def backward(self, shared, features, actions, tag, cotangent):
        """The gradients by the features and by the weights."""

        def turn(index, by_features, by_weights):
            index -= 1
            slot = self._find(index, tag, shared, features, actions)
            part, gradients = compiled_chunk.backward(
                *shared,
                transposed,
                features[index],
                self.kept,
                slot,
                actions[index],
                cotangent[index],
            )
            by_weights = [a + b for a, b in zip(by_weights, gradients, strict=True)]
            return index, by_features.write(index, part), by_weights

        num_turns, weights = tf.shape(features)[0], shared[-1]
        transposed = transpose(weights)
        by_features = tf.TensorArray(features.dtype, num_turns, element_shape=features.shape[1:])
        _, by_features, by_weights = tf.while_loop(
            lambda index, *_: index > 0,
            turn,
            (num_turns, by_features, [tf.zeros_like(w) for w in weights]),
            parallel_iterations=1,
        )
        return by_features.stack(), by_weights


def _rollout(lanes, shared, features):
    """The actions in each lane, differentiable by the features and the weights, and their tags."""
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
            parts = zip(lanes, features, actions, tags, cotangents, strict=True)
            by_features, by_weights = zip(
                *(lane.backward(shared, *part) for lane, *part in parts), strict=True
            )
            return [*by_features, *map(tf.add_n, zip(*by_weights, strict=True))], _no_more

        return [*actions, *tags], lambda *cotangents: gradient(
            *arguments, *cotangents[: len(lanes)]
        )

    results = rollout(*features, *weights)
    return results[: len(lanes)], results[len(lanes) :]


@tf.custom_gradient
def _gains_and_costs(*arguments):
    """Those of a lane, `[num_turns, chunk]`."""
    arguments = [tf.stop_gradient(x) for x in arguments]  # as in `_rollout`

    def gradient(*by_sums):
        return compiled_chunk.slopes(*arguments, *by_sums), None, None, None

    return compiled_chunk.gains_and_costs(*arguments), gradient


def _deal(x, num_lanes, chunk, copies=1.0):
    """Chunks for each lane, the last ones filled up with copies of a path times a factor."""
    num_paths, num_steps, size = x.shape
    if num_paths is None or num_paths % (num_lanes * chunk):
        filling = [-tf.shape(x)[0] % (num_lanes * chunk), 1, 1]
        x = tf.concat([x, tf.tile(copies * x[:1], filling)], axis=0)
    x = tf.reshape(x, [-1, num_lanes, chunk, num_steps, size])
    return tf.unstack(tf.transpose(x, [1, 0, 3, 4, 2]))


def _gather(actions, num_paths):
    """Actions of the lanes' chunks as those of the paths."""
    actions = tf.transpose(tf.stack(actions), [1, 0, 4, 2, 3])
    return tf.reshape(actions, [-1, *actions.shape[-2:]])[:num_paths]


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
