"""What a served policy answers to: observations of the market in, trades out."""

import functools

import numpy as np
import tensorflow as tf

# How far beyond the extremes of a fixed sample of paths an observation is still taken.
_SPOT_MARGIN, _VARIANCE_MARGIN, _SAMPLE_PATHS = 1.5, 2.0, 16_384


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
        valid = (t >= 0) & (t < self.problem.num_steps) & self._in_range(spot, variance)
        valid &= self.problem.claim.possible(t, spot, **inputs) & all_finite(states)
        t = tf.where(valid, t, 0)
        observed = self._harmless(valid, spot=spot, variance=variance, **inputs)
        states = [tf.where(tf.math.is_finite(x), x, 0.0) for x in states]

        features = self.problem.features_at(t, **observed)
        available = tf.gather(self.problem.availability, t)
        dtype = self.cell.compute_dtype
        action, next_states, _ = self.cell.step(
            tf.cast(tf.concat([available, features], axis=-1), dtype),
            [tf.cast(x, dtype) for x in states],
        )
        action, *next_states = (tf.cast(x, tf.float32) for x in (action, *next_states))
        valid &= all_finite([action, *next_states])
        taken = valid[:, tf.newaxis]
        pairs = zip(next_states, states, strict=True)
        next_states = [tf.where(taken, new, old) for new, old in pairs]
        return {
            "action": tf.where(taken, action, 0.0),
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
        valid = so_far(self._in_range(spot, variance))
        observed = self._harmless(valid, spot=spot, variance=variance)
        action = tf.cast(self.hedger(self.problem.features(**observed)), tf.float32)
        valid &= so_far(all_finite([action]))
        return {"action": tf.where(valid[..., tf.newaxis], action, 0.0), "valid": valid}

    def _in_range(self, spot, variance):
        inside = [
            (x >= low) & (x <= high)  # false of NaN
            for x, (low, high) in zip((spot, variance), self.ranges.values(), strict=True)
        ]
        return tf.logical_and(*inside)

    def _harmless(self, valid, **observed):
        return {name: tf.where(valid, x, self.start[name]) for name, x in observed.items()}


def observed_ranges(problem):
    """The spot and the variance that are taken: the smallest and the largest of each, by name.

    They go beyond what a fixed sample of paths meets, by factors.
    """
    spot, variance = problem.simulate(_SAMPLE_PATHS, seed=(0, 2**31 - 1))
    return {
        "spot": (float(np.min(spot)) / _SPOT_MARGIN, float(np.max(spot)) * _SPOT_MARGIN),
        "variance": (0.0, float(np.max(variance)) * _VARIANCE_MARGIN),
    }


def so_far(good):
    """Whether all of a path was good up to each time."""
    return tf.cumsum(tf.cast(~good, tf.int32), axis=1) == 0


def all_finite(tensors):
    """Whether all numbers of the last axis are finite, in each of the tensors."""
    return functools.reduce(
        tf.logical_and, [tf.reduce_all(tf.math.is_finite(x), axis=-1) for x in tensors]
    )
