"""The policy over all time steps."""

import functools

import keras
from keras import ops

from tfhedge import checks
from tfhedge.policy.cell import OBSERVABLE, DenseCell, HedgeCell
from tfhedge.policy.compiled import CompiledRollout


class Policy(keras.layers.Layer):
    """A cell unrolled over time: from what is observed to all actions of a path.

    A subclass names the class of the cell, a `tfhedge.policy.cell.Cell`.

    Args:
        units: Width of the cell's blocks.
        num_blocks: Number of residual blocks.
        observes: What the policy sees of its last action: `"log_action"`, the symmetric logarithm;
            `"last_action"`, the action itself, as in the paper; or `"nothing"`.

    Call arguments:
        features: `[num_paths, num_steps, num_features]`.
        availability: Which instrument can be traded when, 1 or 0,
            `[num_steps, num_instruments]`.

    Returns:
        Actions, `[num_paths, num_steps, num_instruments]`.

    Raises:
        ValueError: If a size is not a positive integer, or `observes` something else.
    """

    cell_class = None

    def __init__(self, units=32, num_blocks=4, observes="log_action", **kwargs):
        super().__init__(**kwargs)
        self.units = checks.positive_integer("units", units)
        self.num_blocks = checks.positive_integer("num_blocks", num_blocks)
        self.observes = checks.one_of("observes", observes, OBSERVABLE)

    def build(self, features_shape, availability_shape):
        """Creates the cell once the numbers of features and instruments are known."""
        num_instruments, self.num_features = availability_shape[-1], features_shape[-1]
        self.cell = self.cell_class(
            num_instruments,
            self.units,
            self.num_blocks,
            self.observes,
            dtype=self.dtype_policy,
            name="cell",
        )
        self.rnn = keras.layers.RNN(
            self.cell, return_sequences=True, dtype=self.dtype_policy, name="rnn"
        )
        self.rnn.build((*features_shape[:-1], num_instruments + self.num_features))

    def call(self, features, availability):
        """All actions of each path."""
        return self.rnn(self.cell_inputs(features, availability))

    def compute_output_shape(self, features_shape, availability_shape):
        """That of the actions."""
        return (*features_shape[:2], availability_shape[-1])

    @functools.cached_property
    def compiled(self):
        """The same by another route, faster on a CPU: a `CompiledRollout`."""
        return CompiledRollout(self.cell)

    def cell_inputs(self, features, availability):
        """Availability and features side by side, as the cell takes them at each step."""
        shape = (*ops.shape(features)[:2], availability.shape[-1])
        availability = ops.broadcast_to(ops.cast(availability, self.compute_dtype), shape)
        return ops.concatenate([availability, features], axis=-1)

    def get_config(self):
        """The arguments that make this policy again."""
        return {
            **super().get_config(),
            "units": self.units,
            "num_blocks": self.num_blocks,
            "observes": self.observes,
        }


@keras.saving.register_keras_serializable("tfhedge")
class RecurrentPolicy(Policy):
    """The policy of the paper, a `HedgeCell` unrolled over time: residual LSTM blocks.

    Arguments, call arguments and results are those of `Policy`.

    Example:
    >>> import numpy as np
    >>> policy = RecurrentPolicy(units=8, num_blocks=2)
    >>> policy(np.zeros([5, 3, 2]), availability=np.ones([3, 4])).shape
    TensorShape([5, 3, 4])
    """

    cell_class = HedgeCell


@keras.saving.register_keras_serializable("tfhedge")
class DensePolicy(Policy):
    """A feed-forward network at each step, a `DenseCell` unrolled over time.

    Arguments, call arguments and results are those of `Policy`. It is not compiled by steps of its
    own, and so slower than its size suggests.

    Example:
    >>> import numpy as np
    >>> policy = DensePolicy(units=8, num_blocks=2, observes="nothing")
    >>> policy(np.zeros([5, 3, 2]), availability=np.ones([3, 4])).shape
    TensorShape([5, 3, 4])
    """

    cell_class = DenseCell
