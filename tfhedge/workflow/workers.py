"""Several processes, perhaps on several machines, that train one hedger."""

import json
import os

import tensorflow as tf

from tfhedge import checks


def connect(addresses, index, config):
    """Joins the other processes, which may take them a while to begin.

    Args:
        addresses: `host:port` of each process, the same list in all of them.
        index: Which of them this is, from 0.
        config: The `RunConfig`.

    Returns:
        A `tf.distribute.Strategy` with one replica for each process.

    Raises:
        ValueError: If the addresses or the index make no sense, or a batch is too small to be
            shared out.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"Expected `workers` to be host:port. Received: {address!r}")
    if len(set(addresses)) < max(2, len(addresses)):
        raise ValueError(f"Expected at least two different `workers`. Received: {addresses}")
    checks.integer("worker", index, 0, len(addresses) - 1)
    last_batch = config.num_paths % config.batch_size or config.batch_size
    if min(config.batch_size, last_batch) < len(addresses):
        raise ValueError(
            f"Expected a path of each batch for each of the {len(addresses)} workers. "
            f"Received: batches of {config.batch_size} and a last one of {last_batch} paths"
        )
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
    return tf.distribute.MultiWorkerMirroredStrategy()
