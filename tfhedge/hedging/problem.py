"""A hedging problem: a market, a liability, what can be traded, and how the result is judged."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.hedging.claims import Cliquet
from tfhedge.hedging.instruments import FloatingGrid, OptionGrid
from tfhedge.hedging.objectives import MeanVariance, Objective
from tfhedge.market.heston import Heston
from tfhedge.market.simulation import simulate
from tfhedge.serialization import serializable


@serializable
@dataclasses.dataclass(frozen=True)
class HedgingProblem:
    """Sell a claim, hedge it to maturity, and be judged on the terminal P&L.

    All amounts are discounted to time 0 at the market's rate; what is not invested, or is borrowed,
    earns or pays it.

    Args:
        market: The market model, a `Heston`.
        claim: The liability, such as `Cliquet`; it sets the number of steps T. The actions of a
            policy are per unit of its `notional`, 1 if it has none.
        instruments: What can be traded, a `FloatingGrid` or a `FixedGrid`.
        objective: How a P&L and its costs are judged, an `Objective` such as `MeanVariance`.
        dt: Length of a time step in years.

    Raises:
        ValueError: If `dt` is not positive, or something is in another's place.

    Example:
    >>> problem = HedgingProblem.from_paper()
    >>> features, (returns, payoff) = problem.episodes(num_paths=3, seed=1)
    >>> features.shape, returns.shape, payoff.shape
    (TensorShape([3, 240, 10]), TensorShape([3, 240, 20]), TensorShape([3]))
    """

    market: Heston
    claim: Cliquet
    instruments: OptionGrid
    objective: Objective
    dt: float = 1.0 / 250.0

    def __post_init__(self):
        checks.keep(self, checks.positive, "dt")
        if not isinstance(self.market, Heston):
            raise ValueError(f"Expected `market` to be a Heston. Received: {self.market!r}")
        for name, members in (
            ("claim", ("num_steps", "payoff", "observables", "features_at")),
            ("instruments", ("premiums", "returns", "availability", "costs", "held")),
            ("objective", sorted(Objective.__abstractmethods__)),
        ):
            part = getattr(self, name)
            missing = [member for member in members if not hasattr(part, member)]
            if missing or isinstance(part, type):
                what = f"an object with {', '.join(members)}"
                raise ValueError(f"Expected `{name}` to be {what}. Received: {part!r}")

    @classmethod
    def from_paper(cls):
        """The cliquet of section 4.1: 240 daily steps, 20 instruments, gamma = 1000."""
        return cls(
            market=Heston.from_paper(),
            claim=Cliquet.from_paper(),
            instruments=FloatingGrid.from_paper(),
            objective=MeanVariance(risk_aversion=1000.0),
        )

    @property
    def num_steps(self):
        """Number of trading times T."""
        return self.claim.num_steps

    @property
    def num_instruments(self):
        """Number of instruments d."""
        return self.instruments.num_instruments

    @property
    def num_features(self):
        """Number of features that the hedger observes at each time."""
        return len(self._feature_moments[0])

    @functools.cached_property
    def availability(self):
        """Where a trade is possible: 1 or 0, `[num_steps, num_instruments]`."""
        return self.instruments.availability(self.num_steps)

    @functools.cached_property
    def costs(self):
        """Cost per unit traded at each time, discounted, `[num_steps, num_instruments]`."""
        discount = np.exp(-self.market.rate * self.dt * np.arange(self.num_steps))
        return np.float32(discount[:, None] * self.instruments.costs)

    @functools.cached_property
    def _premiums(self):
        with tf.init_scope():
            return self.instruments.premiums(self.market, self.dt)

    @functools.cached_property
    def _feature_moments(self):
        # Constants of the problem: one fixed sample, whatever the seed of the training.
        with tf.init_scope():
            sample = self.simulate(num_paths=2048, seed=(0, 2**31 - 1))
            raw = np.float64(self._along(self._raw_features, *sample))
            mean, std = raw.mean(axis=(0, 1)), raw.std(axis=(0, 1))
            # A feature may be constant, as the place within periods of one step.
            return np.float32(mean), np.float32(np.where(std > 1e-6, std, 1.0))

    def simulate(self, num_paths, seed, first_path=0):
        """Market paths; path i is the same in whatever batch it comes.

        Args:
            num_paths: Number of paths.
            seed: An integer, or a pair of them to tell streams of one seed apart.
            first_path: Index of the first of these paths in the stream.

        Returns:
            spot and variance, each `[num_paths, num_steps + 1]`.
        """
        seed = seed if isinstance(seed, (tuple, list)) else (seed, 0)
        return simulate(self.market, num_paths, self.num_steps, self.dt, seed, first_path)

    def features(self, spot, variance):
        """What the hedger observes: the claim's features, the spot and the volatility.

        Each feature is centred and scaled by its mean and standard deviation over a fixed sample
        of paths and all times.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps]` or with the final price too.
            variance: Instantaneous variance, of the same shape.

        Returns:
            Features, `[num_paths, num_steps, num_features]`.

        Raises:
            ValueError: If the shapes are others.
        """
        spot, variance = map(tf.convert_to_tensor, (spot, variance))
        columns = self.num_steps + (spot.shape[-1:] == [self.num_steps + 1])
        checks.shape("spot", spot, ["num_paths", columns])
        checks.shape("variance", variance, [spot.shape[0], columns])
        return self._along(self.features_at, spot, variance)

    def features_at(self, step, spot, variance, **observables):
        """What the hedger observes, as `features`, from what is known of a path at a time.

        Args:
            step: Time in steps, an integer tensor that broadcasts with the others.
            spot: Price of the underlying then.
            variance: Instantaneous variance then.
            **observables: What the claim has to know of the past, as `claim.observables` names it.

        Returns:
            Features, `[..., num_features]`.
        """
        mean, scale = self._feature_moments
        return (self._raw_features(step, spot, variance, **observables) - mean) / scale

    def _along(self, features_at, spot, variance):
        spot, variance = (x[:, : self.num_steps] for x in (spot, variance))
        steps, observables = tf.range(self.num_steps), self.claim.observables(spot)
        return features_at(steps, spot, variance, **observables)

    def _raw_features(self, step, spot, variance, **observables):
        of_claim = self.claim.features_at(step, spot, **observables)
        market = tf.stack([tf.math.log(spot / self.market.spot), tf.sqrt(variance)], axis=-1)
        return tf.concat([of_claim, market], axis=-1)

    @tf.autograph.experimental.do_not_convert  # to rewrite it for a dataset would take a second
    def episodes(self, num_paths, seed, first_path=0):
        """Simulated paths with all that training and evaluation need of them.

        Args:
            num_paths: Number of paths.
            seed: An integer, or a pair of them to tell streams of one seed apart.
            first_path: Index of the first of these paths in the stream.

        Returns:
            `(features, (returns, payoff))`, with shapes `[num_paths, num_steps, num_features]`,
            `[num_paths, num_steps, num_instruments]` and `[num_paths]`. Returns are in units of the
            initial spot, the payoff in units of the claim's notional.
        """
        return self._episodes_along(*self.simulate(num_paths, seed, first_path))

    def episodes_along(self, spot, variance):
        """Given paths with all that training and evaluation need of them, as `episodes`.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps + 1]`.
            variance: Instantaneous variance, of the same shape.

        Returns:
            `(features, (returns, payoff))`.

        Raises:
            ValueError: As `dataset_along`, but not in a graph.
        """
        if tf.executing_eagerly():
            spot, variance = self._checked_paths(spot, variance)
        return self._episodes_along(spot, variance)

    def _checked_paths(self, spot, variance):
        spot, variance = checks.paths(spot, variance, self.num_steps + 1)
        here, there = self.market.spot, spot[:, 0]
        if np.any(elsewhere := abs(there - here) > 1e-6 * here):
            raise ValueError(
                f"Expected paths that start at the market's spot, {here}. "
                f"Received one that starts at {there[elsewhere][0]:g}"
            )
        # Those of the market do not come to it; in percent they are beyond it.
        if np.max(variance) > (most := 2.0 * self.market.largest_variance):
            raise ValueError(
                f"Expected annual variances of at most {most:.4g} in this market. "
                f"Received: {np.max(variance):g}"
            )
        return np.float32(spot), np.float32(variance)

    @tf.autograph.experimental.do_not_convert  # likewise
    def _episodes_along(self, spot, variance):
        relative = spot / self.market.spot
        premiums = self._premiums(relative, variance)
        rate, dividend_yield = self.market.rate * self.dt, self.market.dividend_yield * self.dt
        returns = self.instruments.returns(relative, premiums, rate, dividend_yield)
        payoff = self.claim.payoff(spot) * np.float32(np.exp(-rate * self.num_steps))
        return self.features(spot, variance), (returns, payoff)

    def dataset(self, num_paths, batch_size, seed=0, first_batch=0):
        """Episodes in batches, simulated while they are consumed.

        Args:
            num_paths: Number of paths; an epoch goes through them in order.
            batch_size: Paths in a batch; the last batch may be smaller.
            seed: An integer, or a pair of them to tell streams of one seed apart.
            first_batch: Number of batches to leave out, whose paths are not simulated.

        Returns:
            A `tf.data.Dataset` of what `episodes` returns.

        Raises:
            ValueError: If a number is not a positive integer, or no batch is left.
        """
        checks.positive_integer("num_paths", num_paths)
        checks.positive_integer("batch_size", batch_size)
        num_full, rest = divmod(num_paths, batch_size)
        checks.integer("first_batch", first_batch, 0, num_full + bool(rest) - 1)
        batches = tf.data.Dataset.range(first_batch, num_full).map(
            lambda batch: self.episodes(batch_size, seed, first_path=batch * batch_size)
        )
        if rest:
            last = tf.data.Dataset.from_tensors(tf.constant(num_full * batch_size, tf.int64))
            last = last.map(lambda first_path: self.episodes(rest, seed, first_path))
            batches = batches.concatenate(last) if num_full else last
        return batches.prefetch(1)

    def dataset_along(self, spot, variance, batch_size):
        """Episodes of given paths in batches, such as those that `np.load("paths.npz")` holds.

        Args:
            spot: Prices of the underlying, `[num_paths, num_steps + 1]`.
            variance: Instantaneous variance, of the same shape.
            batch_size: Paths in a batch; the last batch may be smaller.

        Returns:
            A `tf.data.Dataset` of what `episodes_along` returns.

        Raises:
            ValueError: If there are no paths of that length, or numbers that are not finite, a spot
                that is not positive, a path that does not start at the market's spot, or a variance
                that is negative or far above the market's `largest_variance`.
        """
        checks.positive_integer("batch_size", batch_size)
        paths = tf.data.Dataset.from_tensor_slices(self._checked_paths(spot, variance))
        return paths.batch(batch_size).map(self._episodes_along).prefetch(1)

    def pnl(self, actions, returns, payoff):
        """Terminal P&L before costs, Gamma_T(u) - psi, `[num_paths]`.

        Args:
            actions: Trades u, `[num_paths, num_steps, num_instruments]`.
            returns: As `episodes` gives them, of the same shape.
            payoff: Likewise, `[num_paths]`.

        Raises:
            ValueError: If the shapes are others.
        """
        self._check_actions(actions)
        sizes = self.num_steps, self.num_instruments
        checks.shape("returns", returns, [actions.shape[0], *sizes])
        checks.shape("payoff", payoff, actions.shape[:1])
        return tf.einsum("nti,nti->n", actions, returns) - payoff

    def cost(self, actions):
        """Transaction costs C_T(u), `[num_paths]`; the argument is that of `pnl`."""
        self._check_actions(actions)
        return tf.einsum("nti,ti->n", tf.abs(actions), tf.cast(self.costs, actions.dtype))

    def _check_actions(self, actions):
        checks.shape("actions", actions, ["num_paths", self.num_steps, self.num_instruments])
