"""Heston's parameters from the implied volatilities of a chain of options."""

import dataclasses
import itertools
import math

import numpy as np
import tensorflow as tf

from tfhedge.checks import one_of
from tfhedge.market.chain import OptionChain
from tfhedge.market.chain_prices import ChainPrices
from tfhedge.market.coordinates import (
    PARAMETERS,
    by_coordinates,
    coordinate_bounds,
    coordinates_of,
    parameters_at,
)
from tfhedge.market.fourier import heston_price
from tfhedge.market.heston import Heston
from tfhedge.market.implied import black_price, black_vega, implied_volatility
from tfhedge.market.least_squares import levenberg_marquardt

WEIGHTS = ("vega", "spread", "equal")

# The grid of starts for (kappa, xi, rho), and how many of them are followed.
_STARTS = tuple(itertools.product((0.5, 3.0, 12.0), (0.3, 1.0, 3.0), (-0.7, -0.1, 0.5)))
NUM_FOLLOWED = 6
# A spread in volatility below this says more of the ticks than of the quote.
_LEAST_SPREAD = 1e-4
# With less vega, over the forward, the quadrature cannot tell a volatility.
_LEAST_VEGA = 1e-7


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """A model fitted to a chain.

    Args:
        market: the fitted `Heston`. Its rate and dividend yield are those that fit the chain's
            discount factors and forwards best; the fit itself uses the chain's own.
        chain: the `OptionChain` it was fitted to.
        volatility: the model's implied volatilities, `[num_quotes]`.
        at_bound: names of the parameters that ended at one of their bounds, a tuple.
    """

    market: Heston
    chain: OptionChain
    volatility: np.ndarray
    at_bound: tuple[str, ...]

    @property
    def rmse(self):
        """Root mean square of the errors in implied volatility over all quotes."""
        return _root_mean_square(self.volatility - self.chain.volatility)

    @property
    def rmse_by_expiry(self):
        """The same for each expiry, a dictionary by its maturity in years, ascending."""
        errors = self.volatility - self.chain.volatility
        return {
            float(maturity): _root_mean_square(errors[self.chain.maturity == maturity])
            for maturity in np.unique(self.chain.maturity)
        }

    def __str__(self):
        flagged = {name: " (at its bound)" for name in self.at_bound}
        parameters = [
            f"{name:<6}{getattr(self.market, name):>12.5g}{flagged.get(name, '')}"
            for name in PARAMETERS
        ]
        head = f"\n{'days':>6}{'quotes':>8}{'IV RMSE':>10}"
        expiries = [
            f"{365 * maturity:>6.0f}{np.sum(self.chain.maturity == maturity):>8}{rmse:>10.5f}"
            for maturity, rmse in self.rmse_by_expiry.items()
        ]
        overall = f"{'all':>6}{len(self.chain):>8}{self.rmse:>10.5f}"
        return "\n".join([*parameters, head, *expiries, overall])


