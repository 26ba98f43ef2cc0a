"""What can be traded: which options, when, at what cost, and what a trade returns at maturity."""

import dataclasses
import itertools
import math

import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.market.premiums import PremiumSurface, PriceSurface
from tfhedge.serialization import serializable


class OptionGrid:
    """The underlying, in the first place, and options: what all grids of them have in common.

    A grid is a dataclass with fields `strikes`, `spot_cost` and `option_cost`. It says what the
    options are (`describe`), which instruments are the same at every time (`held`), when a trade is
    possible (`availability`), what the options cost (`premiums`, a function of the market's paths),
    and what trades return by the horizon (`returns`, given the paths and the premiums).

    Every amount is discounted to time 0, and dividends of the underlying are invested in it: with a
    rate r and a dividend yield q per step, a unit of the underlying bought at t returns

        r_{t,T}^(1) = e^{-r T} e^{q (T - t)} x_T - e^{-r t} x_t.
    """

    def _check(self, life_name, *others):
        """Makes tuples of the lists; raises if their lengths differ or a number is out of range."""
        checks.keep(self, _tuple, life_name, "strikes", *others)
        lives = getattr(self, life_name)
        if len(lives) != len(self.strikes):
            raise ValueError(
                f"Expected `{life_name}` and `strikes` to be of one length. "
                f"Received: {len(lives)} and {len(self.strikes)} of them"
            )
        checks.keep(self, _each(checks.positive_integer), life_name)
        checks.keep(self, _each(checks.positive), "strikes")
        checks.keep(self, checks.non_negative, "spot_cost", "option_cost")

    @property
    def num_instruments(self):
        """The underlying and the options: d."""
        return 1 + len(self.strikes)

    @property
    def held(self):
        """What is the same contract at every time: the underlying, `[num_instruments]` booleans."""
        return np.arange(self.num_instruments) == 0

    @property
    def costs(self):
        """Cost per unit traded, `[num_instruments]`."""
        return np.array([self.spot_cost] + [self.option_cost] * len(self.strikes), np.float32)

    @staticmethod
    def _returns_of_underlying(discounted_spot, dividend_yield):
        left = np.arange(discounted_spot.shape[1] - 1, 0, -1)
        units = np.exp(dividend_yield * left).astype(np.float32)
        return discounted_spot[:, -1:] * units - discounted_spot[:, :-1]


