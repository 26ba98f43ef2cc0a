r"""One time step of the policy, forward and backward, with paths last.

A step of a chunk of paths is a handful of products `[rows, columns] x [columns, paths]`, whose
operands stay in a core's cache. With one tanh for all gates, a block is

$$z = W\,[\,x\,r;\ h\,] + b, \quad r = (\tfrac1n\textstyle\sum x^2 + \epsilon)^{-1/2}, \qquad
  (i, f, o) = \tfrac12 (1 + \tanh z_{ifo}), \quad g = \tanh z_g, \qquad
  c' = f c + i g, \quad h' = o\,\tanh c', \quad x' = x + h',$$

where `fold` has put the scale of the norm, the 1 of the forget gate's bias and
$\sigma(y) = \tfrac12 (1 + \tanh \tfrac y2)$ into $W$ and $b$. By XLA's sigmoid, slower than its
tanh, a step takes 3 % longer. `HedgeCell` defines what this computes.
"""

import tensorflow as tf

from tfhedge.numerics import symexp
from tfhedge.policy.cell import seen

_EPSILON = 1e-7  # that of `keras.ops.rms_normalization`


def fold(weights):
    """The matrices and biases of the compiled route.

    Args:
        weights: The policy's weights in their order.

    Returns:
        A list of matrices `[rows, columns]` and biases `[rows, 1]`: inlet, blocks, outlet.
    """
    inlet, inlet_bias, *blocks, outlet, outlet_bias = (tf.convert_to_tensor(w) for w in weights)
    folded = [tf.transpose(inlet), inlet_bias[:, tf.newaxis]]
    for scale, kernel, bias in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        gates = gate_factors(scale)
        kernel = kernel * tf.concat([scale, tf.ones_like(scale)], axis=0)[:, tf.newaxis]
        forget = tf.repeat(tf.constant([0.0, 1.0, 0.0, 0.0], scale.dtype), scale.shape[0])
        folded += [tf.transpose(kernel * gates), ((bias + forget) * gates)[:, tf.newaxis]]
    return [*folded, tf.transpose(outlet), outlet_bias[:, tf.newaxis]]


def transpose(weights):
    """The matrices as `step_back` takes them.

    It is for the caller to make them, outside of what XLA compiles: there a transpose becomes part
    of the product again, and a chunk's backward pass, alone on the machine, takes an eighth longer.
    """
    return [tf.transpose(matrix) for matrix in weights[::2]]


def gate_factors(scale):
    """By what `fold` multiplies the gates' logits: the candidate's stay, others are halved."""
    return tf.repeat(tf.constant([0.5, 0.5, 1.0, 0.5], scale.dtype), scale.shape[0])