def calibrate(chain, weights="vega", feller=False):
    r"""Fits Heston's model to the mid implied volatilities of a chain.

    Minimizes, over the parameters $p = (v_0, \kappa, \theta, \xi, \rho)$,

    $$\sum_i w_i^2\,\bigl(\sigma_i(p) - \sigma_i\bigr)^2$$

    within the bounds $10^{-5} \le v_0, \theta \le 9$, $0.01 \le \kappa \le 50$,
    $0.01 \le \xi \le 10$ and $|\rho| \le 0.999$, each expiry with its own forward and discount
    factor.

    1. A grid of starts, with $v_0$ and $\theta$ from the first and the last expiry, is priced by
       `ChainPrices` and the best are followed, all in one graph, by `levenberg_marquardt` on the
       residuals $(\text{price}_i(p) - \text{price}_i)/\text{vega}_i$, which are those in volatility
       to first order.
    2. The best is followed on to the minimum in volatility itself, first with the same prices, as
       they are fast, then with `heston_price`, which is precise far out of the money too.

    Args:
        chain: an `OptionChain`.
        weights: $w_i$: `"vega"`, the root of Black's vega; `"spread"`, one over the spread of bid
            and ask volatility, which the chain must have, or over 1e-4 if it is less; `"equal"`.
        feller: whether $2\kappa\theta \ge \xi^2$ shall hold. The bounds of $\xi$ are then
            $10^{-4}\sqrt{2\kappa\theta}$ and $\sqrt{2\kappa\theta}$.

    Returns:
        `Calibration`.

    Raises:
        ValueError: if `chain` is no `OptionChain`, has fewer than five quotes or two expiries, or
            no spreads although the weights are to come from them, or if `weights` is unknown.
        RuntimeError: if the fit does not come to rest, or ends where the model has no volatility
            for a quote.

    Reference: Cui, del Bano Rollin and Germano, Full and fast calibration of the Heston stochastic
    volatility model (2017).

    >>> truth = Heston(1.0, v0=0.04, kappa=2.0, theta=0.06, xi=0.5, rho=-0.6)
    >>> strike, maturity = np.linspace(0.8, 1.2, 9), np.repeat([0.1, 0.5, 1.0], 9)
    >>> strike = np.tile(strike, 3)
    >>> price = truth.vanilla_price(strike, maturity, strike > 1.0)
    >>> volatility = implied_volatility(price, 1.0, strike, maturity, strike > 1.0)
    >>> chain = OptionChain(spot=1.0, maturity=maturity, strike=strike, forward=np.ones(27),
    ...                     discount=np.ones(27), volatility=volatility, spread=np.zeros(27))
    >>> fit = calibrate(chain)
    >>> print(f"kappa {fit.market.kappa:.5f}, xi {fit.market.xi:.5f}, RMSE {fit.rmse:.5f}")
    kappa 2.00000, xi 0.50000, RMSE 0.00000
    """
    if not isinstance(chain, OptionChain):
        raise ValueError(
            "Expected `chain` to be an `OptionChain`, as `read_chain` makes of a file. "
            f"Received: a {type(chain).__name__}"
        )
    one_of("weights", weights, WEIGHTS)
    if len(chain) < len(PARAMETERS):
        raise ValueError(f"Expected 5 quotes or more for 5 parameters. Received: {len(chain)}")
    if len(np.unique(chain.maturity)) < 2:
        raise ValueError(
            "Expected 2 expiries or more, as one does not tell v0, kappa and theta apart. "
            f"Received: one, {365 * chain.maturity[0]:.0f} days"
        )
    weight = _weights(chain, weights)
    one_of("feller", feller, (True, False))
    box = coordinate_bounds(feller)
    starts = tf.clip_by_value(coordinates_of(starting_points(chain), feller), *box)
    vega = np.maximum(chain.vega, _LEAST_VEGA)
    quotes = (chain.log_moneyness, chain.maturity, chain.volatility, vega, weight)
    quotes = [tf.constant(x) for x in quotes]
    found = _search(ChainPrices.of(chain), quotes, starts, *box, feller=feller)
    last = _finish(quotes, found, *box, feller=feller)
    if not np.isfinite(last.cost[0]):
        raise RuntimeError("The fit failed: where it ended a quote has no finite residual")
    if not last.at_rest[0]:
        raise RuntimeError(f"The fit failed: no minimum after {int(last.num_steps)} steps")
    parameters = parameters_at(last.x, feller)[0].numpy()
    at_bound = tf.reduce_any(tf.abs(last.x - box) < 1e-6, axis=0)
    return Calibration(
        market=Heston(chain.spot, *map(float, parameters), *_carry(chain)),
        chain=chain,
        volatility=chain.volatility + last.residuals[0].numpy() / weight,
        at_bound=tuple(itertools.compress(PARAMETERS, at_bound.numpy())),
    )


def _weights(chain, weights):
    """The residuals' weights, with mean square 1 / num_quotes: the cost is a mean square."""
    if weights == "spread" and not chain.spread.any():
        raise ValueError("Expected quotes with a spread for spread weights. Received: none has one")
    weight = {
        "vega": lambda: np.sqrt(np.maximum(chain.vega, _LEAST_VEGA)),
        "spread": lambda: 1.0 / np.maximum(chain.spread, _LEAST_SPREAD),
        "equal": lambda: np.ones(len(chain)),
    }[weights]()
    return weight / np.linalg.norm(weight)


