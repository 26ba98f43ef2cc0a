"""Vanilla option prices from the characteristic function, in float64."""

import functools
import math

import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.market.affine import (
    affine_exponents,
    expected_integrated_variance,
    moment_exists,
    to_complex,
)
from tfhedge.numerics import bisect, float64

_NUM_NODES = 96
# The contour's slope far out is at most tan 30 degrees, half way to the singularities.
_MAX_SLOPE = math.tan(math.pi / 6)
# The sum is cut where its terms have fallen by this factor, in logarithms.
_NEGLIGIBLE = 38.0
# An option is priced directly only if the strip of its moments is wider than this.
_MIN_WIDTH = 1e-3
# With less expected integrated variance than this, the price is its limit without any.
_MIN_VARIANCE = 1e-30


def heston_price(
    strike, maturity, is_call, spot, v0, kappa, theta, xi, rho, rate=0.0, dividend_yield=0.0
):
    r"""Price of a European option in Heston's model, as a function of all its parameters.

    With $F = x_0e^{(r - \delta)\tau}$ the forward, $k = \log(K/F)$ and
    $M(z) = \mathbb E[(x_\tau/F)^z]$ the moments of `affine_exponents`,

    $$\frac1{2\pi i}\int_{c - i\infty}^{c + i\infty} \frac{M(z)\,e^{(1 - z)k}}{z(z - 1)}\,dz
      = \begin{cases}
          \mathbb E[(x_\tau - K)^+]/F & c > 1 \\
          -\mathbb E[\min(x_\tau, K)]/F & 0 < c < 1 \\
          \mathbb E[(K - x_\tau)^+]/F & c < 0. \end{cases}$$

    The option that is out of the money, a call if $k \ge 0$, is computed directly, the other one
    by parity. So deep out of the money the price keeps its relative precision:

    - The contour leaves the real axis near the saddle point of the integrand, where this is as
      large as the price itself. The saddle is that of
      $\log\bigl|M(z)\,e^{-zk} / \bigl(z(z - 1)(z - z_\infty)\bigr)\bigr|$, which is convex between
      the pole at 1 (for a put, at 0) and $z_\infty$, the order of the first infinite moment.
      The third pole keeps the contour at a distance from this singularity, if it is a weak one.
    - It is the hyperbola $z = c + iy + m\bigl(\sqrt{y^2 + \sigma^2} - \sigma\bigr)$. There
      $|M(z)e^{-zk}|$ decays like $|e^{-za}|$ with
      $a = k + (\rho - i\sqrt{1 - \rho^2})(v_0 + \kappa\theta\tau)/\xi$. The fastest decay, without
      oscillation, has $m = -\mathrm{Re}\,a / \mathrm{Im}\,a$; the slope is held between
      $\pm\tan30^\circ$, since the singularities all lie on the real axis.
    - $\sigma$ is the distance $y$ at which the integrand has fallen by $e^{-1/2}$, and
      $y = \sigma\sinh t$ with equidistant $t$ is a double exponential rule for what decays
      exponentially. It ends where its terms have fallen by $e^{-38}$.

    The contour is found by bisections of fixed length, and held constant under differentiation,
    as the integral does not depend on it.

    If the moments' strip is narrower than 1e-3 (large $\rho\xi\tau$: the call's moments above 1
    explode), the covered call is computed instead, and the price is precise to 1e-16 absolutely.

    Args:
        strike: strike $K$, positive.
        maturity: $\tau$ in years, non-negative; at 0 the price is the intrinsic value.
        is_call: boolean, whether the option is a call (else a put).
        spot: spot price today.
        v0: annual variance today, non-negative.
        kappa: mean reversion speed of the variance, per year, positive.
        theta: long-run annual variance, positive.
        xi: volatility of the variance, per year, positive.
        rho: correlation of spot and variance, in (-1, 1).
        rate: interest rate $r$, annual, continuously compounded.
        dividend_yield: dividend yield $\delta$, likewise.

    All are converted to tensors and broadcast: a batch of parameters is an axis like any other.

    Returns:
        float64 tensor of the broadcast shape, differentiable by every argument but `is_call`. Out
        of the money the relative error is about 1e-10.

    Raises:
        ValueError: if, outside of a graph, an argument is out of its range, or the shapes do not
            broadcast.

    References:
        - Lewis, A simple option formula for general jump-diffusion processes (2001), theorem 3.2.
        - Lord and Kahl, Optimal Fourier inversion in semi-analytical option pricing (2007), for the
          saddle point.
        - Andersen and Lake, Robust high-precision option pricing by Fourier transforms (2018), for
          the slope of the contour and the quadrature.

    The derivative by any parameter comes from a tape:

    >>> v0 = tf.constant(0.0625, tf.float64)
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(v0)
    ...     price = heston_price(1.01, 20 / 250, True, 1.0, v0, 8.0, 0.0625, 1.0, -0.7)
    >>> print(f"{price.numpy():.12f}, vega {tape.gradient(price, v0).numpy():.6f}")
    0.021858347721, vega 0.171805
    """
    if tf.executing_eagerly():
        numbers = {
            "strike": checks.positive_elements("strike", strike),
            "maturity": checks.non_negative_elements("maturity", maturity),
            "v0": checks.non_negative_elements("v0", v0),
            "rho": checks.elements("rho", rho, lambda x: abs(x) < 1.0, "numbers in (-1, 1)"),
        }
        for name, value in {"spot": spot, "kappa": kappa, "theta": theta, "xi": xi}.items():
            numbers[name] = checks.positive_elements(name, value)
        for name, value in {"rate": rate, "dividend_yield": dividend_yield}.items():
            numbers[name] = checks.elements(name, value, np.isfinite, "finite numbers")
        checks.broadcast_with_booleans("is_call", is_call, numbers)
    numbers = (strike, maturity, spot, v0, kappa, theta, xi, rho, rate, dividend_yield)
    return _heston_price(tf.convert_to_tensor(is_call, tf.bool), *map(float64, numbers))


