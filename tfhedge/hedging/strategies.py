"""The hedges that a desk would use: by delta, by least variance, and by delta and vega."""

import functools

import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.hedging.instruments import FloatingGrid
from tfhedge.market.premiums import PriceSurface


class DeltaHedge:
    r"""Holds as many units of the underlying as the claim has delta.

    The trades are $u_t = \Delta_t - e^{q}\Delta_{t-1}$, with the dividend yield $q$ of a step: the
    dividends of what is held are invested in the underlying.

    Args:
        problem: A `HedgingProblem`.
        greeks: What computes delta and vega of its claim along paths, such as `CliquetGreeks`, of
            the market's model or of another one.

    Raises:
        ValueError: If they are of another claim, or by another time step or initial spot.
    """

    def __init__(self, problem, greeks):
        here = problem.claim, problem.dt, problem.market.spot
        there = greeks.claim, greeks.dt, greeks.market.spot
        if here != there:
            raise ValueError(
                "Expected the Greeks of the problem's claim, time step and initial spot, "
                f"{here}. Received those of {there}"
            )
        self.problem, self.greeks = problem, greeks

    def __call__(self, spot, variance):
        """All trades of each path.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps + 1]`.
            variance: Instantaneous variance, of the same shape.

        Returns:
            Actions, float32 NumPy array `[num_paths, num_steps, num_instruments]`.
        """
        return self._actions(self.greeks(spot, variance).delta.numpy())

    def _actions(self, delta):
        """Trades in the underlying alone that hold `delta`, `[num_paths, num_steps]`."""
        problem = self.problem
        actions = np.zeros([*delta.shape, problem.num_instruments], np.float32)
        growth = np.float32(np.exp(problem.market.dividend_yield * problem.dt))
        actions[..., 0] = delta
        actions[:, 1:, 0] -= growth * delta[:, :-1]
        return actions


class MinimumVarianceHedge(DeltaHedge):
    r"""Holds what of the underlying leaves the least variance, where the variance moves with it.

    In Heston's market that is $\Delta_t + \rho\xi\,\nu_t / S_t$, with the vega $\nu_t$ by the
    instantaneous variance and $S_t$ in units of the initial spot. Arguments: `DeltaHedge`.

    Reference: Bakshi, Cao and Chen, Empirical performance of alternative option pricing models
    (1997), section 4.
    """

    def __call__(self, spot, variance):
        """As `DeltaHedge`."""
        delta, vega = (x.numpy() for x in self.greeks(spot, variance))
        return self._actions(self._least_variance(delta, vega, np.asarray(spot)))

    def _least_variance(self, delta, vega, spot):
        """The units of the underlying against a delta and a vega."""
        market = self.problem.market
        return delta + market.rho * market.xi * market.spot / spot[:, :-1] * vega


class DeltaVegaHedge(MinimumVarianceHedge):
    """Buys one option of a floating grid so that the position has no vega, and then no delta.

    At every `interval`-th step, as long as the option is available, as many of it are bought as
    bring the vega of the claim and of all options that are still alive to zero, or a share of that.
    What they lack in delta is held in the underlying at every step, and against the vega that is
    left or comes up between the trades what leaves the least variance. Options are held until they
    expire.

    Args:
        problem: A `HedgingProblem` with a `FloatingGrid`.
        greeks: As for `DeltaHedge`.
        option: Number of the instrument, from 1 on, that hedges the vega.
        interval: Steps between trades in it.
        share: Share of the vega that a trade takes away, in (0, 1].

    Raises:
        ValueError: If the grid does not float, or has no such instrument, or the interval is not a
            positive integer, or the share is out of its range.
    """

    def __init__(self, problem, greeks, option, interval, share=1.0):
        super().__init__(problem, greeks)
        grid = problem.instruments
        if not isinstance(grid, FloatingGrid):
            raise ValueError(f"Expected a problem with a FloatingGrid. Received: {grid}")
        self.option = checks.integer("option", option, 1, problem.num_instruments - 1)
        self.interval = checks.positive_integer("interval", interval)
        self.share = checks.in_range("share", share, 0.0, 1.0, closed="right")
        self._life, self._strike = grid.maturities[option - 1], grid.strikes[option - 1]
        self._option_greeks = _option_greeks(problem.market, problem.dt, self._life, self._strike)

    def __call__(self, spot, variance):
        """As `DeltaHedge`; raises a `ValueError` if the option has no vega on a path."""
        spot, variance = (tf.cast(x, tf.float32) for x in (spot, variance))
        delta, vega = (np.array(x) for x in self.greeks(spot, variance))
        bought = np.zeros_like(vega)
        for time in range(0, self.problem.num_steps - self._life + 1, self.interval):
            alive = slice(time, time + self._life)
            option_delta, option_vega = (
                x.numpy() for x in self._option_greeks(spot[:, alive], variance[:, alive])
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                bought[:, time] = self.share * vega[:, time] / option_vega[:, 0]
            if not np.isfinite(bought[:, time]).all():
                raise ValueError(
                    f"Expected an option with a vega on each path. Received: option={self.option}, "
                    f"{self._life} steps, strike {self._strike}"
                )
            delta[:, alive] -= bought[:, time, None] * option_delta
            vega[:, alive] -= bought[:, time, None] * option_vega
        actions = self._actions(self._least_variance(delta, vega, spot.numpy()))
        actions[..., self.option] = bought
        return actions


@functools.lru_cache(maxsize=8)
def _option_greeks(market, dt, life, strike):
    """What computes delta and vega of an option, bought at the first of the times that it lives.

    Args:
        market: The `Heston` market.
        dt: Length of a time step in years.
        life: The option's life in time steps.
        strike: Its strike, relative to the spot when it is bought.

    Returns:
        A compiled function from prices of the underlying and the variance at these times, each
        `[num_paths, life]`, to two tensors of that shape; delta by the spot in units of the
        initial one.
    """
    surface = PriceSurface(market, dt, life)

    @tf.function(autograph=False, jit_compile=True)
    def greeks(spot, variance):
        moneyness = spot / spot[:, :1]
        with tf.GradientTape() as tape:
            tape.watch([moneyness, variance])
            price = surface(moneyness, variance, [strike], [strike > 1.0], np.arange(life, 0, -1))
        delta, vega = tape.gradient(price, [moneyness, variance])
        return delta, vega * spot[:, :1] / market.spot

    return greeks
