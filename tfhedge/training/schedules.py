"""Learning rates."""

import keras
from keras import ops

from tfhedge import checks


@keras.saving.register_keras_serializable("tfhedge")
class WarmUpExponentialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to a peak, then exponential decay: how the paper trains Adam (section 4.1).

    Args:
        peak: The largest learning rate, reached after `warm_up_steps`.
        warm_up_steps: Number of steps of the rise.
        decay_rate: Factor by which the rate falls in each step after that.

    Example:
    >>> rate = WarmUpExponentialDecay(peak=1.0, warm_up_steps=4, decay_rate=0.5)
    >>> [float(rate(step)) for step in range(6)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """

    def __init__(self, peak, warm_up_steps, decay_rate):
        super().__init__()
        self.peak = checks.positive("peak", peak)
        self.warm_up_steps = checks.positive_integer("warm_up_steps", warm_up_steps)
        self.decay_rate = checks.in_range("decay_rate", decay_rate, 0.0, 1.0)

    def __call__(self, step):
        """The learning rate of a step, counted from 0."""
        step = ops.cast(step, "float32") + 1.0
        rise = ops.minimum(step / self.warm_up_steps, 1.0)
        fall = self.decay_rate ** ops.maximum(step - self.warm_up_steps, 0.0)
        return self.peak * rise * fall

    def get_config(self):
        """The arguments that make this schedule again."""
        return {
            "peak": self.peak,
            "warm_up_steps": self.warm_up_steps,
            "decay_rate": self.decay_rate,
        }