def vanilla_price(market, variance, log_moneyness, maturity, is_call):
    r"""Price of a European option per unit of current spot, a function of the current variance.

    Args:
        market: the `Heston` market; its `spot` and `v0` play no role.
        variance: annual variance today, non-negative.
        log_moneyness: $\log(\text{strike}/\text{spot})$.
        maturity: $\tau$ in years, non-negative.
        is_call: boolean, whether the option is a call (else a put).

    All but `market` are converted to tensors and broadcast.

    Returns:
        float64 tensor of the broadcast shape, `heston_price` for a spot of 1.

    >>> from tfhedge.market.heston import Heston
    >>> price = vanilla_price(Heston.from_paper(), 0.0625, math.log(1.01), 20 / 250, True)
    >>> print(f"{price.numpy():.12f}")
    0.021858347721
    """
    return heston_price(
        tf.exp(float64(log_moneyness)),
        maturity,
        is_call,
        1.0,
        variance,
        market.kappa,
        market.theta,
        market.xi,
        market.rho,
        market.rate,
        market.dividend_yield,
    )


@tf.function(autograph=False, reduce_retracing=True)
def _heston_price(is_call, *numbers):
    shape = functools.reduce(tf.broadcast_dynamic_shape, map(tf.shape, (is_call, *numbers)))
    strike, maturity, spot, v0, kappa, theta, xi, rho, rate, dividend_yield = (
        tf.broadcast_to(x, shape) for x in numbers
    )
    log_moneyness = tf.math.log(strike / spot) - (rate - dividend_yield) * maturity
    stock, cash = spot * tf.exp(-dividend_yield * maturity), strike * tf.exp(-rate * maturity)

    variance = expected_integrated_variance(v0, maturity, kappa, theta)
    is_certain = (maturity <= 0) | (variance < _MIN_VARIANCE)
    maturity, v0 = (tf.where(is_certain, tf.ones_like(x), x) for x in (maturity, v0))
    time_value = _out_of_the_money(log_moneyness, maturity, v0, kappa, theta, xi, rho)
    time_value = tf.where(is_certain, tf.zeros_like(stock), stock * time_value)

    call_is_out = log_moneyness >= 0
    parity = tf.where(is_call, stock - cash, cash - stock)
    return time_value + tf.where(is_call == call_is_out, tf.zeros_like(parity), parity)


