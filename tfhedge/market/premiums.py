"""Option prices as smooth functions of the market, cheap enough for every path and step."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfhedge.market.fourier import vanilla_price
from tfhedge.numerics import (
    chebyshev_basis,
    chebyshev_coefficients,
    chebyshev_points,
    chebyshev_sum,
)

# The expansion is cut where its remaining coefficients sum to less than this, in units of spot.
_TOLERANCE = 2e-8
# The same for a surface, where the sum is over two variables or three.
_SURFACE_TOLERANCE = 1e-7
# Numbers of points at which to try the fit.
_NUM_POINTS = (32, 64, 128, 256)
# The same for a surface, in arsinh of the moneyness and in the variance.
_NUM_SURFACE_POINTS = ((48, 18), (72, 27), (108, 40), (162, 60))


class PremiumSurface:
    r"""Prices of vanilla options, fitted once as functions of the variance.

    Each price $P_j(v)$ per unit of spot, the options' maturities and moneynesses being fixed, is
    analytic in $v$ right of about $-\kappa\theta\tau_j$. A Chebyshev expansion

    $$P_j(v) \approx \sum_{k=0}^n c_{kj}\,T_k(\zeta), \qquad
      \zeta = \text{affine function of } \log(v + \kappa\theta\min_i\tau_i) \in [-1, 1]$$

    therefore converges geometrically over the whole range $[0, v_{\max}]$ of variances, where
    $v_{\max}$ is the market's `largest_variance`.

    In this range premiums differ from `vanilla_price` by less than 2e-7 of the spot. Variances out
    of it are clipped to it, so that premiums are bounded, and rise with the variance everywhere.

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
        self.max_variance = market.largest_variance
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
            num_terms = _num_terms(np.abs(coefficients), _TOLERANCE)
            # The last third must be negligible, or the coefficients are those of aliases.
            if num_terms <= 2 * num_points // 3:
                return coefficients[:num_terms]
        raise ValueError(
            f"Expected the premiums to be resolved by {num_points} Chebyshev points in "
            f"log(variance + {self._shift:g}). Received: a remainder of "
            f"{np.abs(coefficients[-1]).max():.1e}"
        )


