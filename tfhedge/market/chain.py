"""A chain of quoted options: what each quote must satisfy, and the forwards behind the quotes."""

import collections
import dataclasses
import math
import typing

import numpy as np
import scipy.stats
import tensorflow as tf

from tfhedge.checks import keep, non_negative_elements, one_of, positive, positive_elements
from tfhedge.market.implied import black_vega, implied_volatility

# With fewer pairs a line through the differences of calls and puts says nothing of its error.
_MIN_PAIRS = 3
# A discount factor above this, or below its inverse, comes of strikes and prices in other units.
_LARGEST_DISCOUNT = 4.0
# StochVolModels' types of options; I is for inverse, paid in the underlying.
_IS_CALL = {"C": 1.0, "IC": 1.0, "P": 0.0, "IP": 0.0}

# In a graph the answer to an impossible price is NaN, not an error.
_volatility_or_nan = tf.function(implied_volatility, autograph=False, reduce_retracing=True)


class Rejected(typing.NamedTuple):
    """A row that is not used, and why."""

    row: int
    reason: str


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OptionChain:
    r"""Options quoted at one time, each with its implied volatility.

    Args:
        spot: price of the underlying, positive.
        maturity: time to expiry in years, positive, `[num_quotes]` as all that follow.
        strike: strike price, positive.
        forward: forward price $F$ of the underlying for the expiry, positive.
        discount: discount factor $D$ to the expiry, positive.
        volatility: mid implied volatility, annual, positive.
        spread: ask less bid implied volatility, non-negative.
        rejected: the rows that are not among the quotes, a tuple of `Rejected`.

    Raises:
        ValueError: if an argument is out of its range, or the lengths differ.

    >>> chain = OptionChain(spot=100.0, maturity=[0.5, 0.5], strike=[90.0, 110.0],
    ...                     forward=[101.0, 101.0], discount=[0.99, 0.99],
    ...                     volatility=[0.22, 0.19], spread=[0.01, 0.01])
    >>> len(chain), chain.rejected
    (2, ())
    """

    spot: float
    maturity: np.ndarray
    strike: np.ndarray
    forward: np.ndarray
    discount: np.ndarray
    volatility: np.ndarray
    spread: np.ndarray
    rejected: tuple[Rejected, ...] = ()

    def __post_init__(self):
        names = ("maturity", "strike", "forward", "discount", "volatility")
        keep(self, positive, "spot")
        keep(self, positive_elements, *names)
        keep(self, non_negative_elements, "spread")
        _check_shapes({name: getattr(self, name) for name in (*names, "spread")})

    def __len__(self):
        return len(self.strike)

    @property
    def log_moneyness(self):
        r"""$k = \log(K/F)$, `[num_quotes]`."""
        return np.log(self.strike / self.forward)

    @property
    def vega(self):
        """`black_vega` of the quotes, `[num_quotes]`."""
        return black_vega(self.volatility, self.log_moneyness, self.maturity).numpy()

    @property
    def at_the_money(self):
        """The maturities, ascending, and the volatility of each nearest to the money."""
        maturities = np.unique(self.maturity)
        distance = np.abs(self.log_moneyness)
        nearest = [
            np.argmin(np.where(self.maturity == maturity, distance, math.inf))
            for maturity in maturities
        ]
        return maturities, self.volatility[nearest]

    @classmethod
    def from_quotes(
        cls,
        *,
        maturity,
        strike,
        is_call=None,
        bid=None,
        ask=None,
        bid_iv=None,
        ask_iv=None,
        forward=None,
        discount=None,
        spot=None,
        row=None,
        rejected=(),
    ):
        r"""The chain of the quotes that are sound, with a reason for each that is not.

        Implied volatilities are taken as quoted, if they are; else they are implied by the mid
        prices. Where forward or discount factor are not given they are implied by put-call parity,
        $C - P = D\,(F - K)$, of the mid prices: the discount factor is the median of the slopes
        between all pairs of strikes (Theil and Sen), and the forward the median of
        $K + (C - P)/D$, so that up to 29 % of the pairs may be wrong. This is exact for European
        options; for American ones the early exercise premium of those in the money enters.

        NaN stands for what is missing. All arrays are `[num_rows]`.

        Args:
            maturity: time to expiry in years.
            strike: strike price.
            is_call: 1 for a call, 0 for a put; needed if prices are given.
            bid: bid price, and `ask`.
            ask: ask price.
            bid_iv: bid implied volatility, annual, in decimals, and `ask_iv`.
            ask_iv: ask implied volatility.
            forward: forward price for the row's expiry.
            discount: discount factor to it; 1 if only volatilities are given.
            spot: price of the underlying; the forward of the first expiry if it is not given.
            row: the rows' numbers in the reports, from 1 on if they are not given.
            rejected: rows found wanting before.

        Returns:
            `OptionChain`, its quotes in the order of the rows.

        Raises:
            ValueError: if the arrays' lengths differ, `is_call` is anything but 1, 0 or NaN,
                neither prices nor volatilities are complete, or no row is sound.

        >>> chain = OptionChain.from_quotes(
        ...     maturity=[0.5, 0.5, 0.5], strike=[90.0, 100.0, 110.0], forward=[101.0] * 3,
        ...     bid_iv=[0.21, 0.0, 0.20], ask_iv=[0.23, 0.21, 0.19])
        >>> len(chain), *map(tuple, chain.rejected)
        (1, (2, 'zero bid'), (3, 'crossed: bid 0.2, ask 0.19'))
        """
        columns = {
            "maturity": maturity,
            "strike": strike,
            "is_call": is_call,
            "bid": bid,
            "ask": ask,
            "bid_iv": bid_iv,
            "ask_iv": ask_iv,
            "forward": forward,
            "discount": discount,
        }
        given = {**columns, "row": row}
        _check_shapes({name: values for name, values in given.items() if values is not None})
        nothing = np.full(np.shape(strike), math.nan)
        table = {
            name: nothing if values is None else np.array(values, np.float64)
            for name, values in columns.items()
        }
        kinds = table["is_call"]
        if not np.all(np.isin(kinds, (0.0, 1.0)) | np.isnan(kinds)):
            raise ValueError(f"Expected `is_call` to be 1 or 0 in each row. Received: {is_call}")
        has_prices = bid is not None and ask is not None and is_call is not None
        has_iv = bid_iv is not None and ask_iv is not None
        if has_iv and has_prices:  # the columns may be there, and empty
            has_iv = np.isfinite(table["bid_iv"] + table["ask_iv"]).any()
        if not (has_iv or has_prices):
            raise ValueError(
                "Expected quotes: bid, ask and is_call, or bid_iv and ask_iv. Received: neither"
            )
        row = np.arange(1, len(nothing) + 1) if row is None else np.asarray(row)
        rejected = list(rejected)

        def keep(reasons):
            """Moves the rows with a reason from the table to the rejected ones."""
            nonlocal row
            bad = np.array([reason is not None for reason in reasons], bool)
            rejected.extend(
                Rejected(int(number), reason)
                for number, reason in zip(row, reasons, strict=True)
                if reason is not None
            )
            row = row[~bad]
            for name in table:
                table[name] = table[name][~bad]

        quotes = ("bid_iv", "ask_iv") if has_iv else ("bid", "ask")
        needed = ("maturity", "strike", *quotes, *(() if has_iv else ("is_call",)))
        keep([_fault(values, needed, quotes) for values in _rows(table)])
        keep(_duplicates(table, row))
        _imply_forwards(table, has_prices)
        if has_iv:
            table["discount"] = np.where(np.isnan(table["discount"]), 1.0, table["discount"])
        keep([_forward_fault(values) for values in _rows(table)])
        volatility, spread = _volatilities(table, has_iv)
        keep_volatility = np.isfinite(volatility) & np.isfinite(spread) & (volatility > 0)
        keep(
            [
                None if sound else "mid price outside the bounds without arbitrage"
                for sound in keep_volatility
            ]
        )
        if not len(row):
            reasons = "; ".join(f"row {x.row}: {x.reason}" for x in rejected[:3])
            raise ValueError(f"Expected a sound quote at least. Received: none ({reasons})")
        if spot is None:
            spot = table["forward"][np.argmin(table["maturity"])]
        return cls(
            spot=float(spot),
            **{name: table[name] for name in ("maturity", "strike", "forward", "discount")},
            volatility=volatility[keep_volatility],
            spread=spread[keep_volatility],
            rejected=tuple(sorted(rejected)),
        )

    @classmethod
    def from_stochvolmodels(cls, chain, spot=None):
        """Takes the `OptionChain` of the package StochVolModels, with its implied volatilities.

        Args:
            chain: its chain, with `bid_ivs` and `ask_ivs`.
            spot: price of the underlying, which it does not hold.

        Returns:
            `OptionChain`; its rows are numbered expiry after expiry.

        Raises:
            ValueError: if the chain holds no implied volatilities, or a type of option other than
                C, IC, P and IP.
        """
        if chain.bid_ivs is None or chain.ask_ivs is None:
            raise ValueError("Expected a chain with bid_ivs and ask_ivs. Received: without")
        lengths = [len(strikes) for strikes in chain.strikes_ttms]
        strike, kind, bid_iv, ask_iv = (
            np.concatenate([np.asarray(x) for x in slices])
            for slices in (chain.strikes_ttms, chain.optiontypes_ttms, chain.bid_ivs, chain.ask_ivs)
        )
        maturity, forward, discount = (
            np.repeat(np.asarray(x, np.float64), lengths)
            for x in (chain.ttms, chain.forwards, chain.discfactors)
        )
        return cls.from_quotes(
            maturity=maturity,
            strike=strike,
            is_call=[_IS_CALL[one_of("type", x, tuple(_IS_CALL))] for x in kind.tolist()],
            bid_iv=bid_iv,
            ask_iv=ask_iv,
            forward=forward,
            discount=discount,
            spot=spot,
        )

    def rejections(self, num_rows=5):
        """The rejected rows in a few lines, one for each reason.

        Args:
            num_rows: so many rows are named.

        Returns:
            A string, empty if no row was rejected.
        """
        rows = collections.defaultdict(list)
        for row, reason in self.rejected:
            rows[reason.partition(":")[0]].append(row)
        return "\n".join(
            f"{len(numbers)} not used, {reason}: row {', '.join(map(str, numbers[:num_rows]))}"
            + (", ..." if len(numbers) > num_rows else "")
            for reason, numbers in rows.items()
        )


