"""Delta and vega of a cliquet along paths, from tables of its price."""

import math
from typing import NamedTuple

import numpy as np
import scipy.interpolate
import tensorflow as tf

from tfhedge import checks
from tfhedge.hedging.cliquet_price import CliquetPricer
from tfhedge.market.premiums import PriceSurface
from tfhedge.market.spline import TensorSpline, spline_sites

# Cells of the tables along log-return, variance and headroom.
_NUM_CELLS = (28, 12, 36)
# The log-return since the last reset ends at so many of its standard deviations.
_MAX_RETURN = 8.0


class Greeks(NamedTuple):
    """First derivatives of a price, each `[num_paths, num_steps]`.

    Attributes:
        delta: By the spot, in units of the initial one.
        vega: By the instantaneous annual variance.
    """

    delta: tf.Tensor
    vega: tf.Tensor


class CliquetGreeks:
    r"""Delta and vega of a `Cliquet` at all times of many paths.

    Before the last period the price of `CliquetPricer` is tabulated for each time as a function of
    the log-return $y$ since the last reset, the variance, and the headroom, the most that the claim
    can still pay. It is differentiated as a quintic spline, and the derivatives are interpolated.
    The coordinates make room where the price bends: $\operatorname{arsinh}((y - y_{cap}) / s)$ with
    half the standard deviation $s$ of what is left of the period's log-return, and
    $\log(v + \kappa\theta\tau)$. In the last period derivatives are those of a `PriceSurface`.

    Args:
        market: A `Heston` market.
        claim: A `Cliquet`.
        dt: Length of a time step in years.

    Raises:
        ValueError: As `CliquetPricer` and `PriceSurface`.
    """

    def __init__(self, market, claim, dt):
        self.market, self.claim, self.dt = market, claim, checks.positive("dt", dt)
        self._last_period = PriceSurface(market, dt, claim.period)
        self._log_cap = math.log1p(claim.cap)
        self._splines = self._tabulate() if claim.num_periods > 1 else None

    def __call__(self, spot, variance):
        """Delta and vega at all trading times.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps + 1]`.
            variance: Instantaneous variance, of the same shape.

        Returns:
            `Greeks` of a claim on a notional of 1.

        Raises:
            ValueError: If the paths are not of that shape, or a number is out of its range.
        """
        claim = self.claim
        paths = checks.paths(spot, variance, claim.num_steps + 1)
        spot, variance = (tf.constant(x[:, :-1], tf.float32) for x in paths)
        past = claim.observables(spot)
        states = spot / past["spot_at_last_reset"], variance, past["accrued"]
        parts = [self._in_last_period(*(x[:, -claim.period :] for x in states))]
        if self._splines:
            parts.insert(0, self._before(*(x[:, : -claim.period] for x in states)))
        by_moneyness, vega = (tf.concat(x, axis=1) for x in zip(*parts, strict=True))
        return Greeks(by_moneyness * self.market.spot / past["spot_at_last_reset"], vega)

    def _return_scale(self, steps_left):
        """Scale of the arsinh, and the range of its values, at numbers of steps to a reset."""
        steps_gone = np.maximum(1, self.claim.period - steps_left)
        scale = 0.5 * np.sqrt(self.market.theta * steps_left * self.dt)
        width = _MAX_RETURN * np.sqrt(self.market.theta * steps_gone * self.dt)
        low, high = (np.arcsinh((end - self._log_cap) / scale) for end in (-width, width))
        return scale, low, high - low

    def _variance_scale(self, steps_left):
        """The shift of the logarithm, and the range of its values, likewise."""
        shift = self.market.kappa * self.market.theta * steps_left * self.dt
        low, high = np.log(shift), np.log(self.market.largest_variance + shift)
        return shift, low, high - low

    def _tabulate(self):
        """Splines of the derivatives by moneyness and by variance, stacked by time."""
        pricer = CliquetPricer(self.market, self.claim, self.dt)
        places = [spline_sites(num_cells) / num_cells for num_cells in _NUM_CELLS]
        headroom = places[2] * self.claim.num_periods * self.claim.cap
        tables = [], []
        for steps_left in range(1, self.claim.period + 1):
            scale, low, width = self._return_scale(steps_left)
            arsinh = low + width * places[0]
            moneyness = np.exp(self._log_cap + scale * np.sinh(arsinh))
            shift, low, width = self._variance_scale(steps_left)
            logarithm = low + width * places[1]
            variance = np.maximum(np.exp(logarithm) - shift, 0.0)
            prices = np.stack(pricer.tables(steps_left, moneyness, variance, headroom))
            slopes = moneyness * scale * np.cosh(arsinh)
            tables[0].append(_derivative(arsinh, prices, 1) / slopes[:, None, None])
            tables[1].append(_derivative(logarithm, prices, 2) / (variance + shift)[:, None])
        return [TensorSpline(np.concatenate(table), stacked=True) for table in tables]

    def _before(self, moneyness, variance, accrued):
        """Derivatives by moneyness and variance before the last period, of the states' shape."""
        claim = self.claim
        periods_gone, steps_gone = np.divmod(np.arange(moneyness.shape[1]), claim.period)
        whole_periods, steps_left = claim.num_periods - 1 - periods_gone, claim.period - steps_gone
        headroom = accrued + np.float32((whole_periods + 1) * claim.cap)
        scale, low, width = map(np.float32, self._return_scale(steps_left))
        arsinh = tf.asinh((tf.math.log(moneyness) - self._log_cap) / scale)
        places = [(arsinh - low) / width]
        shift, low, width = map(np.float32, self._variance_scale(steps_left))
        places.append((tf.math.log(variance + shift) - low) / width)
        places.append(headroom / (claim.num_periods * claim.cap))
        cells = [x * num_cells for x, num_cells in zip(places, _NUM_CELLS, strict=True)]
        table = np.int32((steps_left - 1) * (claim.num_periods - 1) + whole_periods - 1)
        return [
            tf.where(headroom > 0.0, spline(*cells, function=table), 0.0)
            for spline in self._splines
        ]

    def _in_last_period(self, moneyness, variance, accrued):
        """The same in the last period, from a call where the sum is zero and one at the cap."""
        life = np.arange(self.claim.period, 0, -1)
        cap = 1.0 + self.claim.cap
        floor = tf.clip_by_value(1.0 - accrued, 1e-3, cap)
        with tf.GradientTape() as tape:
            tape.watch([moneyness, variance])
            call, capped = (
                strike
                * self._last_period(moneyness / strike, variance, [1.0], [True], life)[..., 0]
                for strike in (floor, cap)
            )
            price = call - capped
        return tape.gradient(price, [moneyness, variance])


def _derivative(x, values, axis):
    """Of the quintic spline through values along an axis, at the same places x."""
    return scipy.interpolate.make_interp_spline(x, values, k=5, axis=axis).derivative()(x)
