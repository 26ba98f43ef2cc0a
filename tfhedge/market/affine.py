"""The moments of Heston's log-return, which are exponentials affine in the variance."""

import tensorflow as tf

from tfhedge.numerics import complex_log1p


def affine_exponents(z, maturity, kappa, theta, xi, rho, decay=0.0):
    r"""Exponents of the joint moments of Heston's log-return and variance, in closed form.

    With $x_\tau/F$ the spot at $\tau$ over its forward, and $v$ the variance today,

    $$\mathbb E[(x_\tau/F)^z\,e^{-\lambda v_\tau}] = e^{A(z,\tau) + B(z,\tau)\,v},$$

    $$B = \frac{z(z - 1)\,(1 - e^{-d\tau})
              - \lambda\,(2d\,e^{-d\tau} - (\beta - d)(1 - e^{-d\tau}))}{2d\,D}, \qquad
      A = \frac{\kappa\theta}{\xi^2}\Bigl[(\beta - d)\,\tau - 2\log D\Bigr], \qquad
      D = 1 + \frac{(\beta - d + \xi^2\lambda)(1 - e^{-d\tau})}{2d}$$

    with $\beta = \kappa - \rho\xi z$ and $d^2 = \beta^2 - \xi^2z(z - 1)
    = \kappa^2 + \xi(\xi - 2\kappa\rho)z - \xi^2(1 - \rho^2)z^2$, $\mathrm{Re}\,d \ge 0$. Written
    with $e^{-d\tau}$ the logarithm keeps to its principal branch.

    Args:
        z: complex128 tensor, the order of the moment, which must exist.
        maturity: float64 tensor, $\tau$ in years.
        kappa: mean reversion speed, float64 tensor; this and the others broadcast.
        theta: long-run annual variance.
        xi: volatility of the variance.
        rho: correlation.
        decay: $\lambda$, the rate at which the terminal variance counts for less, non-negative.

    Returns:
        Tuple `(A, B)` of complex128 tensors of the broadcast shape.

    References:
        - Heston, A closed-form solution for options with stochastic volatility (1993).
        - Albrecher et al., The little Heston trap (2007), eq. 4, for the branch.

    >>> A, B = affine_exponents([0.0, 1.0], 0.5, kappa=8.0, theta=0.0625, xi=1.0, rho=-0.7)
    >>> A.numpy().tolist(), B.numpy().tolist()
    ([0j, 0j], [0j, 0j])
    """
    factor = to_complex(kappa * theta / xi**2)
    z, tau, kappa, xi, rho, decay = (to_complex(x) for x in (z, maturity, kappa, xi, rho, decay))
    product = z * (z - 1.0)
    beta = kappa - rho * xi * z
    d = tf.sqrt(
        kappa**2 + (xi - 2.0 * kappa * rho) * xi * z - (1 - rho) * (1 + rho) * (xi * z) ** 2
    )

    # Where Re beta >= 0, beta - d cancels; xi^2 z (z - 1) / (beta + d) equals it and does not.
    aligned = tf.math.real(beta) >= 0
    without_cancellation = tf.where(aligned, beta + d, beta - d)
    beta_minus_d = tf.where(aligned, xi**2 * product / without_cancellation, without_cancellation)

    decayed = -tf.math.expm1(-d * tau)  # 1 - exp(-d tau)
    more = (beta_minus_d + xi**2 * decay) * decayed  # 2 d (D - 1)
    left = 2.0 * d * (1.0 - decayed) - beta_minus_d * decayed
    B = (product * decayed - decay * left) / (2.0 * d + more)
    A = factor * (beta_minus_d * tau - 2.0 * complex_log1p(more / (2.0 * d)))
    return A, B


def moment_exists(order, maturity, kappa, xi, rho):
    r"""Whether the moment of a real order is finite.

    It is until the denominator of $B$ reaches zero, the first time that

    $$d\cosh\tfrac{d\tau}2 + \beta\sinh\tfrac{d\tau}2 = 0.$$

    Where $d^2 = -\gamma^2 < 0$ this is at $\gamma\tau/2 = \mathrm{atan2}(\gamma, -\beta)$.

    Args:
        order: the order $z$, float64 tensor; it and the others broadcast.
        maturity: $\tau$ in years.
        kappa: mean reversion speed.
        xi: volatility of the variance.
        rho: correlation.

    Returns:
        Boolean tensor of the broadcast shape.

    Reference: Andersen and Piterbarg, Moment explosions in stochastic volatility models (2007),
    proposition 3.1.

    >>> tau = tf.constant([0.1, 10.0], tf.float64)
    >>> moment_exists(tf.constant(40.0, tf.float64), tau, kappa=8.0, xi=1.0, rho=-0.7).numpy()
    array([ True, False])
    """
    beta = kappa - rho * xi * order
    square = (
        kappa**2 + (xi - 2.0 * kappa * rho) * xi * order - (1 - rho) * (1 + rho) * (xi * order) ** 2
    )
    modulus = tf.sqrt(tf.abs(square))
    angle = 0.5 * modulus * maturity
    oscillating = angle < tf.atan2(modulus, -beta)
    return tf.where(square < 0, oscillating, modulus + beta * tf.tanh(angle) > 0)


def expected_integrated_variance(v0, maturity, kappa, theta):
    r"""$\mathbb E\int_0^\tau v_s\,ds = \theta\tau + (v_0 - \theta)(1 - e^{-\kappa\tau})/\kappa$.

    Args:
        v0: annual variance today, float64 tensor; it and the others broadcast.
        maturity: $\tau$ in years.
        kappa: mean reversion speed.
        theta: long-run annual variance.

    Returns:
        float64 tensor of the broadcast shape.

    >>> x = tf.constant([0.5, 1.0], tf.float64)
    >>> expected_integrated_variance(0.04, x, 2.0, 0.04).numpy()
    array([0.02, 0.04])
    """
    return theta * maturity - (v0 - theta) * tf.math.expm1(-kappa * maturity) / kappa


def to_complex(x):
    """A real or complex tensor, or a number, as a complex128 tensor.

    A cast would warn, when it is differentiated, of the imaginary part that it drops.

    >>> to_complex(0.1).numpy().item()
    (0.1+0j)
    """
    x = tf.convert_to_tensor(x, dtype_hint=tf.float64)
    if x.dtype.is_complex:
        return tf.cast(x, tf.complex128)
    x = tf.cast(x, tf.float64)
    return tf.complex(x, tf.zeros_like(x))