def starting_points(chain):
    """Parameters to start from: the grid, with the variances at the money of the chain's ends.

    Args:
        chain: an `OptionChain`.

    Returns:
        float64 array `[num_starts, 5]`.
    """
    _, at_the_money = chain.at_the_money
    v0, theta = at_the_money[0] ** 2, at_the_money[-1] ** 2
    return np.array([(v0, kappa, theta, xi, rho) for kappa, xi, rho in _STARTS])


def _carry(chain):
    """Rate and dividend yield that fit the logarithms of discounts and forwards best."""
    maturities, first = np.unique(chain.maturity, return_index=True)
    discounted = -np.log(chain.discount[first])
    grown = np.log(chain.forward[first] / chain.spot)
    rate, growth = (x @ maturities / (maturities @ maturities) for x in (discounted, grown))
    return float(rate), float(rate - growth)


@tf.function(autograph=False, reduce_retracing=True)
def _search(prices, quotes, starts, low, high, feller):
    """The best minimum that the quadrature finds from the starts, `[1, 5]`."""
    k, maturity, market, vega, weight = quotes
    quoted = black_price(market, 1.0, tf.exp(k), maturity, k >= 0)

    def errors_and_jacobian(x):
        parameters = parameters_at(x, feller)
        errors, jacobian = prices.errors_and_jacobian(parameters)
        return errors, by_coordinates(jacobian, parameters, feller)

    def in_price(x):
        errors, jacobian = errors_and_jacobian(x)
        scale = weight / vega
        return scale * errors, scale[:, tf.newaxis] * jacobian

    def in_volatility(x):
        errors, jacobian = errors_and_jacobian(x)
        volatility = implied_volatility(quoted + errors, 1.0, tf.exp(k), maturity, k >= 0)
        # Where the quadrature's price is lost in its error, it stays with that in price.
        told = (volatility > 0) & (vega > _LEAST_VEGA)
        volatility = tf.where(told, volatility, market)
        scale = weight / tf.where(told, black_vega(volatility, k, maturity), vega)
        residuals = tf.where(told, weight * (volatility - market), scale * errors)
        return residuals, scale[..., tf.newaxis] * jacobian

    costs = tf.reduce_sum((weight / vega * prices.errors(parameters_at(starts, feller))) ** 2, -1)
    costs = tf.where(tf.math.is_finite(costs), costs, math.inf * tf.ones_like(costs))
    starts = tf.gather(starts, tf.math.top_k(-costs, NUM_FOLLOWED).indices)
    minima = levenberg_marquardt(in_price, tf.size(k), starts, low, high, step_tolerance=1e-2)
    best = tf.gather(minima.x, tf.argmin(minima.cost)[tf.newaxis])
    return levenberg_marquardt(
        in_volatility, tf.size(k), best, low, high, max_steps=20, step_tolerance=1e-4
    ).x


@tf.function(autograph=False, reduce_retracing=True)
def _finish(quotes, start, low, high, feller):
    """The minimum next to a start, `[1, 5]`, with precise volatilities."""
    k, maturity, market, _, weight = quotes
    strike, is_call = tf.exp(k), k >= 0

    def residuals(x):
        parameters = parameters_at(x, feller)
        each = [
            tf.broadcast_to(p[:, tf.newaxis], [tf.shape(x)[0], tf.size(k)])
            for p in tf.unstack(parameters, axis=-1)
        ]
        with tf.GradientTape() as tape:
            tape.watch(each)
            price = heston_price(strike, maturity, is_call, 1.0, *each)
        # The shape is not known if `heston_price` has been traced for another rank.
        slopes = tf.stack(tape.gradient(price, each), axis=-1)
        slopes = tf.ensure_shape(slopes, [None, None, len(PARAMETERS)])
        volatility = implied_volatility(price, 1.0, strike, maturity, is_call)
        # Where the model's price underflows its volatility is 0, and has no derivative.
        scale = tf.math.divide_no_nan(weight, black_vega(volatility, k, maturity))
        jacobian = scale[..., tf.newaxis] * by_coordinates(slopes, parameters, feller)
        return weight * (volatility - market), jacobian

    return levenberg_marquardt(residuals, tf.size(k), start, low, high, step_tolerance=1e-6)


def _root_mean_square(errors):
    return float(np.sqrt(np.mean(errors**2)))