@serializable
@dataclasses.dataclass(frozen=True)
class FloatingGrid(OptionGrid):
    """The underlying and a floating grid of out-of-the-money vanilla options.

    At every time t the same times to maturity tau_i and moneynesses k_i = log(K_t^i / x_t) are
    tradable, a call where k_i > 0 and a put elsewhere. An option is held until it expires, so a
    trade of one unit made at t has returned by the horizon T, with a rate of zero,

        r_{t,T}^(1) = x_T - x_t,
        r_{t,T}^(i) = (x_{t+tau_i} - K_t^i)^+ - C_t(tau_i, k_i)    for a call, a put likewise.

    Options that would expire after T are not available: their returns are zero. A grid without any
    is the underlying alone.

    Args:
        maturities: Time to maturity of each option, in time steps.
        strikes: Strike of each option relative to the spot at the trade, K_t^i / x_t.
        spot_cost: Cost of trading one unit of the underlying, in units of the initial spot.
        option_cost: Cost of trading one option.

    Raises:
        ValueError: If the lists are none or differ in length, or a number is out of its range.

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
        self._check("maturities")

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

    def describe(self):
        """The options in order, JSON-ready: type, life in time steps and strike."""
        return [
            {
                "type": "call" if strike > 1.0 else "put",
                "maturity": maturity,
                "strike_over_spot": strike,
                "moneyness": math.log(strike),
            }
            for maturity, strike in zip(self.maturities, self.strikes, strict=True)
        ]

    def availability(self, num_steps):
        """Where a trade is possible: 1 or 0, `[num_steps, num_instruments]`."""
        left = num_steps - np.arange(num_steps)[:, None]
        return (left >= np.array([0, *self.maturities])).astype(np.float32)

    def premiums(self, market, dt):
        """The options' prices per unit of spot.

        Args:
            market: The `Heston` market that prices them.
            dt: Length of a time step in years.

        Returns:
            A function of spot and variance, each `[num_paths, num_steps + 1]`: the prices at the
            trading times, `[num_paths, num_steps, num_instruments - 1]`.
        """
        if not self.strikes:
            return lambda spot, variance: variance[:, :-1, np.newaxis][..., :0]
        strikes = np.array(self.strikes)
        surface = PremiumSurface(
            market, np.log(strikes), np.array(self.maturities) * dt, strikes > 1.0
        )
        return lambda spot, variance: surface(variance[:, :-1])

    def returns(self, spot, premiums, rate=0.0, dividend_yield=0.0):
        """Discounted total returns r_{t,T} of one unit of each instrument traded at each time.

        Args:
            spot: Prices of the underlying in units of the initial one,
                `[num_paths, num_steps + 1]`.
            premiums: Option prices per unit of spot, `[num_paths, num_steps, num_instruments - 1]`.
            rate: Interest rate per time step, continuously compounded.
            dividend_yield: Dividend yield per time step, likewise.

        Returns:
            Returns in units of the initial spot, `[num_paths, num_steps, num_instruments]`.
        """
        num_steps = spot.shape[1] - 1
        spot = spot * np.exp(-rate * np.arange(num_steps + 1)).astype(np.float32)  # discounted
        now = spot[:, :-1, None]
        returns = [self._returns_of_underlying(spot, dividend_yield)[..., None]]
        for maturity, group in itertools.groupby(
            range(len(self.maturities)), key=self.maturities.__getitem__
        ):
            group = list(group)
            strikes = np.array([self.strikes[i] for i in group])
            sign = np.float32(np.where(strikes > 1.0, 1.0, -1.0))
            traded = max(num_steps - maturity + 1, 0)
            strike = now[:, :traded] * np.float32(strikes * np.exp(-rate * maturity))
            payoff = tf.nn.relu(sign * (spot[:, maturity:, None] - strike))
            paid = now[:, :traded] * premiums[:, :traded, group[0] : group[-1] + 1]
            returns.append(tf.pad(payoff - paid, [[0, 0], [0, num_steps - traded], [0, 0]]))
        return tf.concat(returns, axis=-1)


@serializable
@dataclasses.dataclass(frozen=True)
class FixedGrid(OptionGrid):
    r"""The underlying and vanilla options of fixed strike and expiry.

    At every time t the same contracts are tradable, each until it expires at its time e_i. With
    P_t^i the price of a contract, and from its expiry on what it has paid,

        P_t^i = (x_{e_i} - K_i)^+  for t >= e_i and a call,  a put likewise,

    a trade of one unit made at t has returned by the horizon T, with a rate of zero,

        r_{t,T}^(1) = x_T - x_t,        r_{t,T}^(i) = P_T^i - P_t^i.

    A contract that expires after T is closed at its model price then, free of cost. Since trades in
    a contract add up, to the `holdings`, a position can be unwound.

    Args:
        expiries: Expiry e_i of each contract, in time steps from time 0.
        strikes: Strike K_i of each contract, in units of the initial spot.
        is_call: Whether each contract is a call (else a put).
        spot_cost: Cost of trading one unit of the underlying, in units of the initial spot.
        option_cost: Cost of trading one option.

    Raises:
        ValueError: If the lists are none or differ in length, or a number is out of its range.

    Example:
    >>> grid = FixedGrid(expiries=(1, 3), strikes=(1.0, 1.1), is_call=(False, True))
    >>> grid.availability(num_steps=3).astype(int).tolist()
    [[1, 1, 1], [1, 0, 1], [1, 0, 1]]
    >>> FixedGrid.chain(expiries=(1, 3), strikes=(1.0, 1.1)).is_call
    (False, True, False, True)

    Reference: Mueller et al., section 2.1 (a) and eq. (1).
    """

    expiries: tuple[int, ...]
    strikes: tuple[float, ...]
    is_call: tuple[bool, ...]
    spot_cost: float = 1e-4
    option_cost: float = 1e-2

    def __post_init__(self):
        self._check("expiries", "is_call")
        if not self.strikes:
            raise ValueError("Expected at least one option. Received: expiries=()")
        if len(self.is_call) != len(self.strikes):
            raise ValueError(
                "Expected `is_call` and `strikes` to be of one length. "
                f"Received: {len(self.is_call)} and {len(self.strikes)} of them"
            )
        checks.keep(self, _each(_boolean), "is_call")

    @classmethod
    def chain(cls, expiries, strikes, **costs):
        """At each expiry every strike, those above 1 as calls and the others as puts.

        Args:
            expiries: Expiries in time steps from time 0.
            strikes: Strikes in units of the initial spot.
            **costs: `spot_cost` and `option_cost`.
        """
        pairs = list(itertools.product(expiries, strikes))
        return cls(
            expiries=tuple(expiry for expiry, _ in pairs),
            strikes=tuple(strike for _, strike in pairs),
            is_call=tuple(strike > 1.0 for _, strike in pairs),
            **costs,
        )

    def describe(self):
        """The contracts in order, JSON-ready: type, expiry in time steps and strike."""
        contracts = zip(self.is_call, self.expiries, self.strikes, strict=True)
        return [
            {
                "type": "call" if is_call else "put",
                "expiry": expiry,
                "strike_over_initial_spot": strike,
            }
            for is_call, expiry, strike in contracts
        ]

    @property
    def held(self):
        """What is the same contract at every time: everything, `[num_instruments]` booleans."""
        return np.full(self.num_instruments, True)

    def availability(self, num_steps):
        """Where a trade is possible: 1 or 0, `[num_steps, num_instruments]`."""
        alive = np.arange(num_steps)[:, None] < np.array(self.expiries)
        return np.pad(alive, [(0, 0), (1, 0)], constant_values=True).astype(np.float32)

    def premiums(self, market, dt):
        """The contracts' prices, and what they have paid once they have expired.

        They differ from the exact prices by less than 5e-7 of the spot or the strike, whichever is
        higher.

        Args:
            market: The `Heston` market that prices them.
            dt: Length of a time step in years.

        Returns:
            A function of spot, in units of the initial one, and variance, each
            `[num_paths, num_steps + 1]`: the prices P at the same times, in the same units,
            `[num_paths, num_steps + 1, num_instruments - 1]`.
        """
        surface = PriceSurface(market, dt, max(self.expiries))
        return lambda spot, variance: self._prices(surface, spot, variance)

    def _prices(self, surface, spot, variance):
        num_times, expiries = spot.shape[1], np.array(self.expiries)
        strikes, is_call = np.array(self.strikes, np.float32), np.array(self.is_call, bool)
        groups, prices = [], []
        for expiry in np.unique(expiries):
            (group,) = np.nonzero(expiries == expiry)
            alive = min(expiry, num_times)
            life = expiry - np.arange(alive)
            contracts = strikes[group], is_call[group]
            price = surface(spot[:, :alive], variance[:, :alive], *contracts, life)
            if expiry < num_times:
                sign = np.where(is_call[group], 1.0, -1.0).astype(np.float32)
                paid = tf.nn.relu(sign * (spot[:, expiry, None, None] - strikes[group]))
                price = tf.concat([price, tf.repeat(paid, num_times - expiry, axis=1)], axis=1)
            groups.append(group)
            prices.append(price)
        return tf.gather(tf.concat(prices, axis=-1), np.argsort(np.concatenate(groups)), axis=-1)

    def returns(self, spot, premiums, rate=0.0, dividend_yield=0.0):
        """Discounted total returns r_{t,T} of one unit of each instrument traded at each time.

        Args:
            spot: Prices of the underlying in units of the initial one,
                `[num_paths, num_steps + 1]`.
            premiums: Contract prices P, `[num_paths, num_steps + 1, num_instruments - 1]`.
            rate: Interest rate per time step, continuously compounded.
            dividend_yield: Dividend yield per time step, likewise.

        Returns:
            Returns in units of the initial spot, `[num_paths, num_steps, num_instruments]`.
        """
        time = np.arange(spot.shape[1])
        discount = np.exp(-rate * time).astype(np.float32)
        underlying = self._returns_of_underlying(spot * discount, dividend_yield)
        paid_at = np.minimum(time[:, None], self.expiries)
        premiums = premiums * np.exp(-rate * paid_at).astype(np.float32)
        return tf.concat([underlying[..., None], premiums[:, -1:] - premiums[:, :-1]], axis=-1)

    def holdings(self, actions):
        """The portfolio after each time's trades, eq. (1): the sum of all trades up to then.

        That leaves out what dividends that are invested in the underlying add to it.

        Args:
            actions: Trades u_t, `[num_paths, num_steps, num_instruments]`.

        Returns:
            Holdings of the shape of `actions`; those of an expired contract are zero.

        Raises:
            ValueError: If `actions` is not of that shape.
        """
        if len(actions.shape) != 3 or actions.shape[-1] != self.num_instruments:
            raise ValueError(
                "Expected `actions` to be of shape [num_paths, num_steps, "
                f"{self.num_instruments}]. Received shape: {tuple(actions.shape)}"
            )
        return tf.cumsum(actions, axis=1) * self.availability(actions.shape[1])


def _tuple(name, values):
    if np.ndim(values) != 1:
        raise ValueError(f"Expected `{name}` to be a list. Received: {name}={values!r}")
    return tuple(values)


def _each(check):
    return lambda name, values: tuple(check(name, value) for value in values)


def _boolean(name, value):
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"Expected `{name}` to be True or False. Received: {name}={value!r}")
    return bool(value)
