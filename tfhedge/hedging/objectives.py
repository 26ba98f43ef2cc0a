"""Hedging objectives: the loss of a sample, its derivatives by path, and its streaming."""

import abc
import dataclasses

import tensorflow as tf

from tfhedge import checks
from tfhedge.hedging.streaming import as_float64, log_sum_exp, update_moments
from tfhedge.serialization import serializable


class Objective(abc.ABC):
    r"""Judges the P&L and the costs of many paths by an optimized certainty equivalent.

        loss = min_z E[ l(Gamma_T - psi, C_T; z) ],

    the mean of path losses l, once the threshold z that minimizes it is known. At this threshold,
    the derivatives of the mean of the path losses are those of the loss (envelope theorem).

    The Hessian of the loss with respect to the trades u of one path, times the number of paths, is
    approximated by that of the path loss at the fixed threshold with quadratic costs c~ u^2,
    eq. (12):

        H_u = k r r' + 2 w diag(c~, ..., c~),

    with the second derivative k of the path loss with respect to the P&L, and the first, w, with
    respect to the costs.

    A subclass defines the loss; the threshold and the path losses; k and w; and a state from which
    the loss follows, of fixed size for any number of paths. The state is what `fit` and `evaluate`
    keep between batches, and what the bootstrap computes of each sample of paths:

        state = objective.init()
        for pnl, cost in batches:
            state = objective.update(state, pnl, cost)
        loss = objective.result(state)

    References:
        Ben-Tal and Teboulle (2007), An old-new concept of convex risk measures: the optimized
        certainty equivalent, Mathematical Finance 17(3).
        Mueller et al., section 3.3.
    """

    @abc.abstractmethod
    def loss(self, pnl, cost):
        """Computes the loss of a sample of paths.

        Args:
            pnl: Terminal P&L before costs, Gamma_T - psi, `[num_paths]`.
            cost: Transaction costs C_T, `[num_paths]`.

        Returns:
            The loss, a scalar.
        """

    @abc.abstractmethod
    def threshold(self, pnl, cost, weights=None):
        """Computes the threshold z that minimizes the mean of the path losses.

        Args:
            pnl: P&L before costs, `[num_paths]`.
            cost: Transaction costs, `[num_paths]`.
            weights: How much each path counts in the mean, `[num_paths]`; all alike by default.

        Returns:
            The threshold, a scalar.
        """

    @abc.abstractmethod
    def path_losses(self, pnl, cost, threshold):
        """Computes the loss l of each path at a threshold z.

        The mean of the path losses is the loss if the threshold is that of the same paths, and an
        upper bound of the loss otherwise.

        Args:
            pnl: P&L before costs, `[num_paths]`.
            cost: Transaction costs, `[num_paths]`.
            threshold: The threshold z, a scalar.

        Returns:
            The path losses, `[num_paths]`.
        """

    @abc.abstractmethod
    def path_curvature(self, pnl, cost):
        """Computes the derivatives k and w of the path losses at the threshold of these paths.

            k = d^2 l / d pnl^2,        w = d l / d cost.

        Args:
            pnl: P&L before costs, `[num_paths]`.
            cost: Transaction costs, `[num_paths]`.

        Returns:
            k and w, each `[num_paths]`, not negative.
        """

    @abc.abstractmethod
    def init(self):
        """Returns the state of no paths, a float64 vector."""

    @abc.abstractmethod
    def update(self, state, pnl, cost, counts=None):
        """Adds paths to a state.

        Args:
            state: State of the paths so far, `[size]`.
            pnl: P&L before costs, `[num_paths]`.
            cost: Transaction costs, `[num_paths]`.
            counts: How many times each path is added, `[num_paths]`; once by default. For the
                states of many samples at once, `[size, num_samples]`, it is
                `[num_paths, num_samples]`.

        Returns:
            The state of all paths, of the shape of `state`.
        """

    @abc.abstractmethod
    def result(self, state):
        """Returns the loss of the paths of a state, 0 if there are none.

        Args:
            state: The state, `[size]` or `[size, num_samples]`.

        Returns:
            The loss, a float64 scalar or `[num_samples]`.
        """

    def risk(self, pnl, cost):
        """Computes the loss of the P&L about its mean.

            risk = loss(pnl - E[pnl], cost).

        Cash that is added to the P&L does not change this risk.

        Args:
            pnl: P&L before costs, `[num_paths]`.
            cost: Transaction costs, `[num_paths]`.

        Returns:
            The risk, a scalar.
        """
        return self.loss(pnl - tf.reduce_mean(pnl), cost)

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
        """The matrix of the products x_i' H x_j, with the Hessian H of the loss of a sample.

        Where the threshold follows the trades, and D_i are the changes r'x_i of the gains,

            x_i' H x_j = E[k D_i D_j] - E[k D_i] E[k D_j] / E[k] + 2 E[w c~ . x_i x_j],

        since P&L and threshold enter a path loss as a sum. Without the second term, which the paper
        neglects, it is the average of x_i' H_u x_j.

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
        mean = tf.linalg.matvec(gains, tf.math.divide_no_nan(k, tf.reduce_sum(k)))
        gains -= mean[:, tf.newaxis]
        of_gains = tf.matmul(k * gains, gains, transpose_b=True)
        weighted = w[:, None, None] * changes * tf.cast(quadratic_costs, changes.dtype)
        of_costs = 2.0 * tf.einsum("knti,lnti->kl", weighted, changes)
        return (of_gains + of_costs) / num_paths


@serializable
@dataclasses.dataclass(frozen=True)
class MeanVariance(Objective):
    """Variance of the terminal P&L and expected transaction costs, eq. (3).

        loss = gamma Var(Gamma_T - psi) + E[C_T],        k = 2 gamma,        w = 1,
        l    = gamma (Gamma_T - psi - z)^2 + C_T,        z = E[Gamma_T - psi].

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

    def threshold(self, pnl, cost, weights=None):
        """Computes the mean P&L."""
        weights = tf.ones_like(pnl) if weights is None else weights
        return tf.reduce_sum(weights * pnl) / tf.reduce_sum(weights)

    def path_losses(self, pnl, cost, threshold):
        """Computes gamma (pnl - z)^2 + cost."""
        return self.risk_aversion * (pnl - threshold) ** 2 + cost

    def path_curvature(self, pnl, cost):
        """Returns 2 gamma and 1 for each path."""
        return tf.ones_like(pnl) * (2.0 * self.risk_aversion), tf.ones_like(cost)

    def init(self):
        """Returns the moments of no paths, as `update_moments` takes them."""
        return tf.zeros([4], tf.float64)

    def update(self, state, pnl, cost, counts=None):
        """Updates the moments of P&L and costs."""
        return update_moments(state, pnl, cost, counts)

    def result(self, state):
        """Computes the loss from the moments."""
        _, _, variance, cost = tf.unstack(state)
        return self.risk_aversion * variance + cost