class PriceSurface:
    r"""Prices of options of any strike, fitted once for every number of time steps to maturity.

    The undiscounted call over its forward, a function $C(k, v, \tau)$ of $k = \log(K/F)$, gets a
    kink at $k = 0$ as the maturity gets short or the variance small. Seen from nearby it is smooth:
    with $w = v + \kappa\theta\tau$ and $g = (1 - e^{-\kappa\tau})/\kappa$,

    - it changes on the scale $\sqrt{wg}$, about the standard deviation of the log-spot, and
    - it is analytic in $k$ up to $\bigl(-\rho \pm i\sqrt{1 - \rho^2}\bigr)w/\xi$, where its
      Fourier integral (see `heston_price`) ceases to converge.

    Both are met by the centre $m$ and the scale $s$,

    $$m = -\frac{\rho\xi gw}D, \qquad s = w\sqrt{\frac{(1 - \rho^2)g}D}, \qquad
      D = (1 - \rho^2)w + \xi^2g:$$

    if $\xi$ is small, $m \approx 0$ and $s \approx \sqrt{wg}$; if it is large, $m \pm is$ are the
    singularities. On this scale the price is expanded in Chebyshev polynomials,

    $$C \approx \sum_{a, b} c_{ab}(\tau)\,T_a(\eta)\,T_b(\zeta), \qquad
      \eta = \text{affine function of } \operatorname{arsinh}\frac{k - m}s, \quad
      \zeta = \text{affine function of } \log w.$$

    The inverse hyperbolic sine, with branch points where the singularities are, makes room for the
    exponential tails of the law of the log-spot: $k$ ranges as far as the option that is out of the
    money is worth more than 2e-8. Beyond that range the price is the intrinsic value. The variance
    ranges as for a `PremiumSurface`, and is clipped to that range. The coefficients are smooth
    functions of $\log\tau$, known from their values at Chebyshev points.

    Prices differ from `Heston.vanilla_price` by less than 5e-7 of the spot or the strike, whichever
    is higher.

    Args:
        market: the `Heston` market.
        dt: length of a time step in years.
        max_life: longest time to maturity in time steps.

    Raises:
        ValueError: if the expansion does not converge.

    >>> from tfhedge.market.heston import Heston
    >>> surface = PriceSurface(Heston.from_paper(), dt=1 / 250, max_life=20)
    >>> spot, variance = [[1.0, 1.0]], [[0.0625, 0.0625]]
    >>> prices = surface(spot, variance, strikes=[1.0, 1.01], is_call=[False, True], life=[20, 1])
    >>> for life, (put, call) in zip([20, 1], prices[0]):
    ...     print(f"{life}: {put:.5f} {call:.5f}")
    20: 0.02709 0.02186
    1: 0.00629 0.00240
    """

    def __init__(self, market, dt, max_life):
        self._market, self._dt = market, dt
        self.max_variance = market.largest_variance
        half_range = np.log(max(max_life, 2)) / 2.0
        lives = np.exp(half_range * (1.0 + chebyshev_points(8 + int(9.0 * half_range))))
        low, high = self._moneyness_range(lives)
        self._center, self._radius = (high + low) / 2.0, (high - low) / 2.0
        place = np.log(np.arange(1, max_life + 1)) / half_range - 1.0
        basis = np.polynomial.chebyshev.chebvander(place, len(lives) - 1)
        coefficients = np.tensordot(basis, self._fit(lives), axes=1)
        num_moneyness, num_variance = (
            _num_terms(np.abs(coefficients).sum(axis).T, _SURFACE_TOLERANCE) for axis in (2, 1)
        )
        self._coefficients = np.float32(coefficients[:, :num_moneyness, :num_variance])

    def __call__(self, spot, variance, strikes, is_call, life):
        """Prices in the units of spot and strikes.

        Args:
            spot: prices of the underlying, `[num_paths, num_steps]`.
            variance: annual variance, `[num_paths, num_steps]`.
            strikes: strikes, `[num_options]`.
            is_call: whether each option is a call (else a put), `[num_options]`.
            life: time steps to maturity at each of the steps, `[num_steps]`, integers in
                [1, max_life].

        Returns:
            float32 tensor of shape `[num_paths, num_steps, num_options]`.
        """
        # Inside, time comes before paths: there is one matrix of coefficients for each step.
        spot, variance = (tf.transpose(tf.cast(x, tf.float32)) for x in (spot, variance))
        life = np.asarray(life)
        maturity = life[:, np.newaxis] * self._dt
        market, coefficients = self._market, self._coefficients[life - 1]
        shift, slope, offset = np.float32(self._variance_scale(maturity))
        shifted = tf.clip_by_value(variance, 0.0, self.max_variance) + shift
        zeta = slope * tf.math.log(shifted) + offset
        basis = tf.stack(chebyshev_basis(zeta, coefficients.shape[2] - 1), axis=1)
        center, scale = self._moneyness_scale(shifted, maturity)
        prices = _sum_over_moneyness(
            tf.matmul(coefficients, basis),
            spot * np.float32(np.exp((market.rate - market.dividend_yield) * maturity)),
            *(np.reshape(x, [-1, 1, 1]) for x in (np.float32(strikes), np.array(is_call, bool))),
            center,
            scale,
            np.float32([self._center, self._radius]),
        )
        return tf.transpose(prices * np.float32(np.exp(-market.rate * maturity)), [2, 1, 0])

    def _variance_scale(self, maturity):
        """The shift w - v, and zeta's slope and offset."""
        shift = self._market.kappa * self._market.theta * maturity
        low, high = np.log(shift), np.log(self.max_variance + shift)
        return shift, 2.0 / (high - low), -(high + low) / (high - low)

    def _moneyness_scale(self, shifted, maturity):
        """The centre m and the scale s, at w and a time to maturity."""
        kappa, xi, rho = self._market.kappa, self._market.xi, self._market.rho
        growth = -np.expm1(-kappa * maturity) / kappa
        independent = (1.0 - rho) * (1.0 + rho)
        denominator = independent * shifted + xi**2 * growth
        scale = shifted * (independent * growth / denominator) ** 0.5
        return -rho * xi * growth * shifted / denominator, scale

    def _exact(self, arsinh, zeta, life, is_call):
        """Prices `[len(arsinh), len(zeta)]` in the variables of the expansion."""
        maturity = life * self._dt
        shift, slope, offset = self._variance_scale(maturity)
        shifted = np.exp((zeta - offset) / slope)
        center, scale = self._moneyness_scale(shifted, maturity)
        # Held where the exponential is finite; the price has long reached its limit there.
        log_moneyness = np.clip(center + np.sinh(arsinh)[:, np.newaxis] * scale, -300.0, 300.0)
        market = dataclasses.replace(self._market, rate=0.0, dividend_yield=0.0)
        variance = np.maximum(shifted - shift, 0.0)
        return vanilla_price(market, variance, log_moneyness, maturity, is_call).numpy()

    def _moneyness_range(self, lives):
        """The lowest and the highest arsinh of options worth anything out of the money."""
        arsinh, zeta = np.linspace(1.0, 12.0, 111), np.linspace(-1.0, 1.0, 7)
        ends = []
        for sign in (-1.0, 1.0):
            prices = [
                self._exact(sign * arsinh, zeta, life, sign > 0)
                for life in lives[:: len(lives) // 3]
            ]
            of_worth = np.max(prices, axis=(0, 2)) > _TOLERANCE
            of_worth[-1] = False
            ends.append(float(sign * arsinh[np.argmin(of_worth)]))
        return ends

    def _fit(self, lives):
        """Coefficients along each axis: lives, moneyness, variance."""
        for num_moneyness, num_variance in _NUM_SURFACE_POINTS:
            arsinh = self._center + self._radius * chebyshev_points(num_moneyness)
            zeta = chebyshev_points(num_variance)
            coefficients = np.stack([self._exact(arsinh, zeta, life, True) for life in lives])
            for _ in range(3):
                coefficients = np.moveaxis(chebyshev_coefficients(coefficients), 0, -1)
            sizes = [
                _num_terms(np.abs(coefficients).sum(axis=others)[:, np.newaxis], _SURFACE_TOLERANCE)
                for others in ((1, 2), (0, 2), (0, 1))
            ]
            if all(np.less(sizes, coefficients.shape)):
                return coefficients
        raise ValueError(
            f"Expected the prices to be resolved by {coefficients.shape} Chebyshev points in "
            f"maturity, moneyness and variance. Received: market={self._market}"
        )


@tf.function(autograph=False, jit_compile=True)  # many operations on each price: XLA fuses them
def _sum_over_moneyness(weights, forward, strikes, is_call, center, scale, eta_range):
    """Forward prices: sums of weights[:, a] T_a(eta) or, out of eta's range, intrinsic values."""
    arsinh = tf.asinh((tf.math.log(strikes / forward) - center) / scale)
    eta = (arsinh - eta_range[0]) / eta_range[1]
    call = forward * chebyshev_sum(tf.unstack(weights, axis=1), tf.clip_by_value(eta, -1.0, 1.0))
    call = tf.where(tf.abs(eta) < 1.0, call, tf.nn.relu(forward - strikes))
    return tf.where(is_call, call, call - (forward - strikes))


def _num_terms(magnitude, tolerance):
    """How many terms to keep, at least 2; each column of `magnitude` is an expansion."""
    remainder = np.cumsum(magnitude[::-1], axis=0)[::-1].max(axis=1)
    return max(2, np.count_nonzero(~(remainder <= tolerance)))  # so that NaN counts
