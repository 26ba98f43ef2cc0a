"""Sums over many paths that are updated batch by batch, without overflow or cancellation."""

import tensorflow as tf

from tfhedge import checks


def update_moments(moments, pnl, cost, counts=None):
    """Updates the moments of P&L and costs by paths, without cancellation.

    The variance of all paths is that within the groups, before and now, and that between them:

        Var = E[ variance of group + (mean of group - mean)^2 ].

    Args:
        moments: Number of paths, mean P&L, variance of the P&L and mean cost of the paths so far,
            float64 `[4]` or `[4, num_samples]`; zeros for none.
        pnl: P&L before costs, `[num_paths]`.
        cost: Transaction costs, `[num_paths]`.
        counts: As for `Objective.update`.

    Returns:
        The moments of all paths.

    Example:
    >>> pnl, cost = tf.constant([1.0, 3.0]), tf.constant([0.25, 0.75])
    >>> print(update_moments(tf.zeros([4], tf.float64), pnl, cost).numpy())
    [2.  2.  1.  0.5]

    Reference: Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, The
    American Statistician 37(3).
    """
    pnl, cost, counts = as_float64(pnl, cost, counts)
    centre = _average(pnl, tf.ones_like(pnl))
    centred, num_paths = pnl - centre, tf.reduce_sum(counts, axis=0)
    sums = tf.tensordot(tf.stack([centred, centred**2, cost]), counts, axes=1)
    shift, square, cost = tf.unstack(tf.math.divide_no_nan(sums, num_paths))
    group = num_paths, centre + shift, tf.nn.relu(square - shift**2), cost

    num_paths, means, variances, costs = zip(tf.unstack(moments), group, strict=True)
    mean = _average(means, num_paths)
    variance = _average(variances + (means - mean) ** 2, num_paths)
    return tf.stack([tf.add_n(num_paths), mean, variance, _average(costs, num_paths)])


def _average(values, weights):
    """Computes the weighted mean along the first axis, 0 if all weights are."""
    total = tf.reduce_sum(weights, axis=0)
    return tf.math.divide_no_nan(tf.reduce_sum(tf.multiply(weights, values), axis=0), total)


def log_sum_exp(exponents, counts):
    """Computes log(sum_i counts_i exp(exponents_i)) for each column of `counts`.

    The 32 largest exponents are added one by one, the others by a matrix product relative to the
    least of the 32. The product may underflow where it matters only in a sample that has none of
    the 32; a sample with replacement is such with a probability of e^-32.
    """
    largest, indices = tf.math.top_k(exponents, tf.minimum(32, tf.size(exponents)))
    least = tf.reduce_sum(largest[-1:])  # 0 if there are no paths
    terms = tf.tensor_scatter_nd_update(
        tf.exp(exponents - least), indices[:, tf.newaxis], tf.zeros_like(largest)
    )
    others = least + tf.math.log(tf.tensordot(terms, counts, axes=1))
    log_counts = tf.math.log(tf.gather(counts, indices))
    one_by_one = tf.transpose(tf.transpose(log_counts) + largest)
    return tf.reduce_logsumexp(tf.concat([one_by_one, others[tf.newaxis]], axis=0), axis=0)


def as_float64(pnl, cost, counts):
    """Casts P&L, costs and counts, which are ones by default, to float64."""
    checks.shape("cost", cost, pnl.shape)
    pnl, cost = tf.cast(pnl, tf.float64), tf.cast(cost, tf.float64)
    return pnl, cost, tf.ones_like(pnl) if counts is None else tf.cast(counts, tf.float64)