def zero_state(weights, chunk):
    """The last action, hidden states and carries."""
    num_instruments, units = weights[-2].shape
    sizes = (num_instruments, *[[units] * (len(weights) // 2 - 2)] * 2)
    return tf.nest.map_structure(lambda size: tf.zeros([size, chunk], weights[-2].dtype), sizes)


def step(observes, available, weights, features, state):
    """One step forward.

    Args:
        observes: What the policy sees of its past actions, as for a `Cell`.
        available: `[num_instruments, 1]`.
        weights: As `fold` makes them.
        features: `[num_features, num_paths]`.
        state: As `zero_state` makes it.

    Returns:
        The action `[num_instruments, num_paths]`, the next state, and what `step_back` needs: what
        the inlet saw and gave, then logits, carry and hidden state of each block.
    """
    past, hidden, carry = state
    inlet, inlet_bias, *blocks, outlet, outlet_bias = weights
    past = seen(observes, past)
    x = inlet @ tf.concat([past, features], axis=0) + inlet_bias
    kept, next_hidden, next_carry = [past, x], [], []
    for matrix, bias, h, c in zip(blocks[::2], blocks[1::2], hidden, carry, strict=True):
        logits = matrix @ tf.concat([x * _inverse_rms(x), h], axis=0) + bias
        write, forget, candidate, read = _gates(logits)
        c = forget * c + write * candidate
        h = read * tf.tanh(c)
        x += h
        kept += [logits, c, h]
        next_hidden.append(h)
        next_carry.append(c)
    action = symexp(available * (outlet @ x + outlet_bias))
    return action, (action, next_hidden, next_carry), kept


def step_along(observes, available, weights, directions, features, state, tangents):
    """The derivatives of `step` along directions in the space of the weights.

    All directions take part in each product, so that one of 3 n columns replaces three of n, and
    one of twice the rows two: an eighth faster than by automatic differentiation.

    Args:
        observes: As for `step`.
        available: Likewise.
        weights: Likewise.
        directions: The changes of the weights: of a matrix, one below the other,
            `[num_directions * rows, columns]`; of a bias, `[rows, num_directions, 1]`.
        features: As for `step`.
        state: Likewise.
        tangents: The derivatives of the state, each `[size, num_directions, num_paths]`.

    Returns:
        The derivatives of the action, `[num_instruments, num_directions, num_paths]`, the next
        state and its derivatives.
    """
    past, hidden, carry = state
    past_dot, hidden_dot, carry_dot = tangents
    parts = weights[::2], weights[1::2], directions[::2], directions[1::2]
    inlet, *blocks, outlet = zip(*parts, strict=True)
    past = seen(observes, past)
    past_dot *= _seen_slope(observes, past)[:, tf.newaxis]
    features_dot = tf.repeat(tf.zeros_like(features)[:, tf.newaxis], past_dot.shape[1], axis=1)
    x, x_dot = _product_along(
        inlet, tf.concat([past, features], axis=0), tf.concat([past_dot, features_dot], axis=0)
    )
    next_hidden, next_carry, next_hidden_dot, next_carry_dot = [], [], [], []
    for block, h, c, h_dot, c_dot in zip(blocks, hidden, carry, hidden_dot, carry_dot, strict=True):
        r = _inverse_rms(x)
        normalized = (x * r)[:, tf.newaxis]
        along = tf.reduce_mean(normalized * x_dot, axis=0, keepdims=True)
        normalized_dot = r[:, tf.newaxis] * (x_dot - normalized * along)
        logits, logits_dot = _product_along(
            block, tf.concat([x * r, h], axis=0), tf.concat([normalized_dot, h_dot], axis=0)
        )
        write, forget, candidate, read = (g[:, tf.newaxis] for g in _gates(logits))
        write_dot, forget_dot, candidate_dot, read_dot = tf.split(logits_dot, 4)
        c = c[:, tf.newaxis]
        c_dot = (
            2.0 * forget * (1.0 - forget) * c * forget_dot  # the logits are halved
            + forget * c_dot
            + 2.0 * write * (1.0 - write) * candidate * write_dot
            + write * (1.0 - candidate**2) * candidate_dot
        )
        c = forget * c + write * candidate
        tanh_c = tf.tanh(c)
        h_dot = 2.0 * read * (1.0 - read) * tanh_c * read_dot + read * (1.0 - tanh_c**2) * c_dot
        h = read * tanh_c
        x, x_dot = x + h[:, 0], x_dot + h_dot
        next_hidden.append(h[:, 0])
        next_carry.append(c[:, 0])
        next_hidden_dot.append(h_dot)
        next_carry_dot.append(c_dot)
    y, y_dot = _product_along(outlet, x, x_dot)
    action = symexp(available * y)
    # symexp' is as in `step_back`.
    action_dot = (available * (1.0 + tf.abs(action)))[:, tf.newaxis] * y_dot
    state = action, next_hidden, next_carry
    return action_dot, state, (action_dot, next_hidden_dot, next_carry_dot)


def _product_along(layer, a, a_dot):
    """W a + b, and its derivatives W a' + W' a + b', where a' is `[size, directions, paths]`."""
    matrix, bias, matrix_dot, bias_dot = layer
    rows, columns = matrix.shape
    num_directions, num_paths = a_dot.shape[1], tf.shape(a)[1]
    together = matrix @ tf.concat([a, tf.reshape(a_dot, [columns, -1])], axis=1)
    by_weights = tf.reshape(matrix_dot @ a, [num_directions, rows, num_paths])
    by_input = tf.reshape(together[:, num_paths:], [rows, num_directions, num_paths])
    derivative = by_input + tf.transpose(by_weights, [1, 0, 2]) + bias_dot
    return together[:, :num_paths] + bias, derivative


def step_back(observes, available, transposed, features, kept, before, action, d_action, d_state):
    """Backpropagates through `step`.

    Args:
        observes: As for `step`.
        available: Likewise.
        transposed: The matrices, `[columns, rows]`.
        features: As for `step`.
        kept: What `step` kept.
        before: What it kept one step before, or zeros.
        action: The action.
        d_action: The gradient by it, but for what it does to later steps.
        d_state: The gradients by the next state.

    Returns:
        For inlet, blocks and outlet the inputs and the gradients by the products, then the
        gradients by the features and by the state.
    """
    d_past, d_hidden, d_carry = d_state
    inlet, *blocks, outlet = transposed
    _, _, *values = kept
    xs, inputs = layer_inputs(features, kept, before)

    # symexp' is exp(|y|), which is 1 + |action|.
    d_y = available * (d_action + d_past) * (1.0 + tf.abs(action))
    gradients = [d_y]  # the last layer first
    d_x = outlet @ d_y
    d_hidden, d_carry = list(d_hidden), list(d_carry)
    for block in reversed(range(len(blocks))):
        logits, c, _ = values[3 * block : 3 * block + 3]
        c_before = before[3 + 3 * block]
        write, forget, candidate, read = _gates(logits)
        tanh_c = tf.tanh(c)
        d_h = d_x + d_hidden[block]
        d_c = d_carry[block] + d_h * read * (1.0 - tanh_c**2)
        d_logits = tf.concat(
            [
                d_c * candidate * (2.0 * write * (1.0 - write)),  # the logits are halved
                d_c * c_before * (2.0 * forget * (1.0 - forget)),
                d_c * write * (1.0 - candidate**2),
                d_h * tanh_c * (2.0 * read * (1.0 - read)),
            ],
            axis=0,
        )
        gradients.append(d_logits)
        d_input = blocks[block] @ d_logits
        d_normalized, d_hidden[block] = tf.split(d_input, 2)
        d_carry[block] = d_c * forget
        r = _inverse_rms(xs[block])
        normalized = xs[block] * r
        along = tf.reduce_mean(d_normalized * normalized, axis=0, keepdims=True)
        d_x += r * (d_normalized - normalized * along)
    gradients.append(d_x)
    d_input = inlet @ d_x
    num_instruments = outlet.shape[1]
    d_past, d_features = d_input[:num_instruments], d_input[num_instruments:]
    d_past *= _seen_slope(observes, kept[0])
    pairs = list(zip(inputs, gradients[::-1], strict=True))
    return pairs, d_features, (d_past, d_hidden, d_carry)


def layer_inputs(features, kept, before):
    """What inlet, blocks and outlet multiplied, with a row of ones for the bias.

    By the ones the gradient by the bias is a column of the product that gives the gradient by the
    matrix; a sum of its own took a tenth of the backward pass.

    Args:
        features: As for `step`.
        kept: What `step` kept.
        before: What it kept one step before, or zeros.

    Returns:
        The residual stream before each block and after the last, and the layers' inputs.
    """
    seen, x, *values = kept
    one = tf.ones_like(features[:1])
    xs, inputs = [x], [tf.concat([seen, features, one], axis=0)]
    for h, h_before in zip(values[2::3], before[4::3], strict=True):
        inputs.append(tf.concat([x * _inverse_rms(x), h_before, one], axis=0))
        x += h
        xs.append(x)
    return xs, [*inputs, tf.concat([x, one], axis=0)]


def kept_around(arrays, t, first=0):
    """What was kept at time t, and one step before or zeros, as `step_back` takes them.

    Args:
        arrays: What was kept, each `[num_times, size, num_paths]`.
        t: The time step.
        first: Where time 0 is in the arrays.
    """
    before = first + tf.maximum(t - 1, 0)
    return (
        [x[first + t] for x in arrays],
        [tf.where(t > 0, x[before], tf.zeros([], x.dtype)) for x in arrays],
    )


def unroll(body, num_steps, state, backward=False):
    """Stacked outputs of `outputs, state = body(t, state)` for t = 0, 1, ..., or t = ..., 1, 0."""
    specs, _ = body(0, state)
    outputs = [tf.TensorArray(x.dtype, num_steps, element_shape=x.shape) for x in specs]

    def write(count, state, outputs):
        t = num_steps - 1 - count if backward else count
        values, state = body(t, state)
        return count + 1, state, [o.write(t, v) for o, v in zip(outputs, values, strict=True)]

    *_, outputs = tf.while_loop(
        lambda count, *_: count < num_steps,
        write,
        (0, state, outputs),
        maximum_iterations=num_steps,
    )
    return [array.stack() for array in outputs]


def _gates(logits):
    """Write, forget, candidate and read, by one tanh."""
    write, forget, candidate, read = tf.split(tf.tanh(logits), 4)
    return 0.5 + 0.5 * write, 0.5 + 0.5 * forget, candidate, 0.5 + 0.5 * read


def _seen_slope(observes, past):
    """Returns the derivative of what is seen with respect to the last action, from what is seen."""
    if observes == "log_action":
        return tf.exp(-tf.abs(past))  # 1 / (1 + |action|)
    return tf.ones_like(past) if observes == "last_action" else tf.zeros_like(past)


def _inverse_rms(x):
    return tf.math.rsqrt(tf.reduce_mean(x**2, axis=0, keepdims=True) + _EPSILON)
