"""What the optimizers with Kronecker-factored curvature have in common."""

import functools
import itertools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.curvature.kronecker import DiagonalBlock, KroneckerBlock, all_finite, shrink

Schedule = keras.optimizers.schedules.LearningRateSchedule

fraction = functools.partial(checks.in_range, low=0.0, high=1.0)
_share = functools.partial(fraction, closed="right")


def _positive_or_schedule(name, value):
    if isinstance(value, dict):  # from a saved configuration
        value = keras.optimizers.schedules.deserialize(value)
    return value if isinstance(value, Schedule) else checks.positive(name, value)


_CHECKS = {
    "momentum": fraction,
    "shrinkage": _share,
    "factor_decay": fraction,
    "diagonal_decay": fraction,
    "factor_interval": checks.positive_integer,
    "eigenbasis_interval": checks.positive_integer,
    "trust_region": _positive_or_schedule,
    "trust_region_decay": fraction,
    "quadratic_cost_ratio": checks.positive,
    "num_curvature_paths": checks.positive_integer,
    "num_initial_paths": checks.positive_integer,
    "num_quadratic_paths": checks.positive_integer,
    "seed": functools.partial(checks.integer, low=0, high=2**63 - 1),
}

# A step that is rejected multiplies the damping by the first; one that is taken by the second.
MORE_DAMPING, LESS_DAMPING = 10.0, 0.9


class Step(NamedTuple):
    """What becomes of a preconditioned gradient.

    Attributes:
        update: What is added to the weights.
        momentums: What is remembered of the step, for each weight.
        size: The step size, for the report.
        damping: The factor by which the damping changes.
    """

    update: list
    momentums: list
    size: tf.Tensor
    damping: tf.Tensor | float = LESS_DAMPING


