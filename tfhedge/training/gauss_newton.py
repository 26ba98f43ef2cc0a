"""The Gauss-Newton matrix B = E[J' H_u J] of a policy on a hedging problem, eq. (12)."""

import dataclasses
from typing import NamedTuple

import keras
import tensorflow as tf

from tfhedge.hedging.controls import Controls
from tfhedge.hedging.problem import HedgingProblem
from tfhedge.policy import compiled_linearize, linearize
from tfhedge.policy.compiled import ForwardPass
from tfhedge.policy.rollout import Policy

# The least size of trades for which costs are majorized, as a share of the largest.
_LEAST_SIZE = 0.1


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    r"""Computes what `DHKFAC` asks for of the loss and the curvature of one batch.

    Whatever is to be estimated on n of the N paths of a batch is estimated on a systematic sample,
    in which path i is expected

        n_i = n/2 ( k_i / sum_j k_j + w_i / sum_j w_j )

    times, with the derivatives k and w of the path losses by `Objective.path_curvature`, and counts
    for n / (N n_i). Where the objective weights all paths alike, that is every N/n-th path, once.
    Where its weights sit on a few paths, as those of an entropic risk may, these are in the sample.
    A sample of all N paths has each of them once.

    Args:
        problem: The hedging problem, whose objective supplies H_u.
        policy: The policy, whose Jacobian is J.
        controls: What the policy's actions are.
        quadratic_cost_ratio: The ratio c~ / c of the quadratic costs to those of the problem; or
            None for that of `majorizing_costs`.
        features: The batch's features, `[num_paths, num_steps, num_features]`.
        returns: The batch's returns, `[num_paths, num_steps, num_instruments]`.
        payoff: The batch's payoffs, `[num_paths]`.
        pnl: The batch's P&L before costs, `[num_paths]`.
        cost: The batch's transaction costs, `[num_paths]`.
        half_gradients: Two estimates of the gradient that are independent of each other, each a
            list with a tensor for each weight, or None.
        forward_pass: The compiled forward pass of the batch, if there was one.

    Reference: Cochran, Sampling Techniques (1977), chapter 8, for systematic samples.
    """

    problem: HedgingProblem
    policy: Policy
    controls: Controls
    quadratic_cost_ratio: float | None
    features: tf.Tensor
    returns: tf.Tensor
    payoff: tf.Tensor
    pnl: tf.Tensor
    cost: tf.Tensor
    half_gradients: list | None = None
    forward_pass: ForwardPass | None = None

    @property
    def risk(self):
        """The loss of the batch with the P&L about its mean, a scalar."""
        return self.problem.objective.risk(self.pnl, self.cost)

    def risk_after(self, update):
        """The risk of the batch after an update.

        Args:
            update: What is added to the weights, for each of them.

        Returns:
            A scalar.
        """
        return self.problem.objective.risk(*self._outcome(update, self._everything))

    def sample(self, num_paths, seed):
        """Inputs a_t and pseudo-gradients g_t of each layer, for a sample of paths.

        The pseudo-gradients are those of <LZ, u> with L L' = H_u, so that J' L Z has covariance B.

        Args:
            num_paths: Number of paths.
            seed: Stateless seed of Z.

        Returns:
            Pairs `(a, g)`, each `[num_paths, num_steps, size]`.
        """
        sample = self._sampled(num_paths)
        by_trades = self.problem.objective.pseudo_gradient(
            sample.returns, self._quadratic_costs(sample), sample.curvature, seed
        )
        cotangent = self.controls.by_actions(by_trades)
        module = linearization(self.policy)
        return module.pseudo_gradients(
            self.policy, sample.features, self.problem.availability, cotangent
        )

    def input_moments(self):
        """T^(-1/2) sum_t E[[a_t; 1] [a_t; 1]'] of each layer over the batch.

        They take no pass of their own where the forward pass kept its values.

        Returns:
            For each layer `[inputs + 1, inputs + 1]`.
        """
        if self.forward_pass is None:
            moments = linearize.input_moments(self.policy, self.features, self.problem.availability)
        else:
            moments = compiled_linearize.input_moments(self.policy, self.forward_pass)
        num_paths, num_steps = tf.unstack(tf.cast(tf.shape(self.features)[:2], moments[0].dtype))
        return [x / (num_paths * tf.sqrt(num_steps)) for x in moments]

    def quadratic(self, directions, num_paths):
        """Slopes of the loss, and the matrix of v_i' B v_j, estimated on a sample of paths.

        Args:
            directions: Directions v_i in the space of the weights.
            num_paths: Number of paths.

        Returns:
            `[num_directions]`, `[num_directions, num_directions]`, and a function of coefficients
            of the directions, `[num_directions]`: by how much the true costs of the linearized
            trades exceed the costs of the quadratic model, as |u| has a kink and u^2 has none.
        """
        sample = self._sampled(num_paths)
        actions, changes = linearization(self.policy).action_derivatives(
            self.policy, sample.features, self.problem.availability, directions
        )
        trades, *changes = (self.controls.trades(x) for x in (actions, *changes))
        quadratic_costs = self._quadratic_costs(sample, trades)
        gram = self.problem.objective.curvature_gram(
            changes, sample.returns, quadratic_costs, sample.curvature
        )
        with tf.GradientTape() as tape:
            tape.watch([sample.pnl, sample.cost])
            loss = self._loss(sample, sample.pnl, sample.cost)
        by_pnl, by_cost = (
            x[:, tf.newaxis, tf.newaxis] for x in tape.gradient(loss, [sample.pnl, sample.cost])
        )
        costs, signs = tf.cast(self.problem.costs, trades.dtype), tf.sign(trades)
        by_trades = by_pnl * sample.returns + by_cost * costs * signs
        slopes = tf.stack([tf.reduce_sum(by_trades * x) for x in changes])

        def kink(coefficients):
            change = tf.tensordot(coefficients, tf.stack(changes), axes=1)
            excess = tf.abs(trades + change) - tf.abs(trades) - signs * change
            return tf.reduce_sum(by_cost * (costs * excess - quadratic_costs * change**2))

        return slopes, gram, kink

    def change(self, update, num_paths):
        """The change of the loss with an update, on the paths of `quadratic`.

        Args:
            update: What is added to the weights, for each of them.
            num_paths: Number of paths.

        Returns:
            A scalar.
        """
        sample = self._sampled(num_paths)
        before = self._loss(sample, sample.pnl, sample.cost)
        change = self._loss(sample, *self._outcome(update, sample)) - before
        return tf.cast(change, self.pnl.dtype)

    def _loss(self, sample, pnl, cost):
        """The loss of the batch, from a sample of its paths; in float64."""
        objective = self.problem.objective
        weights, pnl, cost = (tf.cast(x, tf.float64) for x in (sample.weights, pnl, cost))
        threshold = tf.stop_gradient(objective.threshold(pnl, cost, weights))
        losses = objective.path_losses(pnl, cost, threshold)
        return tf.reduce_sum(weights * losses) / tf.reduce_sum(weights)

    def _outcome(self, update, sample):
        """P&L and costs of sampled paths after an update."""
        variables = self.policy.trainable_variables
        changed = [(v, v + x) for v, x in zip(variables, update, strict=True)]
        with keras.StatelessScope(state_mapping=changed):
            trades = self._trades(sample)
        pnl = self.problem.pnl(trades, sample.returns, sample.payoff)
        return pnl, self.problem.cost(trades)

    def _sampled(self, num_paths):
        """A systematic sample of paths, as many as the batch has if it has fewer."""
        curvature = self.problem.objective.path_curvature(self.pnl, self.cost)
        num_paths = tf.minimum(num_paths, tf.size(self.pnl))
        size = tf.cast(num_paths, self.pnl.dtype)
        counts = [0.5 * size * x / tf.reduce_sum(x) for x in curvature]
        counts = tf.where(num_paths < tf.size(self.pnl), tf.add_n(counts), 1.0)
        points = tf.range(num_paths)
        points = tf.cast(points, counts.dtype) + 0.5
        paths = tf.searchsorted(tf.cumsum(counts), points)
        paths = tf.minimum(paths, tf.size(counts) - 1)  # as sums are rounded
        num_all = tf.cast(tf.size(counts), counts.dtype)
        weights = size / (num_all * tf.gather(counts, paths))
        batch = self.features, self.returns, self.payoff
        return _Sample(
            weights,
            *(tf.gather(x, paths) for x in (*batch, self.pnl, self.cost)),
            [weights * tf.gather(x, paths) for x in curvature],
        )

    @property
    def _everything(self):
        """All paths of the batch, each once."""
        batch = self.features, self.returns, self.payoff, self.pnl, self.cost
        return _Sample(tf.ones_like(self.pnl), *batch, None)

    def _trades(self, sample):
        """The trades of sampled paths."""
        actions = linearization(self.policy).actions(
            self.policy, sample.features, self.problem.availability
        )
        return self.controls.trades(actions)

    def _quadratic_costs(self, sample, trades=None):
        """The costs c~ of eq. (12), given the trades of the sample if they are known."""
        costs = tf.cast(self.problem.costs, sample.returns.dtype)
        if self.quadratic_cost_ratio is not None:
            return self.quadratic_cost_ratio * costs
        return majorizing_costs(costs, self._trades(sample) if trades is None else trades)


