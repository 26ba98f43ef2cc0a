"""The gradient of the loss of a batch, and how much of it is noise."""

import tensorflow as tf

from tfhedge import replicas


def loss_gradient(outcome, loss, variables, batch, num_parts, compute_dtype):
    """Computes the gradient of the loss of a batch, of which each replica has its share.

    The mean of the P&L is that of all replicas' paths before any gradient is taken. With two parts,
    the halves of the batch have a forward pass and a gradient each, from which the noise follows.

    Args:
        outcome: A function of features, returns and payoff of some paths, and of which part they
            are of how many. Returns P&L and costs, each `[num_paths]`, and the compiled
            `ForwardPass`, or None.
        loss: A function of P&L and costs of all paths.
        variables: The weights.
        batch: Features, returns and payoff.
        num_parts: 1 or 2.
        compute_dtype: The precision that the policy computes in.

    Returns:
        P&L and costs, each `[num_paths]`; the gradient, for each weight; its noise as in
        `sum_and_noise`, or None of one part; the forward pass of the batch, or None of two.
    """
    tapes, shares = [], []
    for i, part in enumerate(split(map(replicas.share, batch), num_parts)):
        with tf.GradientTape() as tape:
            *share, forward_pass = outcome(*part, part=(i, num_parts))
        tapes.append(tape)
        shares.append(share)
    pnl, cost = (replicas.gather(tf.concat(x, axis=0)) for x in zip(*shares, strict=True))
    with tf.GradientTape() as loss_tape:
        loss_tape.watch([pnl, cost])
        value = loss(pnl, cost)
    # What one path of many adds to a gradient may be too little for float16.
    scale = tf.cast(tf.size(pnl) if compute_dtype == "float16" else 1, pnl.dtype)
    slopes = [scale * replicas.share(x) for x in loss_tape.gradient(value, [pnl, cost])]
    gradients = [
        replicas.add([x / scale for x in tape.gradient(share, variables, slope)])
        for tape, share, slope in zip(tapes, shares, split(slopes, num_parts), strict=True)
    ]
    if num_parts == 1:
        return pnl, cost, gradients[0], None, forward_pass
    return pnl, cost, *sum_and_noise(*gradients, tf.size(pnl)), None


def split(tensors, num_parts):
    """Cuts a batch into one or two parts, of which the first has a path more if need be.

    Args:
        tensors: Tensors with the paths along their first axis.
        num_parts: 1 or 2.

    Returns:
        For each part, a list of its tensors.
    """
    tensors = list(tensors)
    if num_parts == 1:
        return [tensors]
    sizes = [tf.shape(x)[0] if x.shape[0] is None else x.shape[0] for x in tensors]
    pairs = [(x, (size + 1) // 2) for x, size in zip(tensors, sizes, strict=True)]
    return [[x[:middle] for x, middle in pairs], [x[middle:] for x, middle in pairs]]


def sum_and_noise(first, second, num_paths):
    """Computes the gradient of a batch, and a random vector of mean zero with its covariance.

    Let S_1 and S_2 be what the n_1 and n_2 paths of the halves contribute. The paths are
    independent of each other, so that

        g = S_1 + S_2        and        e = sqrt(n_2 / n_1) S_1 - sqrt(n_1 / n_2) S_2

    have the same covariance, and e has mean zero. Of a single path, e is zero.

    Args:
        first: S_1, for each weight.
        second: S_2, for each weight.
        num_paths: n_1 + n_2, where n_1 is n_2 or n_2 + 1.

    Returns:
        g and e, each a list with a tensor for each weight.
    """
    n_1, n_2 = (tf.cast(n, first[0].dtype) for n in ((num_paths + 1) // 2, num_paths // 2))
    ratio = tf.sqrt(n_2 / n_1)
    inverse = tf.math.reciprocal_no_nan(ratio)
    pairs = list(zip(first, second, strict=True))
    return [x + y for x, y in pairs], [ratio * x - inverse * y for x, y in pairs]
