"""All time steps of a chunk of paths, compiled by XLA: what `CompiledRollout` is made of.

Time comes first and paths last. `kept` are a lane's variables, with room for the values of several
chunks, and `slot` says for which of them.
"""

import tensorflow as tf

from tfhedge.policy.folded import (
    kept_around,
    layer_inputs,
    step,
    step_back,
    unroll,
    zero_state,
)


@tf.function(autograph=False, jit_compile=True)
def infer(observes, available, weights, features):
    """The actions of a chunk, `[num_steps, num_instruments, num_paths]`."""
    num_steps, _, chunk = features.shape

    def body(t, state):
        action, state, _ = step(observes, available[t], weights, features[t], state)
        return [action], state

    (actions,) = unroll(body, num_steps, zero_state(weights, chunk))
    return actions


@tf.function(autograph=False, jit_compile=True)
def forward(observes, available, weights, features, kept, slot):
    """The actions of a chunk; what the backward pass needs goes to the slot."""
    num_steps, _, chunk = features.shape
    first, outlet = slot * num_steps, weights[-2]
    arrays = [
        tf.TensorArray(v.dtype, v.shape[0], element_shape=v.shape[1:]).unstack(v) for v in kept
    ]
    actions = tf.TensorArray(outlet.dtype, num_steps, element_shape=[outlet.shape[0], chunk])

    def body(t, state, actions, arrays):
        action, state, values = step(observes, available[t], weights, features[t], state)
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
def backward(observes, available, weights, transposed, features, kept, slot, actions, cotangent):
    """Gradients of <cotangent, actions> by the features and the weights of a chunk."""
    num_steps, _, chunk = features.shape

    def body(t, d_state, d_features, d_weights):
        t -= 1
        pairs, d_observed, d_state = step_back(
            observes,
            available[t],
            transposed,
            features[t],
            *_kept_around(kept, t, slot, features),
            actions[t],
            cotangent[t],
            d_state,
        )
        gradients = [tf.matmul(g, a, transpose_b=True) for a, g in pairs]
        d_weights = [x + y for x, y in zip(d_weights, gradients, strict=True)]
        return t, d_state, d_features.write(t, d_observed), d_weights

    zeros = [tf.zeros([x.shape[0], x.shape[1] + 1], x.dtype) for x in weights[::2]]
    d_features = tf.TensorArray(features.dtype, num_steps, element_shape=features.shape[1:])
    *_, d_features, d_weights = tf.while_loop(
        lambda t, *_: t > 0,
        body,
        (num_steps, zero_state(weights, chunk), d_features, zeros),
        maximum_iterations=num_steps,
    )
    return d_features.stack(), [part for x in d_weights for part in (x[:, :-1], x[:, -1:])]


@tf.function(autograph=False, jit_compile=True)
def input_moments(weights, features, kept, slot, counted):
    """The sums of [a; 1] [a; 1]' over all times and those paths of a chunk that count."""
    num_steps = features.shape[0]

    def body(t, moments):
        _, inputs = layer_inputs(features[t], *_kept_around(kept, t, slot, features))
        inputs = [counted * a for a in inputs]
        products = [tf.matmul(a, a, transpose_b=True) for a in inputs]
        return t + 1, [x + y for x, y in zip(moments, products, strict=True)]

    sizes = [matrix.shape[1] + 1 for matrix in weights[::2]]
    zeros = [tf.zeros([size, size], features.dtype) for size in sizes]
    _, moments = tf.while_loop(
        lambda t, _: t < num_steps, body, (0, zeros), maximum_iterations=num_steps
    )
    return moments


@tf.function(autograph=False, jit_compile=True)
def gains_and_costs(actions, returns, costs, carried):
    """The sums of u R and of c |u| along each path of some chunks, `[num_chunks, num_paths]`.

    The trades u are those of the actions y as in `Controls`, u_t = y_t - k_t y_{t-1}.

    Args:
        actions: y, `[num_chunks, num_steps, num_instruments, num_paths]`.
        returns: R, likewise.
        costs: c, `[num_steps, num_instruments, 1]`.
        carried: k, likewise.
    """
    num_steps = actions.shape[1]

    def body(t, before, gains, total):
        y = actions[:, t]
        u = y - carried[t] * before
        gains += tf.reduce_sum(u * returns[:, t], axis=1)
        return t + 1, y, gains, total + tf.reduce_sum(tf.abs(u) * costs[t], axis=1)

    zeros = tf.zeros_like(actions[:, 0, 0])
    # A loop, since XLA takes three times as long for one sum over both axes.
    *_, gains, total = tf.while_loop(
        lambda t, *_: t < num_steps,
        body,
        (0, tf.zeros_like(actions[:, 0]), zeros, zeros),
        maximum_iterations=num_steps,
    )
    return gains, total


@tf.function(autograph=False, jit_compile=True)
def slopes(actions, returns, costs, carried, by_gains, by_costs):
    """The gradient by the actions, of those by `gains_and_costs`."""
    by_gains, by_costs = (x[:, tf.newaxis, tf.newaxis] for x in (by_gains, by_costs))
    one_later = [[0, 0], [1, 0], [0, 0], [0, 0]]
    trades = actions - carried * tf.pad(actions[:, :-1], one_later)
    by_trades = by_gains * returns + by_costs * (tf.sign(trades) * costs)
    one_earlier = [[0, 0], [0, 1], [0, 0], [0, 0]]
    return by_trades - tf.pad((carried * by_trades)[:, 1:], one_earlier)


def _kept_around(kept, t, slot, features):
    """What a slot keeps of a time step and of the one before, as exact as the features."""
    around = kept_around(kept, t, slot * features.shape[0])
    return tf.nest.map_structure(lambda x: tf.cast(x, features.dtype), around)
