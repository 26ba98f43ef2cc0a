"""What `fit` and `evaluate` report of the paths that they have seen."""

import keras
import tensorflow as tf


class HedgeMetric(keras.metrics.Metric):
    """Loss, standard deviation of the P&L and mean cost, over all paths seen.

    Sums are kept in float64, and the variance is that of all paths together, not a mean of the
    variances of batches.

    Args:
        objective: The objective that the loss is computed by.
    """

    def __init__(self, objective, name="hedge"):
        super().__init__(name=name)
        self.objective = objective
        terms = self._terms(*tf.zeros([2, 1], tf.float64))
        self.sums = self.add_weight(
            shape=(len(terms),), initializer="zeros", dtype="float64", name="sums"
        )

    def _terms(self, pnl, cost):
        """What is summed over paths: one, P&L, its square, costs, and the objective's moments."""
        moments = self.objective.moments(pnl, cost)
        return [tf.ones_like(pnl), pnl, pnl**2, cost, *moments]

    def update_state(self, pnl, cost):
        """Adds paths with P&L before costs and costs, each `[num_paths]`."""
        terms = self._terms(tf.cast(pnl, tf.float64), tf.cast(cost, tf.float64))
        self.sums.assign_add(tf.reduce_sum(terms, axis=1))

    def result(self):
        """`{"loss", "pnl_std", "cost"}` of the paths seen so far."""
        num_paths, *sums = tf.unstack(self.sums.value)
        mean, square, cost, *moments = (tf.math.divide_no_nan(x, num_paths) for x in sums)
        loss = self.objective.loss_of_moments(*moments)
        return {"loss": loss, "pnl_std": tf.sqrt(tf.nn.relu(square - mean**2)), "cost": cost}
