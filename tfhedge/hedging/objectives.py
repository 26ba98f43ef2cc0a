"""Hedging objectives: a value, and the curvature in the actions that a preconditioner needs."""

import abc
import dataclasses

import tensorflow as tf

from tfhedge import checks
from tfhedge.serialization import serializable


class Objective(abc.ABC):
    r"""A loss of the P&L and the costs of many paths, and its curvature in the trades.

    The Hessian by the trades u of one path, times the number of paths, is taken to be that of a
    surrogate in which the costs are quadratic, c~ u^2, and what the path has to do with the others
    is constant, eq. (12):

        H_u = k r r' + 2 w diag(c~, ..., c~),

    with the second derivative k of the loss by the path's P&L, and the first, w, by its costs, both
    times the number of paths. A subclass supplies these, the loss, and the moments that make it up.

    Reference: Mueller et al., section 3.3.
    """

    @abc.abstractmethod
    def loss(self, pnl, cost):
        """The objective of a sample of paths.

        Args:
            pnl: Terminal P&L before costs, Gamma_T - psi, `[num_paths]`.
            cost: Transaction costs C_T, `[num_paths]`.

        Returns:
            The loss, a scalar.
        """

    @abc.abstractmethod
    def moments(self, pnl, cost):
        """What is to be known of each path, so that the loss follows from means over paths.

        Args:
            pnl: P&L before costs, float64, of any shape.
            cost: Transaction costs, of the same shape.

        Returns:
            A list of float64 tensors of that shape.
        """

    @abc.abstractmethod
    def loss_of_moments(self, *means):
        """The objective, from the means of `moments`."""

    @abc.abstractmethod
    def path_curvature(self, pnl, cost):
        """The numbers k and w of each path; arguments as for `loss`.

        Returns:
            Two tensors `[num_paths]`, not negative.
        """

    def pseudo_gradient(self, returns, quadratic_costs, path_curvature, seed):
        """Random vectors LZ with covariance H_u, one for each path.

        With a standard normal scalar e and vector Z, the sum sqrt(k) e r + sqrt(2 w c~) Z has
        exactly the covariance of eq. (12), without a Cholesky factor of H_u.

        Args:
            returns: r_{t,T}, `[num_paths, num_steps, num_instruments]`.
            quadratic_costs: c~, `[num_steps, num_instruments]`.
            path_curvature: k and w, each `[num_paths]`.
            seed: Stateless seed, `[2]`.

        Returns:
            Samples of the shape of `returns`.
        """
        num_paths, dtype = tf.shape(returns)[:1], returns.dtype
        k, w = (x[:, None, None] for x in path_curvature)
        common, own = tf.unstack(tf.random.split(seed))
        common = tf.random.stateless_normal(num_paths, common, dtype=dtype)[:, None, None]
        own = tf.random.stateless_normal(tf.shape(returns), own, dtype=dtype)
        quadratic_costs = tf.cast(quadratic_costs, dtype)
        return tf.sqrt(k) * common * returns + tf.sqrt(2.0 * w * quadratic_costs) * own

    def pseudo_gradient_by_cholesky(self, returns, quadratic_costs, path_curvature, seed):
        """The same by the Cholesky factor L of H_u, as the paper has it, at far greater cost.

        Arguments and result are those of `pseudo_gradient`. The factor of a path takes time
        proportional to (num_steps num_instruments)^3.
        """
        dtype, shape = returns.dtype, tf.shape(returns)
        k, w = (x[:, None] for x in path_curvature)
        r = tf.reshape(returns, [shape[0], -1, 1])
        quadratic_costs = tf.reshape(tf.cast(quadratic_costs, dtype), [-1])
        hessian = k[..., None] * tf.matmul(r, r, transpose_b=True)
        hessian += tf.linalg.diag(2.0 * w * quadratic_costs)
        z = tf.random.stateless_normal(tf.shape(r), seed, dtype=dtype)
        return tf.reshape(tf.linalg.cholesky(hessian) @ z, shape)

    def curvature_gram(self, changes, returns, quadratic_costs, path_curvature):
        """The matrix of the products x_i' H_u x_j, averaged over paths.

        Args:
            changes: A list of changes x_i of the trades, each
                `[num_paths, num_steps, num_instruments]`.
            returns: r_{t,T}, of the same shape.
            quadratic_costs: c~, `[num_steps, num_instruments]`.
            path_curvature: k and w, each `[num_paths]`.

        Returns:
            `[len(changes), len(changes)]`.
        """
        changes, (k, w) = tf.stack(changes), path_curvature
        num_paths = tf.cast(tf.shape(returns)[0], changes.dtype)
        gains = tf.einsum("knti,nti->kn", changes, returns)
        of_gains = tf.matmul(k * gains, gains, transpose_b=True)
        weighted = w[:, None, None] * changes * tf.cast(quadratic_costs, changes.dtype)
        of_costs = 2.0 * tf.einsum("knti,lnti->kl", weighted, changes)
        return (of_gains + of_costs) / num_paths