def _check_shapes(columns):
    """Raises a `ValueError` unless all are vectors of one length."""
    shapes = {name: np.shape(values) for name, values in columns.items()}
    if len(set(shapes.values())) > 1 or len(shapes["strike"]) != 1:
        raise ValueError(f"Expected one number for each quote. Received: shapes {shapes}")


def _rows(table):
    """The table's rows as dictionaries."""
    return (dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True))


def _fault(values, needed, quotes):
    """What is wrong with a row by itself; None if nothing is."""
    for name in needed:
        if not math.isfinite(values[name]):
            return f"{name} is missing" if math.isnan(values[name]) else f"{name} is infinite"
    bid, ask = (float(values[name]) for name in quotes)
    if values["maturity"] <= 0:
        return "expired"
    if values["strike"] <= 0:
        return f"strike is not positive: {float(values['strike'])}"
    if bid > ask:
        return f"crossed: bid {bid}, ask {ask}"
    if bid <= 0:
        return "zero bid" if bid == 0 else f"negative bid: {bid}"
    return None


def _duplicates(table, row):
    """Which rows quote an option again; of several quotes the first is used."""
    kind = np.nan_to_num(table["is_call"], nan=-1.0)
    options = list(zip(table["maturity"], table["strike"], kind, strict=True))
    first = {}
    for number, option in zip(row, options, strict=True):
        first.setdefault(option, number)
    return [
        None if first[option] == number else f"the same option again: as in row {first[option]}"
        for number, option in zip(row, options, strict=True)
    ]


