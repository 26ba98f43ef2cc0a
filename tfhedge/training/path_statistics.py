"""What an optimizer meets along its path, logged for later study."""

import functools

import keras
import tensorflow as tf

from tfhedge import checks
from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer, inner
from tfhedge.training.gauss_newton import linearization


class PathStatistics(keras.callbacks.Callback):
    r"""Adds to the logs of each epoch what figure 4 of the paper shows, and more.

    On the same paths each time,

    - `gradient_variance`, the trace of the covariance of the gradients of single paths,

          h_i = N (du_i/dtheta)' (dL/du_i),

      with L the loss of all N paths, so that the mean of h_i is the gradient of L;

    - and for `DHKFAC`, with the gradient g, the preconditioner \hat B and v = \hat B^{-1} g,
      `overshoot`, v' B v / v' \hat B v: how far \hat B underestimates the Gauss-Newton matrix B
      along its own step.

    It stands before the other callbacks of `fit`, so that they see what it adds.

    Args:
        episodes: What `HedgingProblem.episodes` returns.
        num_gradients: Number of paths whose single gradients are taken, at least two, or all of
            them if there are fewer.
        num_quadratic_paths: Number of paths on which v' B v is evaluated, likewise.

    Raises:
        ValueError: If a number is out of its range, or there are fewer than two paths.
    """

    def __init__(self, episodes, num_gradients=32, num_quadratic_paths=256):
        super().__init__()
        self.episodes = episodes
        num_gradients = checks.positive_integer("num_gradients", num_gradients)
        self.num_gradients = min(num_gradients, len(episodes[0]))
        if self.num_gradients < 2:
            raise ValueError(
                "Expected two paths or more, for a variance. "
                f"Received: num_gradients={num_gradients} and {len(episodes[0])} paths"
            )
        self.num_quadratic_paths = checks.positive_integer(
            "num_quadratic_paths", num_quadratic_paths
        )

    @functools.cached_property
    def _compiled(self):
        return tf.function(self.statistics, autograph=False)

    def on_epoch_end(self, epoch, logs=None):
        """Adds the statistics to the logs."""
        dtype = self.model.policy.variable_dtype
        episodes = (tf.cast(x, dtype) for x in tf.nest.flatten(self.episodes))
        statistics = self._compiled(*episodes)
        logs.update({name: float(value) for name, value in statistics.items()})

    def statistics(self, features, returns, payoff):
        """The statistics by name, scalar tensors."""
        hedger, optimizer = self.model, self.model.optimizer
        problem, weights = hedger.problem, hedger.trainable_variables
        with tf.GradientTape() as tape:
            actions = hedger.actions(features)
            pnl, cost = problem.pnl(actions, returns, payoff), problem.cost(actions)
            loss = problem.objective.loss(pnl, cost)
        slopes, *gradients = tape.gradient(loss, [actions, *weights])
        slopes *= tf.cast(tf.shape(slopes)[0], slopes.dtype)
        result = {"gradient_variance": self._gradient_variance(features, slopes)}
        if isinstance(optimizer, KroneckerOptimizer):
            direction = optimizer.precondition(gradients)
            curvature = hedger.curvature(features, returns, payoff, pnl, cost)
            _, exact, _ = curvature.quadratic([direction], self.num_quadratic_paths)
            result["overshoot"] = exact[0, 0] / inner(gradients, direction)
        return result

    def _gradient_variance(self, features, slopes):
        hedger, n = self.model, self.num_gradients
        pairs = linearization(hedger.policy).pseudo_gradients(
            hedger.policy,
            features[:n],
            hedger.problem.availability,
            hedger.controls.by_actions(slopes[:n]),
        )
        layers = hedger.policy.cell.linear_layers
        gradients = [
            gradient
            for layer, (a, g) in zip(layers, pairs, strict=True)
            if layer.trainable
            for gradient in _single_gradients(layer, a, g)
        ]
        squares = [tf.reduce_sum((x - tf.reduce_mean(x, axis=0)) ** 2) for x in gradients]
        return tf.add_n(squares) / (n - 1)


def _single_gradients(layer, a, g):
    """The gradient of each path by each weight of a layer, from its inputs and g_t."""
    if len(layer.weights[0].shape) == 1:
        return [tf.einsum("nti,nti->ni", a, g)]
    return [tf.einsum("nti,nto->nio", a, g), tf.reduce_sum(g, axis=1)][: len(layer.weights)]
