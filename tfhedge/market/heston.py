"""Heston's stochastic volatility model."""

import dataclasses

import tensorflow as tf

from tfhedge.checks import (
    broadcast_with_booleans,
    elements,
    finite,
    in_range,
    non_negative,
    positive,
)
from tfhedge.market.affine import affine_exponents, to_complex
from tfhedge.market.fourier import heston_price


@dataclasses.dataclass(frozen=True)
class Heston:
    r"""Heston's stochastic volatility model.

    The spot $x$ and its annual variance $v$ satisfy

    $$dx_s = (r - \delta)\,x_s\,ds + x_s \sqrt{v_s}\,dB_s, \qquad
      dv_s = \kappa(\theta - v_s)\,ds + \xi\sqrt{v_s}\,dW_s, \qquad
      d\langle B, W\rangle_s = \rho\,ds.$$

    The variance stays above zero if $2\kappa\theta > \xi^2$ (Feller); nothing here requires it.

    The model is affine: the moments of $x_\tau$ over its forward $F = x_0e^{(r - \delta)\tau}$ are
    exponentials of functions affine in $v_0$, which `affine_exponents` has in closed form.

    Args:
        spot: spot price at time 0, positive.
        v0: annual variance at time 0, non-negative.
        kappa: mean reversion speed of the variance, per year, positive.
        theta: long-run annual variance, positive.
        xi: volatility of the variance, per year, positive.
        rho: correlation of the two Brownian motions, in (-1, 1).
        rate: interest rate $r$, annual, continuously compounded.
        dividend_yield: dividend yield $\delta$, likewise.

    Raises:
        ValueError: if an argument is out of its range.

    Reference: Heston, A closed-form solution for options with stochastic volatility (1993).

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

    def vanilla_price(self, strike, maturity, is_call):
        r"""Price of a European option today, in units of money.

        Args:
            strike: strike price, positive.
            maturity: time to maturity in years, non-negative.
            is_call: boolean, whether the option is a call (else a put).

        The three are converted to tensors and broadcast.

        Returns:
            float64 tensor of the broadcast shape. `heston_price` is the same price as a function of
            the parameters, for derivatives and for batches of them; it says how it is computed.

        Raises:
            ValueError: if, outside of a graph, an argument is out of its range, or the shapes do
                not broadcast.

        >>> market = Heston(100.0, 0.04, 4.0, 0.25, 1.0, -0.5, rate=0.01, dividend_yield=0.02)
        >>> market.vanilla_price([80.0, 100.0], 1.0, [False, True]).numpy().round(9).tolist()
        [7.958878113, 16.070154917]
        """
        if tf.executing_eagerly():
            numbers = {
                "strike": elements("strike", strike, lambda x: x > 0, "positive numbers"),
                "maturity": elements(
                    "maturity", maturity, lambda x: x >= 0, "non-negative numbers"
                ),
            }
            broadcast_with_booleans("is_call", is_call, numbers)
        return heston_price(strike, maturity, is_call, **dataclasses.asdict(self))

    def affine_exponents(self, u, maturity):
        r"""$A$ and $B$ of $\mathbb E[e^{iu\log(x_\tau/F)} \mid v_0 = v] = e^{A + Bv}$.

        Args:
            u: complex128 tensor, the argument of the characteristic function.
            maturity: float64 tensor that broadcasts with `u`, $\tau$ in years.

        Returns:
            Tuple `(A, B)` of complex128 tensors of the broadcast shape.

        >>> A, B = Heston.from_paper().affine_exponents(0.0, 1.0)
        >>> bool(A == 0), bool(B == 0)
        (True, True)
        """
        z = 1j * to_complex(u)
        return affine_exponents(z, maturity, self.kappa, self.theta, self.xi, self.rho)

    def characteristic_function(self, u, maturity, variance):
        r"""$\mathbb E[e^{iu\log(x_\tau/F)} \mid v_0 = v]$, the drift being left out.

        Args:
            u: complex128 tensor, the argument of the characteristic function.
            maturity: float64 tensor, $\tau$ in years.
            variance: float64 tensor, the annual variance $v$ today.

        Returns:
            complex128 tensor of the three arguments' broadcast shape.

        The spot over its forward is a martingale, so that its first moment is 1:

        >>> moment = Heston.from_paper().characteristic_function(-1j, 0.5, 0.04)
        >>> print(f"{abs(moment.numpy()):.12f}")
        1.000000000000
        """
        A, B = self.affine_exponents(u, maturity)
        return tf.exp(A + B * to_complex(variance))
