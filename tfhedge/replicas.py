"""A batch of which every replica of a `tf.distribute.Strategy` has its share.

Of R replicas, replica r has the paths r, r + R, r + 2R, ... of the batch. Outside of
`strategy.run` there is one, which has them all.
"""

import tensorflow as tf


def share(x):
    """This replica's paths, of those of the batch."""
    index, count = _replica()
    return x if count == 1 else x[index::count]


def gather(x):
    """The paths of the batch in their order, of those of each replica, along the first axis."""
    _, count = _replica()
    if count == 1:
        return x
    by_replica = tf.distribute.get_replica_context().all_gather(x, axis=0)
    indices = tf.range(tf.shape(by_replica)[0])
    indices = tf.concat([indices[i::count] for i in range(count)], axis=0)
    return tf.gather(by_replica, tf.argsort(indices))


def add(tensors):
    """The sums of the replicas' tensors."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def _replica():
    context = tf.distribute.get_replica_context()
    return context.replica_id_in_sync_group, context.num_replicas_in_sync
