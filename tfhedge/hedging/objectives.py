"""Hedging objectives: a value, and the curvature in the actions that a preconditioner needs."""

import dataclasses

import tensorflow as tf

from tfhedge import checks
from tfhedge.serialization import serializable


@serializable
@dataclasses.dataclass(frozen=True)
class MeanVariance:
    """Variance of the terminal P&L and expected transaction costs, eq. (3).

        loss = gamma Var(Gamma_T - psi) + E[C_T].

    Its curvature in the trades u of one path is the Hessian of a surrogate in which the costs
    are quadratic, c~ u^2, and the batch's mean P&L is a constant, eq. (12):

        H_u = 2 gamma r r' + 2 diag(c~, ..., c~).

    Args:
        risk_aversion: The weight gamma of the variance.

    Raises:
        ValueError: If it is not positive.

    Example:
    >>> objective = MeanVariance(risk_aversion=1000.0)
    >>> loss = objective.loss(pnl=tf.constant([-0.01, 0.01]), cost=tf.constant([0.002, 0.004]))
    >>> print(f"{loss:.3f}")
    0.103

    Reference: Mueller et al., sections 2.1 and 3.3.
    """

    risk_aversion: float

    def __post_init__(self):
        checks.keep(self, checks.positive, "risk_aversion")

    def loss(self, pnl, cost):
        """The objective of a sample of paths.

        Args:
            pnl: Terminal P&L before costs, Gamma_T - psi, `[num_paths]`.
            cost: Transaction costs C_T, `[num_paths]`.

        Returns:
            The loss, a scalar.
        """
        return self.loss_of_moments(tf.math.reduce_variance(pnl), tf.reduce_mean(cost))

    def loss_of_moments(self, pnl_variance, mean_cost):
        """The objective, from the variance of the P&L and the mean of the costs."""
        return self.risk_aversion * pnl_variance + mean_cost

    def pseudo_gradient(self, returns, quadratic_costs, seed):
        """Random vectors LZ with covariance H_u, one for each path.

        With a standard normal scalar e and vector Z, the sum sqrt(2 gamma) e r + sqrt(2 c~) Z has
        exactly the covariance of eq. (12), without a Cholesky factor of H_u.

        Args:
            returns: r_{t,T}, `[num_paths, num_steps, num_instruments]`.
            quadratic_costs: c~, `[num_steps, num_instruments]`.
            seed: Stateless seed, `[2]`.

        Returns:
            Samples of the shape of `returns`.
        """
        num_paths, dtype = tf.shape(returns)[:1], returns.dtype
        common, own = tf.unstack(tf.random.split(seed))
        common = tf.random.stateless_normal(num_paths, common, dtype=dtype)[:, None, None]
        own = tf.random.stateless_normal(tf.shape(returns), own, dtype=dtype)
        quadratic_costs = tf.cast(quadratic_costs, dtype)
        return (
            tf.sqrt(2.0 * tf.cast(self.risk_aversion, dtype)) * common * returns
            + tf.sqrt(2.0 * quadratic_costs) * own
        )

    def pseudo_gradient_by_cholesky(self, returns, quadratic_costs, seed):
        """The same by the Cholesky factor L of H_u, as the paper has it, at far greater cost.

        Arguments and result are those of `pseudo_gradient`. The factor of a path takes time
        proportional to (num_steps num_instruments)^3.
        """
        dtype, shape = returns.dtype, tf.shape(returns)
        r = tf.reshape(returns, [shape[0], -1, 1])
        quadratic_costs = tf.reshape(tf.cast(quadratic_costs, dtype), [-1])
        hessian = 2.0 * tf.cast(self.risk_aversion, dtype) * tf.matmul(r, r, transpose_b=True)
        hessian += tf.linalg.diag(2.0 * quadratic_costs)
        z = tf.random.stateless_normal(tf.shape(r), seed, dtype=dtype)
        return tf.reshape(tf.linalg.cholesky(hessian) @ z, shape)

    def curvature_gram(self, changes, returns, quadratic_costs):
        """The matrix of the products x_i' H_u x_j, averaged over paths.

        Args:
            changes: A list of changes x_i of the trades, each
                `[num_paths, num_steps, num_instruments]`.
            returns: r_{t,T}, of the same shape.
            quadratic_costs: c~, `[num_steps, num_instruments]`.

        Returns:
            `[len(changes), len(changes)]`.
        """
        changes = tf.stack(changes)
        num_paths = tf.cast(tf.shape(returns)[0], changes.dtype)
        gains = tf.einsum("knti,nti->kn", changes, returns)
        variance = self.risk_aversion * tf.matmul(gains, gains, transpose_b=True)
        weighted = changes * tf.cast(quadratic_costs, changes.dtype)
        cost = tf.einsum("knti,lnti->kl", weighted, changes)
        return 2.0 * (variance + cost) / num_paths