class _Sample(NamedTuple):
    """Paths of a batch, how much each counts, and its k and w times that."""

    weights: tf.Tensor
    features: tf.Tensor
    returns: tf.Tensor
    payoff: tf.Tensor
    pnl: tf.Tensor
    cost: tf.Tensor
    curvature: list


def majorizing_costs(costs, trades):
    """Quadratic costs c~ u^2 that are as steep as the costs c |u| where the trades are.

    The parabola c u^2 / (2 s) + c s / 2 touches c |u| at |u| = s, and is above it elsewhere.
    Here s is the mean size of the trades in an instrument at a time, or a tenth of the largest
    such size if that is more, so that what is hardly traded can be traded more in a few steps.

    Args:
        costs: c, `[num_steps, num_instruments]`.
        trades: u, `[num_paths, num_steps, num_instruments]`.

    Returns:
        c~, `[num_steps, num_instruments]`; 0 where there are no trades at all.

    Reference: Hunter and Lange (2004), A tutorial on MM algorithms, The American Statistician 58.
    """
    sizes = tf.reduce_mean(tf.abs(trades), axis=0)
    sizes = tf.maximum(sizes, _LEAST_SIZE * tf.reduce_max(sizes))
    return tf.math.divide_no_nan(costs, 2.0 * sizes)


def linearization(policy):
    """The module that takes derivatives of a policy's actions: compiled, or of any policy."""
    return linearize if policy.compiled.obstacle() else compiled_linearize
