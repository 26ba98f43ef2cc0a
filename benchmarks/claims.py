"""The claims of the robustness experiment: one small class each.

The spot starts at 1, and each claim pays its notional times what its formula says. All of them see
the share of the time that is left; a log-moneyness is divided by the root of that, plus one step,
and so stays finite at maturity.
"""

import dataclasses

import tensorflow as tf

import tfhedge as th
from tfhedge import checks


class Claim:
    """Pays its notional times `unit_payoff`, and remembers nothing of the path unless it says so.

    A claim is a dataclass with fields `num_steps` and `notional`, beside its own.
    """

    def __post_init__(self):
        """Checks the numbers, all of which are positive."""
        for field in dataclasses.fields(self):
            whole = field.type is int
            checks.keep(self, checks.positive_integer if whole else checks.positive, field.name)

    def payoff(self, spot):
        """Computes the amount paid at maturity.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps + 1]`.

        Returns:
            Payoff, `[num_paths]`.
        """
        return self.notional * self.unit_payoff(spot)

    def observables(self, spot):
        """Names what a hedger has to remember of a path, beside the spot: nothing.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps]`.

        Returns:
            By name, what is known at each step, of the shape of `spot`.
        """
        return {}

    def time_left(self, step, spot):
        """Computes the share of the steps that is left, of the shape of `spot`."""
        left = 1.0 - tf.cast(step, spot.dtype) / self.num_steps
        return tf.broadcast_to(left, tf.shape(spot))

    def scaled(self, log_moneyness, left):
        """Divides a log-moneyness by the root of the time left, and one step."""
        return log_moneyness / tf.sqrt(left + 1.0 / self.num_steps)


@th.serializable
@dataclasses.dataclass(frozen=True)
class Call(Claim):
    """Pays a European call, (x_T - K)^+."""

    num_steps: int
    strike: float
    notional: float = 1.0

    def unit_payoff(self, spot):
        """(x_T - K)^+."""
        return tf.nn.relu(spot[:, -1] - self.strike)

    def features_at(self, step, spot):
        """Time left and log-moneyness, `[..., 2]`."""
        left = self.time_left(step, spot)
        return tf.stack([left, self.scaled(tf.math.log(spot / self.strike), left)], axis=-1)


@th.serializable
@dataclasses.dataclass(frozen=True)
class CallSpread(Claim):
    """Pays a call spread, (x_T - K_1)^+ - (x_T - K_2)^+ with K_1 < K_2."""

    num_steps: int
    low: float
    high: float
    notional: float = 1.0

    def unit_payoff(self, spot):
        """min(max(x_T, K_1), K_2) - K_1."""
        return tf.clip_by_value(spot[:, -1], self.low, self.high) - self.low

    def features_at(self, step, spot):
        """Time left, and log-moneyness of both strikes, `[..., 3]`."""
        left = self.time_left(step, spot)
        moneyness = [self.scaled(tf.math.log(spot / x), left) for x in (self.low, self.high)]
        return tf.stack([left, *moneyness], axis=-1)


@th.serializable
@dataclasses.dataclass(frozen=True)
class Digital(Claim):
    """Pays a digital call, 1 if x_T >= K."""

    num_steps: int
    strike: float
    notional: float = 1.0

    def unit_payoff(self, spot):
        """1 if x_T >= K, else 0."""
        return tf.cast(spot[:, -1] >= self.strike, spot.dtype)

    def features_at(self, step, spot):
        """Time left, log-moneyness, and its hyperbolic tangent, which is steep at K, `[..., 3]`."""
        left = self.time_left(step, spot)
        moneyness = self.scaled(tf.math.log(spot / self.strike), left)
        return tf.stack([left, moneyness, tf.tanh(10.0 * moneyness)], axis=-1)


@th.serializable
@dataclasses.dataclass(frozen=True)
class AsianCall(Claim):
    """Pays an arithmetic Asian call, ((x_1 + ... + x_T) / T - K)^+."""

    num_steps: int
    strike: float
    notional: float = 1.0

    def unit_payoff(self, spot):
        """The mean of all prices but the first, less K, or 0."""
        return tf.nn.relu(tf.reduce_mean(spot[:, 1:], axis=1) - self.strike)

    def observables(self, spot):
        """The fixed part of the average: (x_1 + ... + x_t) / T."""
        return {"fixed": (tf.cumsum(spot, axis=1) - spot[:, :1]) / self.num_steps}

    def features_at(self, step, spot, fixed):
        """Time left, its fixed part, and log-moneyness of the average at today's spot, `[..., 4]`.

        That is once on its own, and once by the time left, as is the delta.
        """
        left = self.time_left(step, spot)
        moneyness = tf.math.log((fixed + left * spot) / self.strike)
        by_time = moneyness / (left + 1.0 / self.num_steps)
        return tf.stack([left, fixed, moneyness, by_time], axis=-1)


@th.serializable
@dataclasses.dataclass(frozen=True)
class UpAndOutCall(Claim):
    """Pays an up-and-out call, (x_T - K)^+ if x_t < H at all steps t."""

    num_steps: int
    strike: float
    barrier: float
    notional: float = 1.0

    def unit_payoff(self, spot):
        """(x_T - K)^+ if the barrier was never reached, else 0."""
        alive = tf.reduce_all(spot < self.barrier, axis=1)
        return tf.where(alive, tf.nn.relu(spot[:, -1] - self.strike), 0.0)

    def observables(self, spot):
        """Whether the barrier was not reached until now, 1 or 0."""
        return {"alive": tf.math.cumprod(tf.cast(spot < self.barrier, spot.dtype), axis=1)}

    def features_at(self, step, spot, alive):
        """Time left, whether alive, and while so the log-moneyness of K and H, `[..., 4]`."""
        left = self.time_left(step, spot)
        levels = self.strike, self.barrier
        moneyness = [alive * self.scaled(tf.math.log(spot / x), left) for x in levels]
        return tf.stack([left, alive, *moneyness], axis=-1)