def _forward_fault(values):
    """What is wrong with a row's forward and discount factor; None if nothing is."""
    for name in ("forward", "discount"):
        if math.isnan(values[name]):
            return f"no {name}: not given, nor {_MIN_PAIRS} pairs of call and put to imply it"
        if not 0 < values[name] < math.inf:
            return f"{name} is not positive and finite: {float(values[name])}"
    if not 1.0 / _LARGEST_DISCOUNT < values["discount"] < _LARGEST_DISCOUNT:
        return f"discount factor out of reason: {float(values['discount']):.4g}"
    return None


def _imply_forwards(table, has_prices):
    """Fills forwards and discount factors that are missing, by put-call parity."""
    if not has_prices:
        return
    mid = 0.5 * (table["bid"] + table["ask"])
    sound = np.isfinite(mid) & (table["bid"] > 0) & (table["bid"] <= table["ask"])
    for maturity in np.unique(table["maturity"]):
        here = table["maturity"] == maturity
        calls, puts = (
            dict(zip(table["strike"][chosen], mid[chosen], strict=True))
            for chosen in (here & sound & (table["is_call"] == is_call) for is_call in (1, 0))
        )
        strike = np.array(sorted(calls.keys() & puts.keys()))
        difference = np.array([calls[x] - puts[x] for x in strike])
        if len(strike) < _MIN_PAIRS:
            continue
        slope = scipy.stats.theilslopes(difference, strike).slope
        discount = table["discount"][here]
        discount = np.where(np.isnan(discount), -slope, discount)
        table["discount"][here] = discount
        forward = table["forward"][here]
        implied = np.median(strike + difference / np.median(discount))
        table["forward"][here] = np.where(np.isnan(forward), implied, forward)


def _volatilities(table, has_iv):
    """Mid implied volatility and its spread; NaN where the price allows none."""
    if has_iv:
        bid, ask = table["bid_iv"], table["ask_iv"]
        return 0.5 * (bid + ask), ask - bid
    forward, discount = table["forward"], table["discount"]

    def volatility(price):
        price = price / (discount * forward)
        strike, maturity = table["strike"] / forward, table["maturity"]
        numbers = (tf.constant(x) for x in (price, np.ones_like(price), strike, maturity))
        return _volatility_or_nan(*numbers, tf.constant(table["is_call"] > 0.5)).numpy()

    mid = volatility(0.5 * (table["bid"] + table["ask"]))
    # A bid below the bounds without arbitrage counts as volatility 0, an ask above them as the mid.
    low, high = (volatility(table[name]) for name in ("bid", "ask"))
    low = np.where(np.isnan(low), 0.0, low)
    return mid, np.where(np.isnan(high), mid, high) - low
