"""Random numbers of a continuous law from random bits, by inversion."""

import tensorflow as tf


def tail_and_sign(bits):
    r"""A uniform number in $(0, \tfrac12]$ and an independent sign.

    The number is $(j + \tfrac12)2^{-32}$ with $j$ of 31 bits, rounded to float32: it keeps its
    relative precision near 0, where a law's tail is.

    Args:
        bits: int32 tensor, all of whose bits are random.

    Returns:
        Tuple of float32 tensors of the shape of `bits`.

    >>> tail, sign = tail_and_sign(tf.constant([2**30, -(2**31)]))
    >>> print(tail.numpy(), sign.numpy())
    [2.5000000e-01 1.1641532e-10] [ 1. -1.]
    """
    tail = (tf.cast(tf.bitwise.bitwise_and(bits, 2**31 - 1), tf.float32) + 0.5) * 2.0**-32
    return tail, tf.where(bits < 0, -1.0, 1.0)


def uniform(bits):
    """Uniform numbers in (0, 1], float32, of the shape of the int32 tensor `bits`.

    >>> print(uniform(tf.constant([2**30, -(2**30)])).numpy())
    [0.25 0.75]
    """
    tail, sign = tail_and_sign(bits)
    return tail + tf.where(sign < 0.0, 0.5, 0.0)


def normal(bits):
    """Standard normal numbers, float32, of the shape of the int32 tensor `bits`.

    >>> print(normal(tf.constant([2**30, -(2**30), 0])).numpy().round(4))
    [ 0.6745 -0.6745  6.338 ]
    """
    tail, sign = tail_and_sign(bits)
    return sign * normal_quantile(tail)


def normal_quantile(tail):
    r"""$x$ such that a standard normal number is above it with a given probability.

    To a relative error of 4e-7. XLA's own `ndtri` is infinite below 2e-8.

    Args:
        tail: float32 tensor of probabilities in [1e-11, 1/2].

    Returns:
        float32 tensor of the shape of `tail`.

    Reference: Wichura, Algorithm AS 241 (1988), PPND7.
    """
    centre = 0.5 - tail
    r = 0.180625 - centre**2
    numerator = ((59.10937472 * r + 159.29113202) * r + 50.434271938) * r + 3.3871327179
    denominator = ((67.1875636 * r + 78.757757664) * r + 17.895169469) * r + 1.0
    near = centre * numerator / denominator

    r = tf.sqrt(-tf.math.log(tail)) - 1.6
    numerator = ((0.17023821103 * r + 1.3067284816) * r + 2.75681539) * r + 1.4234372777
    denominator = (0.12021132975 * r + 0.7370016425) * r + 1.0
    return tf.where(centre <= 0.425, near, numerator / denominator)