@th.serializable
@dataclasses.dataclass(frozen=True)
class LookbackCall(Claim):
    """Pays a lookback call of fixed strike, (max_t x_t - K)^+."""

    num_steps: int
    strike: float
    notional: float = 1.0

    def unit_payoff(self, spot):
        """The highest price less K, or 0."""
        return tf.nn.relu(tf.reduce_max(spot, axis=1) - self.strike)

    def observables(self, spot):
        """The highest price until now."""
        return {"highest": running_max(spot)}

    def features_at(self, step, spot, highest):
        """Time left, log-moneyness of what is to be exceeded, and the payoff now, `[..., 3]`."""
        left = self.time_left(step, spot)
        to_exceed = tf.maximum(highest, self.strike)
        moneyness = self.scaled(tf.math.log(spot / to_exceed), left)
        return tf.stack([left, moneyness, to_exceed - self.strike], axis=-1)


def running_max(values):
    """Computes the maximum of the first t + 1 columns, for each column t.

    Args:
        values: `[num_paths, num_steps]`.

    Returns:
        The same shape.
    """
    shift = 1
    while shift < values.shape[1]:  # each round doubles the number of columns that are seen
        before = tf.concat([values[:, :shift], values[:, :-shift]], axis=1)
        values, shift = tf.maximum(values, before), 2 * shift
    return values


@th.serializable
@dataclasses.dataclass(frozen=True)
class VarianceSwap(Claim):
    """Pays realized variance less a strike, N / T sum_t log(x_t / x_{t-1})^2 - K.

    N is the number of steps in a year.
    """

    num_steps: int
    strike: float
    steps_per_year: float = 250.0
    notional: float = 1.0

    def unit_payoff(self, spot):
        """Realized variance less K."""
        return self._realized(spot)[:, -1] - self.strike

    def observables(self, spot):
        """The variance accrued until now, in parts of that at maturity."""
        return {"accrued": self._realized(spot)}

    def _realized(self, spot):
        squares = tf.math.log(spot[:, 1:] / spot[:, :-1]) ** 2
        total = tf.pad(tf.cumsum(squares, axis=1), [[0, 0], [1, 0]])
        return total * (self.steps_per_year / self.num_steps)

    def features_at(self, step, spot, accrued):
        """Time left, the variance accrued, and that less the strike's share, `[..., 3]`."""
        left = self.time_left(step, spot)
        return tf.stack([left, accrued, accrued - (1.0 - left) * self.strike], axis=-1)


@th.serializable
@dataclasses.dataclass(frozen=True)
class Autocallable(Claim):
    """Pays what an autocallable note returns beyond its notional.

    At the first of the dates j = 1..m (of `period` steps each) with x >= `call_level`, the note is
    called and returns j times the coupon. If it is never called it returns nothing, or, if x_T is
    below `protection`, the loss x_T - 1. All is paid at maturity.
    """

    num_periods: int
    period: int
    call_level: float
    protection: float
    coupon: float
    notional: float = 1.0

    @property
    def num_steps(self):
        """The maturity in time steps."""
        return self.num_periods * self.period

    def unit_payoff(self, spot):
        """What the note returns."""
        alive, earned = self._state(spot[:, :: self.period])
        last = spot[:, -1]
        loss = tf.where(last < self.protection, last - 1.0, 0.0)
        return earned[:, -1] + alive[:, -1] * loss

    def observables(self, spot):
        """Whether the note was not called until now, 1 or 0, and the coupons of one that was."""
        alive, earned = self._state(spot[:, :: self.period])
        names = {"alive": alive, "earned": earned}
        return {name: tf.repeat(x, self.period, axis=1) for name, x in names.items()}

    def _state(self, dates):
        """Both at the start and at each date, of the shape of `dates`."""
        stays = tf.cast(dates[:, 1:] < self.call_level, dates.dtype)
        alive = tf.pad(tf.math.cumprod(stays, axis=1), [[0, 0], [1, 0]], constant_values=1.0)
        date = tf.range(1, dates.shape[1], dtype=dates.dtype)
        earned = self.coupon * tf.cumsum(date * (alive[:, :-1] - alive[:, 1:]), axis=1)
        return alive, tf.pad(earned, [[0, 0], [1, 0]])

    def features_at(self, step, spot, alive, earned):
        """Time left, that to the next date, the state, and log-moneyness of both levels.

        The log-moneyness of the call level goes with the time to the next date; that of the
        protection with the time to maturity; once the note is called both are 0. `[..., 6]`.
        """
        left = self.time_left(step, spot)
        phase = tf.cast(step % self.period, spot.dtype) / self.num_steps
        to_date = tf.broadcast_to(1.0 / self.num_periods - phase, tf.shape(spot))
        levels = (self.call_level, to_date), (self.protection, left)
        moneyness = [alive * self.scaled(tf.math.log(spot / x), time) for x, time in levels]
        return tf.stack([left, to_date, alive, earned, *moneyness], axis=-1)


@th.serializable
@dataclasses.dataclass(frozen=True)
class NotionalCliquet(th.Cliquet):
    """Pays a `Cliquet` on a notional."""

    notional: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        checks.keep(self, checks.positive, "notional")

    def payoff(self, spot):
        """As `Claim`."""
        return self.notional * super().payoff(spot)