class KroneckerOptimizer(keras.optimizers.Optimizer):
    """An optimizer that preconditions gradients by a block-diagonal matrix of `KroneckerBlock`s.

    A layer with a matrix, or with a matrix and a bias, is a `KroneckerBlock`, and a vector alone,
    such as the scale of a norm, a `DiagonalBlock`. A subclass says when they are updated, and what
    becomes of the preconditioned gradient.

    A step is rejected if new curvature or the update is not finite. That reaches neither the
    weights nor the averages of the curvature; the momentum is dropped, `rejected_steps` counts one
    more, as does `rejected_in_a_row`, and the intensity of the shrinkage is multiplied by
    `damping`, which is raised tenfold, until the intensity is 1, and goes back to 1 over the steps
    that follow. The matrices whose eigenvectors are taken are always finite, and theirs are found,
    whatever the scale or the rank; a decomposition that fails all the same gives NaN where XLA
    compiles the step, which rejects it, and elsewhere TensorFlow's `InvalidArgumentError`. Where
    the gradient itself is no number, no damping leads away: `fit` then raises a `TrainingError`.

    Args:
        learning_rate: A number that is not negative, or a Keras schedule.
        name: Name of the optimizer.
        **settings: The arguments that the subclass adds.

    Raises:
        ValueError: If an argument is out of its range.
    """

    _check_learning_rate = staticmethod(checks.non_negative)
    _first_damping = 1.0
    # The ratio c~ / c of the quadratic costs, or None where they follow the trades.
    quadratic_cost_ratio = None
    # Whether `curvature` has to have gradients of two halves of the batch.
    needs_half_gradients = False

    def __init__(self, learning_rate, name, **settings):
        if not isinstance(learning_rate, Schedule):
            learning_rate = self._check_learning_rate("learning_rate", learning_rate)
        super().__init__(learning_rate=learning_rate, name=name)
        self._setting_names = list(settings)
        for setting, value in settings.items():
            setattr(self, setting, _CHECKS[setting](setting, value))

    @property
    def learning_rate(self):
        """The learning rate of the step to come; it can be set, in the range of the argument."""
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        if not isinstance(value, Schedule):
            value = self._check_learning_rate("learning_rate", float(value))
        keras.optimizers.Optimizer.learning_rate.fset(self, value)

    def build(self, variables):
        """Creates the curvature blocks, one for each layer among the variables' paths."""
        if self.built:
            return
        precision = np.finfo(variables[0].dtype).eps
        if self.shrinkage < precision:
            raise ValueError(
                f"Expected `shrinkage` to be at least {precision:.3g}, the rounding of the "
                f"{variables[0].dtype} weights. Received: shrinkage={self.shrinkage}"
            )
        super().build(variables)
        self.momentums = self.add_optimizer_variables(variables, "momentum")
        self.step_size = self.add_variable((), name="step_size")
        self.rejected_steps = self.add_variable((), name="rejected_steps")
        self.rejected_in_a_row = self.add_variable((), name="rejected_in_a_row")
        first = keras.initializers.Constant(min(self._first_damping, 1.0 / self.shrinkage))
        self.damping = self.add_variable((), first, variables[0].dtype, name="damping")
        self.num_samples = self.add_variable((), "zeros", variables[0].dtype, name="num_samples")
        self.blocks, self.block_variables = [], []
        for layer, group in itertools.groupby(variables, lambda v: v.path.rpartition("/")[0]):
            group = list(group)
            shapes = [tuple(variable.shape) for variable in group]
            add_variable = functools.partial(self._add_block_variable, layer, group[0].dtype)
            if [len(shape) for shape in shapes] in ([2], [2, 1]):
                block = KroneckerBlock(shapes[0], len(shapes) == 2, add_variable)
            elif [len(shape) for shape in shapes] == [1]:
                block = DiagonalBlock(shapes[0][0], add_variable)
            else:
                raise ValueError(
                    "Expected each layer to have a matrix, a matrix and a vector, or a vector. "
                    f"Received: {layer!r} with weights of shapes {shapes}"
                )
            self.blocks.append(block)
            self.block_variables.append(group)

    def _add_block_variable(self, layer, dtype, shape, initializer, name):
        return self.add_variable(
            shape, initializer, dtype, name=f"{layer}_{name}".replace("/", "_")
        )

    def apply(self, grads, trainable_variables=None, curvature=None):
        """Takes one step.

        Args:
            grads: Gradients of the loss.
            trainable_variables: The variables they belong to.
            curvature: The curvature B of the batch, with what the subclass asks for among
                `sample(num_paths, seed)`, for each layer in the order of the variables its inputs
                and pseudo-gradients, `[num_paths, num_steps, size]`;
                `input_moments()`, for each layer T^(-1/2) sum_t E[[a_t; 1] [a_t; 1]'] over the
                batch, `[inputs + 1, inputs + 1]`;
                `quadratic(directions, num_paths)`, on some of the paths, the slopes of their loss
                along each v_i, `[num_directions]`, the matrix of v_i' B v_j, and what true costs
                add to the model, a function of coefficients of the v_i;
                `half_gradients`, two estimates of the gradient, independent of each other, or None;
                `change(update, num_paths)`, on the same paths, the change of their loss with an
                update of the weights; `risk`, the loss of the batch with the P&L about its mean,
                and `risk_after(update)`.

        Raises:
            ValueError: If no curvature is given.
        """
        if curvature is None:
            raise ValueError(
                "Expected the `curvature` of the batch: train a `DeepHedger`, or call "
                "`apply(grads, variables, curvature=...)`. Received: curvature=None"
            )
        if not self.built:
            self.build(trainable_variables)
        self._step(grads, curvature)

    def _step(self, gradients, curvature):
        """Lines 3 to 23."""
        healthy = self._update_blocks(curvature)
        update, momentums, size, damping = self._update(gradients, curvature)
        healthy &= all_finite([*update, *momentums])
        update, momentums = (
            [tf.where(healthy, x, tf.zeros_like(x)) for x in tensors]
            for tensors in (update, momentums)
        )
        self._finish(update, momentums, healthy, size, damping)

    def _finish(self, update, momentums, healthy, size=0.0, damping=1.0):
        """Applies an update, and notes whether the step was taken or rejected."""
        self.step_size.assign(tf.where(healthy, tf.cast(size, tf.float32), 0.0))
        self.rejected_steps.assign_add(tf.where(healthy, 0.0, 1.0))
        self.rejected_in_a_row.assign(tf.where(healthy, 0.0, self.rejected_in_a_row + 1.0))
        factor = tf.where(healthy, tf.cast(damping, self.damping.dtype), MORE_DAMPING)
        self.damping.assign(tf.clip_by_value(factor * self.damping, 1.0, 1.0 / self.shrinkage))
        for slot, value in zip(self.momentums, momentums, strict=True):
            slot.assign(value)
        super().apply(update, self._trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        """Adds the update that `apply` passes in place of a gradient; it is scaled already."""
        self.assign_add(variable, gradient)

    def _update_blocks(self, curvature):
        """Lines 3 to 14: takes in new curvature, and says whether all of it was finite."""
        raise NotImplementedError

    def _update(self, gradients, curvature):
        """Lines 15 to 22: what becomes of the gradients, a `Step`."""
        raise NotImplementedError

    def precondition(self, gradients):
        """Lines 16 to 19."""
        gradients = iter(gradients)
        return [
            preconditioned
            for block, variables in zip(self.blocks, self.block_variables, strict=True)
            for preconditioned in block.precondition(
                list(itertools.islice(gradients, len(variables))), self.damp(block)
            )
        ]

    def damp(self, block):
        """Line 18: the D of a block, shrunk by eq. (11)."""
        intensity = tf.minimum(self.shrinkage * self.damping, 1.0)
        return shrink(block.diagonal, intensity, self.shrinkage_target(block))

    def shrinkage_target(self, block):
        """What the D of a block is shrunk towards: its mean, as in eq. (11)."""
        return tf.reduce_mean(block.diagonal)

    def mean_eigenvalue(self):
        """The mean of the D of all layers."""
        total = tf.add_n([tf.reduce_sum(block.diagonal) for block in self.blocks])
        return total / sum(block.diagonal.shape.num_elements() for block in self.blocks)

    def _sample(self, curvature, num_paths):
        """Lines 6 to 9: inputs and pseudo-gradients of each layer."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(self.iterations, tf.int64)])
        return curvature.sample(num_paths, seed)

    def _renew_eigenbases(self, carry_diagonal):
        """Lines 13 and 14: renews the bases when it is time, and says whether they are finite."""
        return tf.cond(
            self.iterations % self.eigenbasis_interval == 0,
            lambda: tf.reduce_all([b.update_eigenbasis(carry_diagonal) for b in self.blocks]),
            lambda: True,
        )

    def _count(self, taken):
        """Counts a sample if all of it was taken in, and says so."""
        self.num_samples.assign_add(tf.cast(taken, self.num_samples.dtype))
        return taken

    def trust_region_now(self):
        """The size rho_TR of the trust region in the step to come."""
        if isinstance(self.trust_region, Schedule):
            return tf.cast(self.trust_region(self.iterations), self.damping.dtype)
        return tf.constant(self.trust_region, self.damping.dtype)

    def get_config(self):
        """The arguments that make this optimizer again."""
        inherited = super().get_config()
        return {
            **{name: inherited[name] for name in ("name", "learning_rate")},
            **{name: encoded(getattr(self, name)) for name in self._setting_names},
        }


def encoded(value):
    """A setting as `get_config` gives it."""
    return keras.optimizers.schedules.serialize(value) if isinstance(value, Schedule) else value


def inner(left, right):
    """The inner product of two lists of tensors of the same shapes."""
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(left, right, strict=True)])
