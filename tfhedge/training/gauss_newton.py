"""The Gauss-Newton matrix B = E[J' H_u J] of a policy on a hedging problem, eq. (12)."""

import dataclasses

import tensorflow as tf

from tfhedge.hedging.controls import Controls
from tfhedge.hedging.problem import HedgingProblem
from tfhedge.policy import compiled_linearize, linearize
from tfhedge.policy.compiled import ForwardPass
from tfhedge.policy.rollout import Policy


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    """The curvature of one batch, as `DHKFAC` asks for it.

    Args:
        problem: The hedging problem, whose objective supplies H_u.
        policy: The policy, whose Jacobian is J.
        controls: What the policy's actions are.
        quadratic_cost_ratio: The ratio c~ / c of the quadratic costs to those of the problem.
        features: The batch's features, `[num_paths, num_steps, num_features]`.
        returns: The batch's returns, `[num_paths, num_steps, num_instruments]`.
        pnl: The batch's P&L before costs, `[num_paths]`.
        cost: The batch's transaction costs, `[num_paths]`.
        loss_scale: The size of the batch's loss.
        forward_pass: The compiled forward pass of the batch, if there was one.
    """

    problem: HedgingProblem
    policy: Policy
    controls: Controls
    quadratic_cost_ratio: float
    features: tf.Tensor
    returns: tf.Tensor
    pnl: tf.Tensor
    cost: tf.Tensor
    loss_scale: tf.Tensor
    forward_pass: ForwardPass | None = None

    def sample(self, num_paths, seed):
        """Inputs a_t and pseudo-gradients g_t of each layer, for the first paths of the batch.

        The pseudo-gradients are those of <LZ, u> with L L' = H_u, so that J' L Z has covariance B.

        Args:
            num_paths: Number of paths.
            seed: Stateless seed of Z.

        Returns:
            Pairs `(a, g)`, each `[num_paths, num_steps, size]`.
        """
        features, returns = self.features[:num_paths], self.returns[:num_paths]
        by_trades = self.problem.objective.pseudo_gradient(
            returns, self._quadratic_costs, self._path_curvature(num_paths), seed
        )
        cotangent = self.controls.by_actions(by_trades)
        availability = self.problem.availability
        module = linearization(self.policy)
        return module.pseudo_gradients(self.policy, features, availability, cotangent)

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

    def gram(self, directions, num_paths):
        """The matrix of v_i' B v_j, estimated on the first paths of the batch.

        Args:
            directions: Directions v_i in the space of the weights.
            num_paths: Number of paths.

        Returns:
            `[num_directions, num_directions]`.
        """
        features, returns = self.features[:num_paths], self.returns[:num_paths]
        changes = linearization(self.policy).action_derivatives(
            self.policy, features, self.problem.availability, directions
        )
        changes = [self.controls.trades(x) for x in changes]
        return self.problem.objective.curvature_gram(
            changes, returns, self._quadratic_costs, self._path_curvature(num_paths)
        )

    def _path_curvature(self, num_paths):
        """The objective's curvature of the first paths, as part of the batch."""
        curvature = self.problem.objective.path_curvature(self.pnl, self.cost)
        return [x[:num_paths] for x in curvature]

    @property
    def _quadratic_costs(self):
        return self.quadratic_cost_ratio * self.problem.costs


def linearization(policy):
    """The module that takes derivatives of a policy's actions: compiled, or of any policy."""
    return linearize if policy.compiled.obstacle() else compiled_linearize
