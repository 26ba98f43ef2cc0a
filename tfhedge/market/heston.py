"""Heston's stochastic volatility model."""

import dataclasses
import functools

import scipy.special

from tfhedge.checks import finite, in_range, keep, non_negative, positive
from tfhedge.market.fourier import heston_price
from tfhedge.serialization import serializable


@serializable
@dataclasses.dataclass(frozen=True)
class Heston:
    r"""Heston's stochastic volatility model.

    The spot $x$ and its annual variance $v$ satisfy

    $$dx_s = (r - \delta)\,x_s\,ds + x_s \sqrt{v_s}\,dB_s, \qquad
      dv_s = \kappa(\theta - v_s)\,ds + \xi\sqrt{v_s}\,dW_s, \qquad
      d\langle B, W\rangle_s = \rho\,ds.$$

    The variance stays above zero if $2\kappa\theta > \xi^2$ (Feller); nothing here requires it.

    The model is affine: the moments of $x_\tau$ over its forward $F = x_0e^{(r - \delta)\tau}$ are
    exponentials of functions affine in $v_0$, see `tfhedge.market.affine`.

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
        keep(self, positive, "spot", "kappa", "theta", "xi")
        keep(self, non_negative, "v0")
        keep(self, functools.partial(in_range, low=-1, high=1, closed="neither"), "rho")
        keep(self, finite, "rate", "dividend_yield")

    @classmethod
    def from_paper(cls):
        """The market of Mueller et al., Fast Deep Hedging, section 4.1."""
        return cls(spot=1.0, v0=0.0625, kappa=8.0, theta=0.0625, xi=1.0, rho=-0.7)

    @property
    def largest_variance(self):
        r"""The largest variance that tables of it cover.

        It is the $1 - 10^{-9}$ quantile of the stationary law of the variance, a gamma law of shape
        $2\kappa\theta/\xi^2$ and scale $\xi^2/2\kappa$, and at least $8\max(v_0, \theta)$.

        >>> print(f"{Heston.from_paper().largest_variance:.6f}")
        1.295204
        """
        scale = self.xi**2 / (2.0 * self.kappa)
        quantile = scale * scipy.special.gammainccinv(self.theta / scale, 1e-9)
        return max(float(quantile), 8.0 * max(self.v0, self.theta))

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
        return heston_price(strike, maturity, is_call, **dataclasses.asdict(self))
