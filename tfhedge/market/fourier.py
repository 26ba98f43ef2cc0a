"""Vanilla option prices from the characteristic function, in float64."""

import math

import tensorflow as tf

from tfhedge.numerics import exp_sinh_quadrature

_NODES, _WEIGHTS = exp_sinh_quadrature(400)


def vanilla_price(market, variance, log_moneyness, maturity, is_call):
    r"""Price of a European option per unit of current spot.

    With $k = \log(K/x)$ and $\varphi$ the characteristic function of $\log(x_\tau/x)$, a covered
    call is worth (Lewis, 2001)

    $$\frac1x\,\mathbb E[\min(x_\tau, K)] = \frac{e^{k/2}}\pi\,\mathrm{Re}\int_0^\infty
      \frac{e^{-ikz}\,\varphi(z - \tfrac i2)}{z^2 + \tfrac14}\,dz,$$

    the call 1 less this and the put $e^k$ less this. The integral runs along a ray
    $z = y(1 + i\tan\alpha)$, tilted so that $e^{-ikz}$ decays in place of oscillating:
    $\alpha = -\mathrm{sign}(k)\,\pi/12$ where $\varphi$ permits, which is where
    $k\rho + \xi k^2/(v + \kappa\theta\tau) > 0$, else 0. It is computed with the double exponential
    rule in $y\sqrt w$, where $w = (v + \kappa\theta\tau)(1 - e^{-\kappa\tau})/\kappa$ is, up to a
    factor 2, the expected integrated variance.

    Args:
        market: the `Heston` market.
        variance: annual variance today, non-negative.
        log_moneyness: $\log(\text{strike}/\text{spot})$.
        maturity: $\tau$ in years, positive.
        is_call: boolean, whether the option is a call (else a put).

    All but `market` are converted to tensors and broadcast.

    Returns:
        float64 tensor of the broadcast shape. For maturities of ten days and more the absolute
        error is about 1e-13 while $|\rho| \le 0.95$, and grows to about 1e-8 at 0.99.

    References:
        - Lewis, A simple option formula for general jump-diffusion processes (2001), eq. 3.11.
        - Andersen and Lake, Robust high-precision option pricing by Fourier transforms (2018), for
          the contour and the quadrature.

    >>> from tfhedge.market.heston import Heston
    >>> price = vanilla_price(Heston.from_paper(), 0.0625, math.log(1.01), 20 / 250, True)
    >>> print(f"{price.numpy():.12f}")
    0.021858347721
    """
    variance, k, maturity = (
        tf.convert_to_tensor(x, tf.float64) for x in (variance, log_moneyness, maturity)
    )
    kappa, theta = market.kappa, market.theta
    highest = variance + kappa * theta * maturity
    scale = tf.sqrt(highest * -tf.math.expm1(-kappa * maturity) / kappa)  # Root of w.

    permitted = k * market.rho * highest + market.xi * k**2 > 0
    slope = tf.where(permitted, -math.tan(math.pi / 12) * tf.sign(k), 0.0)
    # The ray is z = nodes * direction; the nodes' axis comes last.
    direction = tf.complex(1.0 / scale, slope / scale)[..., tf.newaxis]
    z = tf.constant(_NODES, tf.complex128) * direction
    k_axis, maturity_axis, variance_axis = (x[..., tf.newaxis] for x in (k, maturity, variance))

    A, B = market.affine_exponents(z - 0.5j, maturity_axis)
    exponent = A + B * tf.cast(variance_axis, tf.complex128) - 1j * z * tf.cast(k_axis, z.dtype)
    integrand = tf.math.real(tf.exp(exponent) / (z**2 + 0.25) * direction)
    integral = tf.reduce_sum(integrand * _WEIGHTS, axis=-1)
    covered_call = tf.exp(0.5 * k) / math.pi * integral
    return tf.where(is_call, tf.ones_like(k), tf.exp(k)) - covered_call
