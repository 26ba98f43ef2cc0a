"""What a served policy answers to: observations of the market in, trades out."""

import functools

import numpy as np
import tensorflow as tf

# By which factor an observation may go beyond the extremes of a fixed sample of so many paths.
_MARGIN, _SAMPLE_PATHS = 1.5, 16_384


class Signatures:
    """The functions of a `DeepHedger` that are served, with flat named tensors, batch axis first.

    - `step`: the trades of one time, from what is observed then and the states of the last time;
    - `initial_state`: the states before the first time;
    - `rollout`: the trades of all times of a path, or of those up to now, the others being NaN.

    An observation is refused, `valid` false and all trades zero, if a number is not finite or out
    of `ranges`, or if what is said of the path cannot be true, as when the spot at a reset date is
    not that of the last reset. A refused step hands the states back as they came (what is not
    finite as zero), so that it can be asked again. On a path everything after a refusal is refused.

    Args:
        hedger: A `DeepHedger`.
    """

    def __init__(self, hedger):
        self.hedger = hedger
        self.problem = hedger.problem
        self.cell = hedger.policy.cell
        self.state_sizes = dict(zip(self.cell.state_names, self.cell.state_size, strict=True))
        self.ranges = observed_ranges(self.problem)
        market, num_steps = self.problem.market, self.problem.num_steps
        observables = self.problem.claim.observables(tf.fill([1, num_steps], market.spot))
        # What an observation that is refused is replaced by: it does no harm.
        self.start = {"spot": market.spot, "variance": market.v0} | {
            name: float(x[0, 0]) for name, x in observables.items()
        }

    @property
    def specs(self):
        """The inputs of each function: `tf.TensorSpec` by name."""

        def numbers(*shape):
            return tf.TensorSpec([None, *shape], tf.float32)

        path = numbers(self.problem.num_steps)
        states = {name: numbers(size) for name, size in self.state_sizes.items()}
        observed = dict.fromkeys(self.start, numbers())
        return {
            "step": {"t": tf.TensorSpec([None], tf.int32), **observed, **states},
            "initial_state": {"batch_size": tf.TensorSpec(None, tf.int32)},
            "rollout": {"spot": path, "variance": path},
        }

    def step(self, t, spot, variance, **inputs):
        """The trades at one time.

        Args:
            t: Time in steps, `[batch]`.
            spot: Price of the underlying, `[batch]`.
            variance: Instantaneous variance, `[batch]`.
            **inputs: What the claim remembers of the path, `[batch]`; the states, `[batch, size]`.

        Returns:
            `action`, `[batch, num_instruments]`; `valid`, `[batch]`; the next states by name.
        """
        states = [inputs.pop(name) for name in self.state_sizes]
        observed = {"spot": spot, "variance": variance, **inputs}
        valid = (t >= 0) & (t < self.problem.num_steps) & self._in_range(observed)
        valid &= all_finite(states)
        if hasattr(self.problem.claim, "possible"):
            valid &= self.problem.claim.possible(t, spot, **inputs)
        t = tf.where(valid, t, 0)
        observed = self._harmless(valid, observed)
        states = [tf.where(tf.math.is_finite(x), x, 0.0) for x in states]

        features = self.problem.features_at(t, **observed)
        available = tf.gather(self.problem.availability, t)
        dtype = self.cell.compute_dtype
        action, next_states, _ = self.cell.step(
            tf.cast(tf.concat([available, features], axis=-1), dtype),
            [tf.cast(x, dtype) for x in states],
        )
        action, *next_states = (tf.cast(x, tf.float32) for x in (action, *next_states))
        controls = self.hedger.controls
        trades = controls.trades_between(states[0], action, tf.gather(controls.carried, t))
        valid &= all_finite([trades, *next_states])
        taken = valid[:, tf.newaxis]
        pairs = zip(next_states, states, strict=True)
        next_states = [tf.where(taken, new, old) for new, old in pairs]
        return {
            "action": tf.where(taken, trades, 0.0),
            "valid": valid,
            **dict(zip(self.state_sizes, next_states, strict=True)),
        }

    def initial_state(self, batch_size):
        """The states before the first time.

        Args:
            batch_size: The number of paths, or numbers that sum up to it. A server that batches
                requests joins them along the first axis: it needs a vector of ones, one for each
                path.

        Returns:
            The states by name, zeros, `[batch_size, size]`.
        """
        batch_size = tf.reduce_sum(batch_size)
        return {name: tf.zeros([batch_size, size]) for name, size in self.state_sizes.items()}

    def rollout(self, spot, variance):
        """The trades at all times.

        Args:
            spot: Prices of the underlying, `[batch, num_steps]`.
            variance: Instantaneous variance, `[batch, num_steps]`.

        Returns:
            `action`, `[batch, num_steps, num_instruments]`, and `valid`, `[batch, num_steps]`.
        """
        observed = {"spot": spot, "variance": variance}
        valid = so_far(self._in_range(observed))
        observed = self._harmless(valid, observed)
        action = tf.cast(self.hedger(self.problem.features(**observed)), tf.float32)
        valid &= so_far(all_finite([action]))
        return {"action": tf.where(valid[..., tf.newaxis], action, 0.0), "valid": valid}

    def _in_range(self, observed):
        inside = True
        for name, x in observed.items():
            low, high = self.ranges[name]
            inside &= (x >= low) & (x <= high)  # false of NaN
        return inside

    def _harmless(self, valid, observed):
        return {name: tf.where(valid, x, self.start[name]) for name, x in observed.items()}


def observed_ranges(problem):
    """What is taken of each observation: the smallest and the largest number, by name."""
    spot, variance = problem.simulate(_SAMPLE_PATHS, seed=(0, 2**31 - 1))
    sample = {"spot": spot, "variance": variance, **problem.claim.observables(spot[:, :-1])}
    ranges = {name: widened(float(np.min(x)), float(np.max(x))) for name, x in sample.items()}
    return ranges | {"variance": (0.0, ranges["variance"][1])}


def widened(low, high):
    """A range that goes farther at both ends, by a factor.

    >>> widened(-0.5, 2.0)
    (-0.75, 3.0)
    >>> widened(0.75, 2.0)
    (0.5, 3.0)
    """
    return (
        low / _MARGIN if low > 0.0 else low * _MARGIN,
        high * _MARGIN if high > 0.0 else high / _MARGIN,
    )


def so_far(good):
    """Whether all of a path was good up to each time."""
    return tf.cumsum(tf.cast(~good, tf.int32), axis=1) == 0


def all_finite(tensors):
    """Whether all numbers of the last axis are finite, in each of the tensors."""
    return functools.reduce(
        tf.logical_and, [tf.reduce_all(tf.math.is_finite(x), axis=-1) for x in tensors]
    )
