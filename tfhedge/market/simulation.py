"""Paths of the Heston market."""

import functools

import numpy as np
import tensorflow as tf

from tfhedge.checks import one_of, positive, positive_integer
from tfhedge.market.exact import ExactScheme
from tfhedge.market.heston import Heston
from tfhedge.market.quadratic_exponential import QuadraticExponentialScheme

# Paths are drawn in blocks of this many, each with a seed of its own.
_BLOCK = 256
_SCHEMES = {"exact": ExactScheme, "qe": QuadraticExponentialScheme}


def simulate(market, num_paths, num_steps, dt, seed, first_path=0, scheme="exact"):
    r"""Simulates spot and variance on a grid of times.

    $$x_t = x_0\,e^{(r - q)t}\exp\Bigl(\int_0^t\sqrt{v_s}\,dB_s - \frac12\int_0^tv_s\,ds\Bigr)$$

    at $t = 0, \Delta, 2\Delta, \dots$ with the market's rate $r$ and dividend yield $q$, by

    - `"exact"`: `tfhedge.market.exact.ExactScheme`, from the transition law itself. Its error does
      not depend on the step, and its documentation states it.
    - `"qe"`: `tfhedge.market.quadratic_exponential.QuadraticExponentialScheme`, Andersen's QE-M,
      an approximation that is good for short steps, and cheaper.

    Path $i$ depends on `seed`, `num_steps` and $i$, and not on the batch in which it is drawn. The
    first call for a market and step takes seconds: it tabulates the law and compiles the graph.

    Args:
        market: the `Heston` market.
        num_paths: number of paths, a Python int.
        num_steps: number of time steps, a Python int.
        dt: length $\Delta$ of a time step in years.
        seed: integer tensor or pair, shape `[2]`.
        first_path: index of the first path, a non-negative integer or integer tensor.
        scheme: `"exact"` or `"qe"`.

    Returns:
        Tuple `(spot, variance)` of float32 tensors, `[num_paths, num_steps + 1]`.

    Raises:
        ValueError: if the market is no `Heston`, `num_paths` or `num_steps` no positive integer,
            `dt` not positive, `seed` no two integers, `first_path` no integer or known to be
            negative, or the scheme unknown.

    >>> from tfhedge.market.heston import Heston
    >>> market = Heston.from_paper()
    >>> spot, variance = simulate(market, num_paths=4, num_steps=240, dt=1 / 250, seed=(1, 2))
    >>> spot.shape, variance.shape
    (TensorShape([4, 241]), TensorShape([4, 241]))
    >>> tail, _ = simulate(market, 1, 240, 1 / 250, seed=(1, 2), first_path=3)
    >>> bool(tf.reduce_all(tail[0] == spot[3]))
    True
    """
    if not isinstance(market, Heston):
        raise ValueError(f"Expected `market` to be a Heston. Received: market={market!r}")
    num_paths = positive_integer("num_paths", num_paths)
    num_steps = positive_integer("num_steps", num_steps)
    dt = positive("dt", dt)
    scheme = one_of("scheme", scheme, tuple(_SCHEMES))
    seed = _integers("seed", seed, [2], -(2**63), "two integers")
    first_path = _integers("first_path", first_path, [], 0, "a non-negative integer")
    return _simulate(_representative(market), num_paths, num_steps, dt, seed, first_path, scheme)


@functools.lru_cache(maxsize=16)
def _representative(market):
    """The first of all equal markets: TensorFlow keeps a graph while the market it is of lives."""
    return market


def _integers(name, value, shape, low, expectation):
    """An int64 tensor: `fold_in` gives other numbers for an index of another type."""
    message = f"Expected `{name}` to be {expectation}. Received: {name}={value!r}"
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise ValueError(message) from error
    known = tf.get_static_value(tensor)  # None for a tensor of a graph
    is_integer = tensor.dtype.is_integer and tensor.shape.is_compatible_with(shape)
    if not is_integer or (known is not None and np.any(known < low)):
        raise ValueError(message)
    return tf.cast(tensor, tf.int64)


@tf.function(autograph=False)
def _simulate(market, num_paths, num_steps, dt, seed, first_path, scheme):
    shape = [_SCHEMES[scheme](market, dt).num_fields, num_steps, _BLOCK]

    def block(index):
        # Drawn here, since XLA's random bits take ten times the time of TensorFlow's.
        key = tf.random.fold_in(seed, index)
        bits = tf.random.stateless_uniform(shape, key, minval=None, maxval=None, dtype=tf.int32)
        return _block(bits, market, dt, scheme)

    # Blocks are simulated whole: a path's arithmetic does not depend on where it is cut off.
    first_block, offset = first_path // _BLOCK, first_path % _BLOCK
    blocks = tf.range(first_block, (first_path + num_paths - 1) // _BLOCK + 1)
    paths = tf.map_fn(block, blocks, fn_output_signature=(tf.float32, tf.float32))

    def cut(values):
        values = tf.reshape(values, [-1, num_steps + 1])[offset : offset + num_paths]
        return tf.ensure_shape(values, [num_paths, num_steps + 1])

    return tuple(cut(values) for values in paths)


# Compiled once for a market, step and scheme, whatever the number of paths.
@tf.function(autograph=False, jit_compile=True)
def _block(bits, market, dt, scheme):
    """Spot and variance `[num_paths, num_steps + 1]` of one block, from its random bits."""
    scheme = _SCHEMES[scheme](market, dt)
    noise = scheme.noise(bits)
    start = tf.fill([_BLOCK], tf.constant(market.v0, tf.float32))
    later, surprise = tf.scan(
        lambda state, numbers: scheme.next_variance(state[0], numbers),
        noise,
        initializer=(start, tf.zeros_like(start)),
    )
    variance = tf.concat([start[tf.newaxis], later], axis=0)
    log_return = scheme.log_return(variance[:-1], later, surprise, bits)
    # `tf.cumsum` takes XLA more than twice the time of this scan.
    log_return += (market.rate - market.dividend_yield) * dt
    log_spot = tf.scan(tf.add, log_return)
    first = tf.fill([1, _BLOCK], tf.constant(market.spot, tf.float32))
    spot = tf.concat([first, market.spot * tf.exp(log_spot)], axis=0)
    return tf.transpose(spot), tf.transpose(variance)
