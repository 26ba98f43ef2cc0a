"""Liabilities: what a path pays, and what of it a hedger watches."""

import dataclasses

import tensorflow as tf

from tfhedge import checks
from tfhedge.serialization import serializable


@serializable
@dataclasses.dataclass(frozen=True)
class Cliquet:
    r"""A locally capped, globally floored cliquet.

    With reset dates tau_j = j * period, j = 1..m (in steps), it pays at T = m * period

        psi(x) = max( sum_j min( x_{tau_j} / x_{tau_{j-1}} - 1, cap ), 0 ).

    Args:
        num_periods: Number of periods m.
        period: Length of a period in time steps.
        cap: Cap on the return of a single period, a positive fraction (0.015 is 1.5 %).

    Raises:
        ValueError: If a count is not a positive integer or the cap is not positive.

    Example:
    >>> cliquet = Cliquet(num_periods=2, period=1, cap=0.015)
    >>> cliquet.payoff([[1.0, 1.01, 1.0504], [1.0, 0.9, 0.91]]).numpy().round(4)
    array([0.025, 0.   ], dtype=float32)

    Reference: Mueller et al., Fast Deep Hedging with Second-Order Optimization, section 2.1.
    """

    num_periods: int
    period: int
    cap: float

    def __post_init__(self):
        checks.keep(self, checks.positive_integer, "num_periods", "period")
        checks.keep(self, checks.positive, "cap")

    @classmethod
    def from_paper(cls):
        """Twelve periods of 20 days, capped at 1.5 % (section 4.1)."""
        return cls(num_periods=12, period=20, cap=0.015)

    @property
    def num_steps(self):
        """The maturity T in time steps."""
        return self.num_periods * self.period

    def payoff(self, spot):
        """The amount paid at maturity.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps + 1]`.

        Returns:
            Payoff as a fraction of the notional, `[num_paths]`.

        Raises:
            ValueError: If the prices are not of that shape.
        """
        spot = tf.convert_to_tensor(spot)
        checks.shape("spot", spot, ["num_paths", self.num_steps + 1])
        fixings = spot[:, :: self.period]
        capped = tf.minimum(fixings[:, 1:] / fixings[:, :-1] - 1.0, self.cap)
        return tf.nn.relu(tf.reduce_sum(capped, axis=1))

    def features(self, spot):
        """What a hedger of this claim sees at each time before maturity: `features_at` all times.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps + 1]` or without the last column,
                which no hedger sees in time.

        Returns:
            Features, `[num_paths, num_steps, 8]`.
        """
        spot = tf.convert_to_tensor(spot)[:, : self.num_steps]
        return self.features_at(tf.range(self.num_steps), spot, **self.observables(spot))

    def features_at(self, step, spot, spot_at_last_reset, accrued):
        """What a hedger of this claim sees, from what is known of the path.

        The clock: the share gone by of the claim's life and of the current period, the root of what
        is left of the period, and whether this is a reset date. The log-return of the underlying
        since the last reset, which with the spot itself says what the spot was then. How far it is
        from the cap by what is left of the period, on a scale that is fine near the cap. The sum of
        the capped returns of the periods that have ended, and the payoff if the claim matured now.

        Args:
            step: Time in steps, an integer tensor that broadcasts with the others.
            spot: Price of the underlying then.
            spot_at_last_reset: Its price at the last reset date, which may be this one.
            accrued: Sum of the capped returns of the periods that have ended.

        Returns:
            Features, `[..., 8]`.
        """
        since_reset = spot / spot_at_last_reset
        payoff_now = tf.nn.relu(accrued + tf.minimum(since_reset - 1.0, self.cap))
        step = tf.cast(step, spot.dtype)
        phase = step % self.period / self.period
        root_left = tf.sqrt(1.0 - phase)
        over_cap = tf.math.log(since_reset / (1.0 + self.cap)) / root_left
        is_reset = tf.cast(phase == 0.0, spot.dtype)
        clock = [step / self.num_steps, phase, root_left, is_reset]
        moneyness = [tf.math.log(since_reset), tf.asinh(over_cap / self.cap)]
        features = [*clock, *moneyness, accrued, payoff_now]
        return tf.stack([tf.broadcast_to(x, tf.shape(spot)) for x in features], axis=-1)

    def observables(self, spot):
        """What a hedger has to remember of a path, beside the spot.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps]`.

        Returns:
            `spot_at_last_reset` and `accrued`, as `features_at` takes them, by name, each of the
            shape of `spot`.
        """
        resets = spot[:, :: self.period]
        finished = tf.minimum(resets[:, 1:] / resets[:, :-1] - 1.0, self.cap)
        accrued = tf.pad(tf.cumsum(finished, axis=1), [[0, 0], [1, 0]])
        names = {"spot_at_last_reset": resets, "accrued": accrued}
        return {name: tf.repeat(x, self.period, axis=1) for name, x in names.items()}

    def possible(self, step, spot, spot_at_last_reset, accrued, tolerance=1e-5):
        """Whether what is said of a path can be true of any.

        At a reset date the spot is that of the last reset; the sum of the periods that have ended,
        each of which brings more than -1 and at most the cap, is in its range.

        Args:
            step: As for `features_at`.
            spot: Likewise.
            spot_at_last_reset: Likewise.
            accrued: Likewise.
            tolerance: By how much numbers may be off.

        Returns:
            Booleans of the shape of `spot`.
        """
        ended = tf.cast(step // self.period, spot.dtype)
        moved = tf.abs(spot - spot_at_last_reset) > tolerance * spot
        return (
            (spot_at_last_reset > 0.0)
            & ~(moved & (step % self.period == 0))
            & (accrued >= -ended)
            & (accrued <= ended * self.cap + tolerance)
        )
