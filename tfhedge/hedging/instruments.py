"""What can be traded: which options, when, at what cost, and what a trade returns at maturity."""

import dataclasses
import itertools

import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.market.premiums import PremiumSurface


@dataclasses.dataclass(frozen=True)
class FloatingGrid:
    """The underlying and a floating grid of out-of-the-money vanilla options.

    At every time t the same times to maturity tau_i and moneynesses k_i = log(K_t^i / x_t) are
    tradable, a call where k_i > 0 and a put elsewhere. An option is held until it expires, so a
    trade of one unit made at t has returned by the horizon T

        r_{t,T}^(1) = x_T - x_t,
        r_{t,T}^(i) = (x_{t+tau_i} - K_t^i)^+ - C_t(tau_i, k_i)    for a call, a put likewise.

    Options that would expire after T are not available: their returns are zero.

    Args:
        maturities: Time to maturity of each option, in time steps.
        strikes: Strike of each option relative to the spot at the trade, K_t^i / x_t.
        spot_cost: Cost of trading one unit of the underlying, in units of the initial spot.
        option_cost: Cost of trading one option.

    Raises:
        ValueError: If the lists differ in length, or a number is out of its range.

    Example:
    >>> grid = FloatingGrid.from_paper()
    >>> grid.num_instruments
    20
    >>> grid.availability(num_steps=240).sum(axis=0).astype(int).tolist()[::4]
    [240, 221, 221, 161, 121]

    Reference: Mueller et al., section 2.1 (b), and footnote 9 for the grid of the paper.
    """

    maturities: tuple[int, ...]
    strikes: tuple[float, ...]
    spot_cost: float = 1e-4
    option_cost: float = 1e-2

    def __post_init__(self):
        if len(self.maturities) != len(self.strikes):
            raise ValueError(
                "Expected `maturities` and `strikes` to be of one length. "
                f"Received: {len(self.maturities)} and {len(self.strikes)} of them"
            )
        if not self.maturities:
            raise ValueError("Expected at least one option. Received: maturities=()")
        for maturity in self.maturities:
            checks.positive_integer("maturities", maturity)
        for strike in self.strikes:
            checks.positive("strikes", strike)
        checks.non_negative("spot_cost", self.spot_cost)
        checks.non_negative("option_cost", self.option_cost)

    @classmethod
    def from_paper(cls, **costs):
        """The 19 options of footnote 9; `spot_cost` and `option_cost` can be given."""
        strikes = {
            10: [0.99, 1.0, 1.01],
            20: [0.97, 0.99, 1.0, 1.01, 1.03],
            40: [0.95, 1.0, 1.05],
            80: [0.91, 1.0, 1.09],
            120: [0.85, 0.95, 1.0, 1.05, 1.15],
        }
        pairs = [(maturity, strike) for maturity in strikes for strike in strikes[maturity]]
        return cls(*zip(*pairs, strict=True), **costs)

    @property
    def num_instruments(self):
        """The underlying and the options: d."""
        return 1 + len(self.maturities)

    @property
    def costs(self):
        """Cost per unit traded, `[num_instruments]`."""
        return np.array([self.spot_cost] + [self.option_cost] * len(self.maturities), np.float32)

    def availability(self, num_steps):
        """Where a trade is possible: 1 or 0, `[num_steps, num_instruments]`."""
        left = num_steps - np.arange(num_steps)[:, None]
        return (left >= np.array([0, *self.maturities])).astype(np.float32)

    def premiums(self, market, dt):
        """The options' prices per unit of spot as a function of variance.

        Args:
            market: The `Heston` market that prices them.
            dt: Length of a time step in years.

        Returns:
            A `PremiumSurface`: variance `[...]` to prices `[..., num_instruments - 1]`.
        """
        strikes = np.array(self.strikes)
        return PremiumSurface(
            market, np.log(strikes), np.array(self.maturities) * dt, strikes > 1.0
        )

    def returns(self, spot, premiums):
        """Total returns r_{t,T} of one unit of each instrument traded at each time.

        Args:
            spot: Prices of the underlying in units of the initial one,
                `[num_paths, num_steps + 1]`.
            premiums: Option prices per unit of spot, `[num_paths, num_steps, num_instruments - 1]`.

        Returns:
            Returns in units of the initial spot, `[num_paths, num_steps, num_instruments]`.
        """
        num_steps = spot.shape[1] - 1
        now = spot[:, :-1, None]
        returns = [spot[:, -1:, None] - now]
        for maturity, group in itertools.groupby(
            range(len(self.maturities)), key=self.maturities.__getitem__
        ):
            group = list(group)
            strikes = np.array([self.strikes[i] for i in group])
            sign = np.float32(np.where(strikes > 1.0, 1.0, -1.0))
            traded = max(num_steps - maturity + 1, 0)
            at_expiry = spot[:, maturity:, None]
            payoff = tf.nn.relu(sign * (at_expiry - now[:, :traded] * np.float32(strikes)))
            paid = now[:, :traded] * premiums[:, :traded, group[0] : group[-1] + 1]
            returns.append(tf.pad(payoff - paid, [[0, 0], [0, num_steps - traded], [0, 0]]))
        return tf.concat(returns, axis=-1)
