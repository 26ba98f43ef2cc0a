"""How the actions of a policy change with its weights: what second-order optimization asks.

All functions unroll the policy once more, the first and the last for a subset of the paths. Inside,
time comes first, and the precision is the one the policy computes in; that of its weights outside.
"""

import tensorflow as tf


def pseudo_gradients(policy, features, availability, cotangent):
    """Backpropagates <cotangent, u> to the product s_t = W a_t of every linear layer.

    Args:
        policy: A built `Policy`.
        features: `[num_paths, num_steps, num_features]`.
        availability: `[num_steps, num_instruments]`.
        cotangent: Weights of the actions, `[num_paths, num_steps, num_instruments]`.

    Returns:
        For each of `policy.cell.linear_layers`, its inputs a_t and the gradients
        g_t = d<cotangent, u>/ds_t, each `[num_paths, num_steps, size]`.
    """
    cell = policy.cell
    inputs = _cell_inputs(policy, features, availability)
    num_steps, num_paths = tf.unstack(tf.shape(inputs)[:2])
    probes = [tf.zeros([num_steps, num_paths, size], inputs.dtype) for size in cell.linear_sizes]

    def step(inputs, states):
        inputs, *probes = inputs
        action, states, layer_inputs = cell.step(inputs, states, probes)
        return [action, *layer_inputs], states

    with tf.GradientTape() as tape:
        tape.watch(probes)
        actions, *layer_inputs = _unroll(step, [inputs, *probes], _initial_states(cell, inputs))
        actions = tf.cast(actions, cotangent.dtype)
        pseudo_loss = tf.reduce_sum(actions * _swap_time(cotangent))
    gradients = tape.gradient(pseudo_loss, probes)
    pairs = zip(layer_inputs, gradients, strict=True)
    return [tuple(_swap_time(tf.cast(x, cell.variable_dtype)) for x in pair) for pair in pairs]


def input_moments(policy, features, availability):
    """The sums of [a_t; 1] [a_t; 1]' over paths and times, a_t the inputs of a linear layer.

    Args:
        policy: A built `Policy`.
        features: `[num_paths, num_steps, num_features]`.
        availability: `[num_steps, num_instruments]`.

    Returns:
        For each of `policy.cell.linear_layers`, `[inputs + 1, inputs + 1]`.
    """
    cell = policy.cell
    inputs = _cell_inputs(policy, features, availability)

    def step(x, states):
        _, states, layer_inputs = cell.step(x, states)
        layer_inputs = [tf.cast(a, cell.variable_dtype) for a in layer_inputs]
        inputs = [tf.concat([a, tf.ones_like(a[:, :1])], axis=1) for a in layer_inputs]
        return [tf.matmul(a, a, transpose_a=True) for a in inputs], states

    def body(t, states, moments):
        parts, states = step(inputs[t], states)
        return t + 1, states, [x + y for x, y in zip(moments, parts, strict=True)]

    first, states = step(inputs[0], _initial_states(cell, inputs))
    *_, moments = tf.while_loop(lambda t, *_: t < inputs.shape[0], body, (1, states, first))
    return moments


def action_derivatives(policy, features, availability, directions):
    """Derivatives of the actions along directions in the space of weights: J v, exactly.

    Forward mode: each state travels with its derivatives. The accumulator lives within one time
    step, where there is no loop for it to see.

    Args:
        policy: A built `Policy`.
        features: `[num_paths, num_steps, num_features]`.
        availability: `[num_steps, num_instruments]`.
        directions: A list of directions, each a list of tensors of the shapes of
            `policy.trainable_variables`.

    Returns:
        For each direction, the change of the actions,
        `[num_paths, num_steps, num_instruments]`.
    """
    cell = policy.cell
    inputs = _cell_inputs(policy, features, availability)
    weights = [variable.value for variable in policy.trainable_variables]
    # Of moderate size, so that half precision does not overflow.
    sizes = [tf.reduce_max([tf.reduce_max(tf.abs(x)) for x in v]) for v in directions]
    directions = [
        [tf.math.divide_no_nan(x, size) for x in v]
        for v, size in zip(directions, sizes, strict=True)
    ]

    def step(inputs, states):
        changes, states = with_tangents(
            lambda state: cell.step(inputs[0], state), weights, directions, states
        )
        return [states[0][0], *changes], states

    zeros = _initial_states(cell, inputs)
    actions, *changes = _unroll(step, [inputs], [zeros] * (1 + len(directions)))
    return _swap_time(tf.cast(actions, cell.variable_dtype)), [
        size * _swap_time(tf.cast(change, cell.variable_dtype))
        for change, size in zip(changes, sizes, strict=True)
    ]


def actions(policy, features, availability):
    """All actions of each path."""
    return tf.cast(policy(features, availability), policy.variable_dtype)


def with_tangents(step, weights, directions, states):
    """One step of the state and of its derivatives.

    Args:
        step: A function of the state that returns the action, the next state, and anything more.
        weights: What the step depends on besides, a list of tensors.
        directions: For each derivative, a list of tensors of the shapes of `weights`.
        states: The state, a structure of tensors, and for each direction its derivative.

    Returns:
        For each direction the derivative of the action, and the next states.
    """
    state, *tangents = states
    primals = [*weights, *tf.nest.flatten(state)]
    changes, next_tangents = [], []
    for direction, tangent in zip(directions, tangents, strict=True):
        along = [*direction, *tf.nest.flatten(tangent)]
        with tf.autodiff.ForwardAccumulator(primals, along) as jvp:
            action, next_state, *_ = step(state)
        changes.append(jvp.jvp(action, "zero"))
        next_tangents.append(tf.nest.map_structure(lambda x: jvp.jvp(x, "zero"), next_state))
    return changes, [next_state, *next_tangents]


def _cell_inputs(policy, features, availability):
    inputs = policy.cell_inputs(features, availability)
    return tf.cast(_swap_time(inputs), policy.compute_dtype)


def _swap_time(x):
    return tf.transpose(x, [1, 0, 2])


def _initial_states(cell, inputs):
    return [tf.zeros([tf.shape(inputs)[1], size], inputs.dtype) for size in cell.state_size]


def _unroll(step, sequences, states):
    """Stacked outputs of `outputs, states = step(inputs, states)` along the first axis."""
    num_steps = sequences[0].shape[0]
    arrays = [
        tf.TensorArray(x.dtype, num_steps, element_shape=x.shape[1:]).unstack(x) for x in sequences
    ]
    first_outputs, _ = step([x[0] for x in sequences], states)
    outputs = [tf.TensorArray(x.dtype, num_steps, element_shape=x.shape) for x in first_outputs]

    def body(t, states, outputs):
        values, states = step([array.read(t) for array in arrays], states)
        return t + 1, states, [o.write(t, v) for o, v in zip(outputs, values, strict=True)]

    *_, outputs = tf.while_loop(
        lambda t, *_: t < num_steps, body, (0, states, outputs), maximum_iterations=num_steps
    )
    return [array.stack() for array in outputs]
