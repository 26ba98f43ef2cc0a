"""What `fit` and `evaluate` report of the paths that they have seen."""

import keras
import numpy as np
import tensorflow as tf

from tfhedge.hedging.streaming import update_moments


class HedgeMetric(keras.metrics.Metric):
    """Computes loss, standard deviation of the P&L and mean cost of all paths seen.

    The states are kept in float64, and the loss is that of all paths together, not a mean of the
    losses of batches.

    Args:
        objective: The `Objective` that computes the loss.
    """

    def __init__(self, objective, name="hedge"):
        super().__init__(name=name)
        self.objective = objective
        sizes = {"moments": 4, "state": objective.init().shape[0]}
        self.moments, self.state = (
            self.add_weight((size,), "zeros", "float64", name) for name, size in sizes.items()
        )
        self.reset_state()

    def reset_state(self):
        """Forgets all paths."""
        self.moments.assign(tf.zeros_like(self.moments.value))
        self.state.assign(self.objective.init())

    def update_state(self, pnl, cost):
        """Adds paths with P&L before costs and costs, each `[num_paths]`."""
        self.moments.assign(update_moments(self.moments.value, pnl, cost))
        self.state.assign(self.objective.update(self.state.value, pnl, cost))

    def result(self):
        """Returns `{"loss", "pnl_std", "cost"}` of the paths seen so far, NaN if there are none."""
        num_paths, _, variance, cost = tf.unstack(self.moments.value)
        loss = self.objective.result(self.state.value)
        values = {"loss": loss, "pnl_std": tf.sqrt(variance), "cost": cost}
        return {name: tf.where(num_paths > 0.0, x, np.nan) for name, x in values.items()}
