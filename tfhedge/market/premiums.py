"""Prices of an option grid as functions of the variance, cheap enough for every path and step."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfhedge.market.fourier import vanilla_price
from tfhedge.numerics import chebyshev_basis, chebyshev_coefficients, chebyshev_points

# The expansion is cut where its remaining coefficients sum to less than this, in units of spot.
_TOLERANCE = 2e-8
# Numbers of points at which to try the fit.
_NUM_POINTS = (32, 64, 128, 256)


class PremiumSurface:
    r"""Prices of vanilla options, fitted once as functions of the variance.

    Each price $P_j(v)$ per unit of spot, the options' maturities and moneynesses being fixed, is
    analytic in $v$ right of about $-\kappa\theta\tau_j$. A Chebyshev expansion

    $$P_j(v) \approx \sum_{k=0}^n c_{kj}\,T_k(\zeta), \qquad
      \zeta = \text{affine function of } \log(v + \kappa\theta\min_i\tau_i) \in [-1, 1]$$

    therefore converges geometrically over the whole range $[0, v_{\max}]$ of variances, where
    $v_{\max}$ is the $1 - 10^{-9}$ quantile of the stationary law of the variance, a gamma law of
    shape $2\kappa\theta/\xi^2$ and scale $\xi^2/2\kappa$, and at least
    $8\max(v_0, \theta)$. Variances out of the range are clipped to it.

    Args:
        market: the `Heston` market.
        log_moneyness: $\log(\text{strike}/\text{spot})$ of each option, shape `[num_options]`.
        maturity: time to maturity in years, shape `[num_options]`.
        is_call: whether each option is a call (else a put), shape `[num_options]`.

    Raises:
        ValueError: if the three arrays are not one-dimensional of one length, a maturity is not
            positive, or the expansion does not converge.

    >>> from tfhedge.market.heston import Heston
    >>> market = Heston.from_paper()
    >>> surface = PremiumSurface(market, np.log([1.0, 1.01]), [0.16, 0.08], [False, True])
    >>> for variance, (put, call) in zip([0.04, 0.0625], surface([0.04, 0.0625])):
    ...     print(f"{variance}: {put:.5f} {call:.5f}")
    0.04: 0.03335 0.01770
    0.0625: 0.03763 0.02186
    """

    def __init__(self, market, log_moneyness, maturity, is_call):
        log_moneyness, maturity = (np.asarray(x, np.float64) for x in (log_moneyness, maturity))
        is_call = np.asarray(is_call, bool)
        shapes = {log_moneyness.shape, maturity.shape, is_call.shape}
        if len(shapes) != 1 or log_moneyness.ndim != 1 or not log_moneyness.size:
            raise ValueError(
                "Expected `log_moneyness`, `maturity` and `is_call` to be of one shape "
                f"[num_options]. Received shapes: {log_moneyness.shape}, {maturity.shape}, "
                f"{is_call.shape}"
            )
        if not np.all(np.isfinite(log_moneyness)):
            raise ValueError(
                f"Expected `log_moneyness` to be finite. Received: log_moneyness={log_moneyness}"
            )
        if not np.all((maturity > 0) & np.isfinite(maturity)):
            raise ValueError(f"Expected `maturity` to be positive. Received: maturity={maturity}")

        self.num_options = len(maturity)
        self.max_variance = _max_variance(market)
        self._shift = market.kappa * market.theta * maturity.min()
        low, high = np.log(self._shift), np.log(self.max_variance + self._shift)
        self._zeta_slope = 2.0 / (high - low)
        self._zeta_offset = -(high + low) / (high - low)
        self._coefficients = self._fit(
            lambda v: vanilla_price(market, v[:, np.newaxis], log_moneyness, maturity, is_call)
        )

    def __call__(self, variance):
        """Prices per unit of current spot.

        Args:
            variance: annual variance, float tensor of shape `[...]`.

        Returns:
            float32 tensor of shape `[..., num_options]`.
        """
        variance = tf.cast(variance, tf.float32)
        clipped = tf.clip_by_value(variance, 0.0, self.max_variance)
        zeta = self._zeta_slope * tf.math.log(clipped + self._shift) + self._zeta_offset
        # The highest degree comes first: a float32 sum is more precise if it begins with its small
        # terms. The basis is stacked along axis 0, where no element has to move.
        basis = chebyshev_basis(tf.reshape(zeta, [-1]), len(self._coefficients) - 1)
        coefficients = tf.constant(self._coefficients[::-1], tf.float32)
        prices = tf.matmul(tf.stack(basis[::-1]), coefficients, transpose_a=True)
        prices = tf.reshape(prices, tf.concat([tf.shape(variance), [self.num_options]], axis=0))
        return tf.ensure_shape(prices, [*variance.shape, self.num_options])

    def _fit(self, price):
        """Coefficients `[num_terms, num_options]` of the shortest expansion that is precise."""
        for num_points in _NUM_POINTS:
            log_shifted = (chebyshev_points(num_points) - self._zeta_offset) / self._zeta_slope
            variance = np.maximum(np.exp(log_shifted) - self._shift, 0.0)
            coefficients = chebyshev_coefficients(price(variance))
            remainder = np.cumsum(np.abs(coefficients[::-1]), axis=0)[::-1].max(axis=1)
            num_terms = np.count_nonzero(~(remainder <= _TOLERANCE))  # so that NaN counts
            # The last third must be negligible, or the coefficients are those of aliases.
            if num_terms <= 2 * num_points // 3:
                return coefficients[: max(num_terms, 2)]
        raise ValueError(
            f"Expected the premiums to be resolved by {num_points} Chebyshev points in "
            f"log(variance + {self._shift:g}). Received: a remainder of {remainder[-1]:.1e}"
        )


def _max_variance(market):
    """The highest variance that the surface covers."""
    shape = np.float64(2.0 * market.kappa * market.theta / market.xi**2)
    scale = market.xi**2 / (2.0 * market.kappa)
    quantile = scale * tfp.math.igammacinv(shape, np.float64(1e-9)).numpy()
    return max(quantile, 8.0 * max(market.v0, market.theta))
