"""The gradient of the loss of a batch, by two halves where it matters how much of it is noise."""

import tensorflow as tf

from tfhedge import replicas


def loss_gradient(hedger, batch, num_parts):
    """Computes the gradient of the loss of a batch, of which each replica has its share.

    The objective is that of all replicas' paths before any gradient is taken. In two parts, each
    half of the batch has a forward pass and a gradient of its own,

        g = S_1 + S_2,        g_h = S_h / W_h,

    where S_h is what the paths of a half contribute, and W_h their share of the weights w of the
    objective (`Objective.path_curvature`): g_1 and g_2 are estimates of the same gradient that are
    independent of each other.

    Args:
        hedger: A compiled `DeepHedger`.
        batch: Features, returns and payoff.
        num_parts: 1 or 2.

    Returns:
        P&L and costs, each `[num_paths]`; for each weight the gradient g; g_1 and g_2, or None of
        one part; the compiled forward pass if there is one of the whole batch, or None.
    """
    objective, variables = hedger.problem.objective, hedger.trainable_variables
    tapes, shares = [], []
    for i, part in enumerate(split(map(replicas.share, batch), num_parts)):
        with tf.GradientTape() as tape:
            *share, forward_pass = hedger.outcome(*part, part=(i, num_parts))
        tapes.append(tape)
        shares.append(share)
    pnl, cost = (replicas.gather(tf.concat(x, axis=0)) for x in zip(*shares, strict=True))
    with tf.GradientTape() as loss_tape:
        loss_tape.watch([pnl, cost])
        loss = hedger.optimizer.scale_loss(objective.loss(pnl, cost))
    # What one path of many adds to a gradient may be too little for float16.
    half = hedger.policy.compute_dtype == "float16"
    scale = tf.cast(tf.size(pnl) if half else 1, pnl.dtype)
    slopes = [scale * replicas.share(x) for x in loss_tape.gradient(loss, [pnl, cost])]
    gradients = [
        replicas.add([x / scale for x in tape.gradient(share, variables, slope)])
        for tape, share, slope in zip(tapes, shares, split(slopes, num_parts), strict=True)
    ]
    if num_parts == 1:
        return pnl, cost, gradients[0], None, forward_pass
    _, weights = objective.path_curvature(pnl, cost)
    parts = split([replicas.share(weights / tf.reduce_sum(weights))], num_parts)
    sums = replicas.add([tf.reduce_sum(part) for (part,) in parts])
    halves = [[x / total for x in g] for g, total in zip(gradients, sums, strict=True)]
    return pnl, cost, [x + y for x, y in zip(*gradients, strict=True)], halves, None


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
