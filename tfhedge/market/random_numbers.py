"""Random numbers of a continuous law from random bits, by inversion."""

import tensorflow as tf


def tail_and_sign(bits):
    r"""A uniform number in $(0, \tfrac12)$ and an independent sign.

    The number is $(j + \tfrac12)2^{-32}$ with $j$ of 31 bits, rounded to float32: it keeps its
    relative precision near 0, where a law's tail is.

    Args:
        bits: int32 tensor, all of whose bits are random.

    Returns:
        Tuple of float32 tensors of the shape of `bits`.
    """
    tail = (tf.cast(tf.bitwise.bitwise_and(bits, 2**31 - 1), tf.float32) + 0.5) * 2.0**-32
    return tail, tf.where(bits < 0, -1.0, 1.0)


def normal(bits):
    """Standard normal numbers, float32, of the shape of the int32 tensor `bits`.

    >>> print(normal(tf.constant([0, 2**30, -(2**30)])).numpy())
    [ 6.3379  0.6745 -0.6745]
    """
    tail, sign = tail_and_sign(bits)
    return -sign * tf.math.ndtri(tail)


def uniform(bits):
    """Uniform numbers in (0, 1], float32, of the shape of the int32 tensor `bits`.

    >>> print(uniform(tf.constant([0, -1, 2**30])).numpy())
    [1.1641532e-10 1.0000000e+00 2.5000000e-01]
    """
    tail, sign = tail_and_sign(bits)
    return tail + tf.where(sign < 0, 0.5, 0.0)