def _out_of_the_money(k, maturity, v0, kappa, theta, xi, rho):
    """Price over forward of the option that is out of the money, undiscounted."""
    parameters = (maturity, v0, kappa, theta, xi, rho)
    z, weights, is_direct = (
        tf.stop_gradient(x) for x in _contour(*map(tf.stop_gradient, (k, *parameters)))
    )
    moment = _log_moment(z, *(x[..., tf.newaxis] for x in parameters))
    exponent = moment + (1.0 - z) * to_complex(k)[..., tf.newaxis]
    integrand = tf.math.real(tf.exp(exponent) / (z * (z - 1.0)) * weights)
    integral = tf.reduce_sum(integrand, axis=-1)
    covered = tf.exp(tf.minimum(k, 0.0))  # 1 for a call, K / F for a put.
    return tf.where(is_direct, integral, covered + integral)


def _contour(k, *parameters):
    """Nodes and weights, `[..., num_nodes]`, and whether they are beyond the poles 0 and 1."""
    maturity, v0, kappa, theta, xi, rho = parameters
    is_call = k >= 0
    ones = tf.ones_like(k)
    pole, sign = tf.cast(is_call, k.dtype), tf.where(is_call, ones, -ones)

    def exponent(z):
        return _log_moment(z, *parameters) - z * to_complex(k)

    # How far from the pole the moments exist.
    log_width = bisect(
        lambda x: moment_exists(pole + sign * tf.exp(x), maturity, kappa, xi, rho),
        math.log(1e-4) * ones,
        math.log(1e20) * ones,
        num_steps=50,
    )
    width = tf.exp(log_width)
    is_direct = width > _MIN_WIDTH

    def descends(logit):
        # The derivative of the exponent is the imaginary part of a small imaginary step.
        passed, left = width * tf.sigmoid(logit), width * tf.sigmoid(-logit)
        step = 1e-4 * tf.minimum(passed, left)
        slope = tf.math.imag(exponent(tf.complex(pole + sign * passed, step))) / step
        return sign * slope - 1.0 / passed - 1.0 / (1.0 + passed) + 1.0 / left < 0

    logit = bisect(descends, -60.0 * ones, 20.0 * ones, 30)
    saddle = pole + sign * width * tf.sigmoid(logit)
    start = tf.where(is_direct, saddle, 0.5 * ones)

    y_range = (math.log(1e-6) * ones, math.log(1e20) * ones)

    def log_size(z):
        return tf.math.real(exponent(z)) - tf.math.log(tf.abs(z * (z - 1.0)))

    def log_damped(z):
        return log_size(z) - tf.math.log(tf.abs(z - to_complex(pole + sign * width)))

    fallen = log_damped(to_complex(start)) - 0.5
    log_scale = bisect(lambda x: log_damped(tf.complex(start, tf.exp(x))) > fallen, *y_range, 12)
    scale = tf.exp(log_scale)

    decay = (v0 + kappa * theta * maturity) / xi
    slope = (k + rho * decay) / (tf.sqrt((1.0 - rho) * (1.0 + rho)) * decay)
    slope = tf.clip_by_value(slope, -_MAX_SLOPE, _MAX_SLOPE)

    def hyperbola(y, start, scale, slope):
        return tf.complex(start + slope * (tf.sqrt(y**2 + scale**2) - scale), y)

    # The sum over t has terms of the integrand times y.
    negligible = log_size(to_complex(start)) + log_scale - _NEGLIGIBLE
    log_end = bisect(
        lambda x: x + log_size(hyperbola(tf.exp(x), start, scale, slope)) > negligible,
        *y_range,
        12,
    )
    spacing = (tf.asinh(tf.exp(log_end - log_scale)) / _NUM_NODES)[..., tf.newaxis]
    t = spacing * (np.arange(_NUM_NODES) + 0.5)
    start, scale, slope = (x[..., tf.newaxis] for x in (start, scale, slope))
    y = scale * tf.sinh(t)
    # dz / (i pi) for one step in t, by symmetry on the upper half of the contour only.
    turn = tf.complex(tf.ones_like(y), -slope * y / tf.sqrt(y**2 + scale**2))
    weights = to_complex(scale * tf.cosh(t) * spacing / math.pi) * turn
    return hyperbola(y, start, scale, slope), weights, is_direct


def _log_moment(z, maturity, v0, kappa, theta, xi, rho):
    A, B = affine_exponents(z, maturity, kappa, theta, xi, rho)
    return A + B * to_complex(v0)