@serializable
@dataclasses.dataclass(frozen=True)
class MeanVariance(Objective):
    """Variance of the terminal P&L and expected transaction costs, eq. (3).

        loss = gamma Var(Gamma_T - psi) + E[C_T],        k = 2 gamma,        w = 1.

    Args:
        risk_aversion: The weight gamma of the variance.

    Raises:
        ValueError: If it is not positive.

    Example:
    >>> objective = MeanVariance(risk_aversion=1000.0)
    >>> loss = objective.loss(pnl=tf.constant([-0.01, 0.01]), cost=tf.constant([0.002, 0.004]))
    >>> print(f"{loss:.3f}")
    0.103

    Reference: Mueller et al., section 2.1.
    """

    risk_aversion: float

    def __post_init__(self):
        checks.keep(self, checks.positive, "risk_aversion")

    def loss(self, pnl, cost):
        """As `Objective`."""
        return self.risk_aversion * tf.math.reduce_variance(pnl) + tf.reduce_mean(cost)

    def moments(self, pnl, cost):
        """P&L, its square, and costs."""
        return [pnl, pnl**2, cost]

    def loss_of_moments(self, pnl, squared_pnl, cost):
        """From the means of these."""
        return self.risk_aversion * tf.nn.relu(squared_pnl - pnl**2) + cost

    def path_curvature(self, pnl, cost):
        """The numbers 2 gamma and 1."""
        return tf.ones_like(pnl) * (2.0 * self.risk_aversion), tf.ones_like(cost)


@serializable
@dataclasses.dataclass(frozen=True)
class EntropicRisk(Objective):
    r"""The sure loss that a desk of exponential utility likes as much as its P&L after costs.

        loss = 1/a log E[ e^{-a (Gamma_T - psi - C_T)} ],        k = a w,
        w    = e^{-a (Gamma_T - psi - C_T)} / E[ e^{-a (Gamma_T - psi - C_T)} ].

    Without the premium in the P&L that is the price at which the desk is indifferent to the deal.
    For small a it is the mean loss and a/2 times the variance, to which a large loss adds more than
    a large gain.

    Args:
        risk_aversion: Its a, per unit of the notional.

    Raises:
        ValueError: If it is not positive.

    Example:
    >>> objective = EntropicRisk(risk_aversion=100.0)
    >>> loss = objective.loss(pnl=tf.constant([-0.02, 0.02]), cost=tf.constant([0.001, 0.001]))
    >>> print(f"{loss:.4f}")
    0.0143

    Reference: Buehler et al. (2019), Deep hedging, section 3.
    """

    risk_aversion: float

    def __post_init__(self):
        checks.keep(self, checks.positive, "risk_aversion")

    def loss(self, pnl, cost):
        """As `Objective`."""
        exponents = self._exponents(pnl, cost)
        num_paths = tf.cast(tf.size(exponents), exponents.dtype)
        total = tf.reduce_logsumexp(exponents) - tf.math.log(num_paths)
        return total / self.risk_aversion

    def moments(self, pnl, cost):
        """The exponential, which is infinite from losses of 700 / a on."""
        return [tf.exp(self._exponents(pnl, cost))]

    def loss_of_moments(self, exponential):
        """From the mean of this."""
        return tf.math.log(exponential) / self.risk_aversion

    def path_curvature(self, pnl, cost):
        """The numbers a w and w."""
        exponents = self._exponents(pnl, cost)
        w = tf.nn.softmax(exponents) * tf.cast(tf.size(exponents), exponents.dtype)
        return self.risk_aversion * w, w

    def _exponents(self, pnl, cost):
        checks.shape("cost", cost, pnl.shape)
        return self.risk_aversion * (cost - pnl)
