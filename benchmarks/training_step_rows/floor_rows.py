"""The floor: the step's matrix products and transcendental functions, and nothing else.

The products are NumPy's, of the step's own shapes, on chunks of paths that stay in the cache; the
functions are XLA's tanh, its fastest, which does for sigmoid and exp as well. Every core has its
share.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from task import normal

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
CHUNK = 256  # paths
GATES = [128, 256]  # the gates of a chunk


def matrix_products(task):
    """A function that does one core's share of the products, forward and backward."""
    rng = np.random.default_rng(3)
    chunk = min(CHUNK, task.batch)
    jobs = []
    for (inputs, outputs), times in task.products:
        kernel = normal(rng, outputs, inputs)
        x, gradient = normal(rng, inputs, chunk), normal(rng, outputs, chunk)
        share = math.ceil(times / chunk / CORES)
        for a, b in ((kernel, x), (kernel.T, gradient), (gradient, x.T)):
            jobs.append((share, a, b, np.empty((a.shape[0], b.shape[1]), np.float32)))

    def run():
        for share, a, b, product in jobs:
            for _ in range(share):
                np.matmul(a, b, out=product)

    return run


def transcendentals(task):
    """A function that does one core's share of the functions."""
    times = math.ceil(task.num_transcendentals / math.prod(GATES) / CORES)

    @tf.function(autograph=False, jit_compile=True)
    def repeated(x):
        return tf.while_loop(lambda i, x: i < times, lambda i, x: (i + 1, tf.tanh(x)), (0, x))

    start = tf.zeros(GATES)
    return lambda: repeated(start)


def on_all_cores(*makers):
    """A row that runs what the makers make, one after the other, with a thread for each core."""

    def make(task):
        phases = [[maker(task) for _ in range(CORES)] for maker in makers]
        pool = ThreadPoolExecutor(CORES)

        def take_step():
            for shares in phases:
                list(pool.map(lambda share: share(), shares))
            return None, None

        return take_step

    return make


ROWS = {
    "floor": on_all_cores(matrix_products, transcendentals),
    "floor-sgemm": on_all_cores(matrix_products),
}
