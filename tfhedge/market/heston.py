"""Heston's stochastic volatility model."""

import dataclasses

import tensorflow as tf

from tfhedge.checks import finite, in_range, non_negative, positive


@dataclasses.dataclass(frozen=True)
class Heston:
    r"""Heston's stochastic volatility model without drift.

    The spot $x$ and its annual variance $v$ satisfy

    $$dx_s = x_s \sqrt{v_s}\,dB_s, \qquad
      dv_s = \kappa(\theta - v_s)\,ds + \xi\sqrt{v_s}\,dW_s, \qquad
      d\langle B, W\rangle_s = \rho\,ds.$$

    The variance stays above zero if $2\kappa\theta > \xi^2$ (Feller); nothing here requires it.

    The model is affine: for complex $u$ for which the moment exists

    $$\mathbb E[e^{iu\log(x_\tau/x_0)} \mid v_0 = v] = e^{A(u,\tau) + B(u,\tau)\,v},$$

    $$B = -q\,\frac{1 - e^{-d\tau}}{d\,(1 + e^{-d\tau}) + \beta\,(1 - e^{-d\tau})}, \qquad
      A = \frac{\kappa\theta}{\xi^2}\Bigl[(\beta - d)\,\tau
          - 2\log\Bigl(1 + \frac{(\beta - d)(1 - e^{-d\tau})}{2d}\Bigr)\Bigr]$$

    with $q = u^2 + iu$, $\beta = \kappa - i\rho\xi u$ and $d = \sqrt{\beta^2 + \xi^2 q}$,
    $\mathrm{Re}\,d \ge 0$. Written with $e^{-d\tau}$ the logarithm keeps to its principal branch.

    Args:
        spot: spot price at time 0, positive.
        v0: annual variance at time 0, non-negative.
        kappa: mean reversion speed of the variance, per year, positive.
        theta: long-run annual variance, positive.
        xi: volatility of the variance, per year, positive.
        rho: correlation of the two Brownian motions, in (-1, 1).
        rate: continuously compounded interest rate, per year.
        dividend_yield: continuous dividend yield, per year.

    Raises:
        ValueError: if an argument is out of its range.

    References:
        - Heston, A closed-form solution for options with stochastic volatility (1993).
        - Albrecher et al., The little Heston trap (2007), eq. 4, for the branch.

    >>> market = Heston(spot=1.0, v0=0.0625, kappa=8.0, theta=0.0625, xi=1.0, rho=-0.7)
    >>> market == Heston.from_paper()
    True
    """

    spot: float
    v0: float
    kappa: float
    theta: float
    xi: float
    rho: float
    rate: float = 0.0
    dividend_yield: float = 0.0

    def __post_init__(self):
        checked = {
            name: positive(name, getattr(self, name)) for name in ("spot", "kappa", "theta", "xi")
        }
        checked["v0"] = non_negative("v0", self.v0)
        checked["rho"] = in_range("rho", self.rho, -1, 1, closed="neither")
        for name in ("rate", "dividend_yield"):
            checked[name] = finite(name, getattr(self, name))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_paper(cls):
        """The market of Mueller et al., Fast Deep Hedging, section 4.1."""
        return cls(spot=1.0, v0=0.0625, kappa=8.0, theta=0.0625, xi=1.0, rho=-0.7)

    def affine_exponents(self, u, maturity):
        r"""$A(u, \tau)$ and $B(u, \tau)$ of the characteristic function.

        Args:
            u: complex128 tensor, the argument of the characteristic function.
            maturity: float64 tensor that broadcasts with `u`, $\tau$ in years.

        Returns:
            Tuple `(A, B)` of complex128 tensors of the broadcast shape.

        >>> A, B = Heston.from_paper().affine_exponents(0.0, 1.0)
        >>> bool(A == 0), bool(B == 0)
        (True, True)
        """
        u, tau = _complex(u), _complex(maturity)
        q = u * (u + 1j)
        beta = self.kappa - 1j * self.rho * self.xi * u
        d = tf.sqrt(beta**2 + self.xi**2 * q)  # The principal root: Re d >= 0.

        # Where Re beta >= 0, beta - d cancels; -xi^2 q / (beta + d) equals it and does not.
        aligned = tf.math.real(beta) >= 0
        without_cancellation = tf.where(aligned, beta + d, beta - d)
        beta_minus_d = tf.where(
            aligned, -(self.xi**2) * q / without_cancellation, without_cancellation
        )

        decayed = -tf.math.expm1(-d * tau)  # 1 - exp(-d tau)
        B = -q * decayed / (2.0 * d + beta_minus_d * decayed)
        A = (self.kappa * self.theta / self.xi**2) * (
            beta_minus_d * tau - 2.0 * tf.math.log1p(beta_minus_d * decayed / (2.0 * d))
        )
        return A, B

    def characteristic_function(self, u, maturity, variance):
        r"""$\mathbb E[e^{iu\log(x_\tau/x_0)} \mid v_0 = v]$.

        Args:
            u: complex128 tensor, the argument of the characteristic function.
            maturity: float64 tensor, $\tau$ in years.
            variance: float64 tensor, the annual variance $v$ today.

        Returns:
            complex128 tensor of the three arguments' broadcast shape.

        The spot is a martingale, so that its first moment is 1:

        >>> moment = Heston.from_paper().characteristic_function(-1j, 0.5, 0.04)
        >>> print(f"{abs(moment.numpy()):.12f}")
        1.000000000000
        """
        A, B = self.affine_exponents(u, maturity)
        return tf.exp(A + B * _complex(variance))


def _complex(x):
    """`x` as a complex128 tensor; `tf.cast` alone would round a Python float to float32."""
    return tf.cast(tf.convert_to_tensor(x, dtype_hint=tf.float64), tf.complex128)