@serializable
@dataclasses.dataclass(frozen=True)
class EntropicRisk(Objective):
    r"""The sure loss that a desk of exponential utility likes as much as its P&L after costs.

        loss = 1/a log E[ e^{-a (Gamma_T - psi - C_T)} ],        k = a w,
        w    = e^{-a (Gamma_T - psi - C_T)} / E[ e^{-a (Gamma_T - psi - C_T)} ],
        l    = z + 1/a (e^{-a (Gamma_T - psi - C_T + z)} - 1),        z = loss.

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
        return self.threshold(pnl, cost)

    def threshold(self, pnl, cost, weights=None):
        """Computes the loss, which is the threshold too."""
        weights = tf.ones_like(pnl) if weights is None else weights
        total = tf.reduce_logsumexp(self._exponents(pnl, cost) + tf.math.log(weights))
        return (total - tf.math.log(tf.reduce_sum(weights))) / self.risk_aversion

    def path_losses(self, pnl, cost, threshold):
        """Computes z + (exp(a (cost - pnl - z)) - 1) / a."""
        exponents = self._exponents(pnl + threshold, cost)
        return threshold + tf.math.expm1(exponents) / self.risk_aversion

    def path_curvature(self, pnl, cost):
        """Computes a w and the weights w."""
        exponents = self._exponents(pnl, cost)
        w = tf.nn.softmax(exponents) * tf.cast(tf.size(exponents), exponents.dtype)
        return self.risk_aversion * w, w

    def init(self):
        """Returns the number of paths and their loss, both 0."""
        return tf.zeros([2], tf.float64)

    def update(self, state, pnl, cost, counts=None):
        """Updates the number of paths and their loss by log-sum-exp."""
        pnl, cost, counts = as_float64(pnl, cost, counts)
        num_before, loss_before = tf.unstack(state)
        num_paths = num_before + tf.reduce_sum(counts, axis=0)
        before = self.risk_aversion * loss_before + tf.math.log(num_before)
        new = log_sum_exp(self._exponents(pnl, cost), counts)
        log_mean = tf.reduce_logsumexp([before, new], axis=0) - tf.math.log(num_paths)
        loss = tf.where(num_paths > 0.0, log_mean / self.risk_aversion, 0.0)
        return tf.stack([num_paths, loss])

    def result(self, state):
        """Returns the loss of the state."""
        return state[1]

    def _exponents(self, pnl, cost):
        checks.shape("cost", cost, pnl.shape)
        return self.risk_aversion * (cost - pnl)
