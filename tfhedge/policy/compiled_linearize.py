"""What `tfhedge.policy.linearize` computes, compiled by XLA, by the steps of the folded policy."""

import tensorflow as tf

from tfhedge.policy.folded import (
    fold,
    gate_factors,
    kept_around,
    step,
    step_along,
    step_back,
    transpose,
    unroll,
    zero_state,
)


def pseudo_gradients(policy, features, availability, cotangent):
    """As `tfhedge.policy.linearize.pseudo_gradients`."""
    weights = [variable.value for variable in policy.weights]
    folded = fold(weights)
    shared = (
        policy.cell.observes,
        _column(availability, features.dtype),
        folded,
        transpose(folded),
    )
    pairs = _side_by_side(_pseudo_gradients, shared, [features, cotangent])
    unfolded = [pairs[0]]
    for (a, g), scale, kernel in zip(pairs[1:-1], weights[2:-2:3], weights[3:-2:3], strict=True):
        normalized, hidden = tf.split(a, 2, axis=1)
        g *= gate_factors(scale)[:, tf.newaxis]
        unfolded += [
            (normalized, tf.matmul(kernel[: scale.shape[0]], g)),
            (tf.concat([scale[:, tf.newaxis] * normalized, hidden], axis=1), g),
        ]
    unfolded.append(pairs[-1])
    return [(_paths_first(a), _paths_first(g)) for a, g in unfolded]


def input_moments(policy, forward_pass):
    """As `tfhedge.policy.linearize.input_moments`, of a `ForwardPass` of the policy."""
    inlet, *blocks, outlet = forward_pass.input_moments()
    moments = [inlet]
    for moment, scale in zip(blocks, policy.trainable_variables[2:-2:3], strict=True):
        units = scale.shape[0]
        own = tf.concat([tf.range(units), [2 * units]], axis=0)  # of the norm's output, and 1
        moments.append(tf.gather(tf.gather(moment, own, axis=0), own, axis=1))
        factors = tf.concat([scale.value, tf.ones([units + 1], moment.dtype)], axis=0)
        moments.append(moment * factors * factors[:, tf.newaxis])
    return [*moments, outlet]


def action_derivatives(policy, features, availability, directions):
    """As `tfhedge.policy.linearize.action_derivatives`."""
    weights = [variable.value for variable in policy.trainable_variables]
    changes = []
    for direction in directions:
        with tf.autodiff.ForwardAccumulator(weights, direction) as jvp:
            folded = fold(weights)
        changes.append([jvp.jvp(w) for w in folded])
    stacked = [
        tf.stack(x, axis=1) if number % 2 else tf.concat(x, axis=0)
        for number, x in enumerate(zip(*changes, strict=True))
    ]
    shared = (policy.cell.observes, _column(availability, features.dtype), folded, stacked)
    actions, derivatives = _side_by_side(_derivatives, shared, [features])
    return _paths_first(actions), [_paths_first(x) for x in tf.unstack(derivatives, axis=2)]


def actions(policy, features, availability):
    """As `tfhedge.policy.linearize.actions`."""
    return policy.compiled(features, availability, differentiable=False)


def _side_by_side(loop, shared, batches):
    """What a loop gives for all paths, by two loops of half of them, as in `CompiledRollout`."""
    half = (batches[0].shape[0] or tf.shape(batches[0])[0]) // 2
    halves = [
        loop(*shared, *(_paths_last(x[part]) for x in batches))
        for part in (slice(half), slice(half, None))
    ]
    return tf.nest.map_structure(lambda *x: tf.concat(x, axis=-1), *halves)


def _column(availability, dtype):
    return tf.cast(availability, dtype)[..., tf.newaxis]


def _paths_last(x):
    return tf.transpose(x, [1, 2, 0])


def _paths_first(x):
    return tf.transpose(x, [2, 0, 1])


@tf.function(autograph=False, jit_compile=True)
def _pseudo_gradients(observes, available, weights, transposed, features, cotangent):
    """Inputs and gradients of inlet, blocks and outlet, each `[num_steps, size, num_paths]`."""
    num_steps, num_paths = features.shape[0], tf.shape(features)[2]

    def forward(t, state):
        action, state, kept = step(observes, available[t], weights, features[t], state)
        return [action, *kept], state

    actions, *kept = unroll(forward, num_steps, zero_state(weights, num_paths))

    def backward(t, d_state):
        pairs, _, d_state = step_back(
            observes,
            available[t],
            transposed,
            features[t],
            *kept_around(kept, t),
            actions[t],
            cotangent[t],
            d_state,
        )
        return tf.nest.flatten([(a[:-1], g) for a, g in pairs]), d_state

    outputs = unroll(backward, num_steps, zero_state(weights, num_paths), backward=True)
    return list(zip(outputs[::2], outputs[1::2], strict=True))


@tf.function(autograph=False, jit_compile=True)
def _derivatives(observes, available, weights, directions, features):
    """The changes of the actions, `[num_steps, num_instruments, num_directions, num_paths]`."""
    num_steps, num_paths = features.shape[0], tf.shape(features)[2]
    num_directions = directions[-1].shape[1]

    def body(t, states):
        change, *states = step_along(
            observes, available[t], weights, directions, features[t], *states
        )
        return [states[0][0], change], states

    state = zero_state(weights, num_paths)
    tangents = tf.nest.map_structure(
        lambda x: tf.zeros([x.shape[0], num_directions, num_paths], x.dtype), state
    )
    return unroll(body, num_steps, [state, tangents])
