"""The rules of steps that `promises.py` compares: `DHKFAC` as it is, and without parts of it."""

import keras
import tensorflow as tf

import tfhedge as th
from tfhedge.training.gauss_newton import GaussNewton, _Sample


class Checked(th.DHKFAC):
    """Keeps the length of each step."""

    def build(self, variables):
        """Creates the length beside the state of `DHKFAC`."""
        if not self.built:
            super().build(variables)
            self.length = tf.Variable(1.0, trainable=False)  # not part of what a file keeps

    def _agreed_length(self, *arguments):
        length = super()._agreed_length(*arguments)
        self.length.assign(length)
        return length


class Unchecked(Checked):
    """Takes every step of M with the slope of the batch, and little damping; takes none back."""

    _first_damping = 1.0

    def _agreed_length(self, curvature, update, model, sizes, curved):
        return tf.ones_like(curved)

    def _did_harm(self, curvature):
        return tf.constant(False)

    def _signal(self, halves):
        return super()._signal(None)


class CheckedByParabola(Checked):
    """Has one parabola for costs of any size, and checks against M as if |u| had no kink."""

    quadratic_cost_ratio = 100.0

    def _update(self, gradients, curvature):
        class WithoutKink(type(curvature)):
            def quadratic(self, *arguments):
                slopes, gram, _ = super().quadratic(*arguments)
                return slopes, gram, lambda coefficients: tf.zeros_like(coefficients[0])

        return super()._update(gradients, WithoutKink(**vars(curvature)))


RULES = {"checked": Checked, "unchecked": Unchecked, "parabola": CheckedByParabola}


class FirstPaths(GaussNewton):
    """Estimates on the first paths of the batch, whatever their weights in the objective."""

    def _sampled(self, num_paths):
        paths = slice(num_paths)
        curvature = self.problem.objective.path_curvature(self.pnl, self.cost)
        batch = self.features, self.returns, self.payoff, self.pnl, self.cost
        weights = tf.ones_like(self.pnl[paths])
        return _Sample(weights, *(x[paths] for x in batch), [x[paths] for x in curvature])


class HedgerOnFirstPaths(th.DeepHedger):
    """Gives the optimizer estimates on the first paths."""

    def curvature(self, *arguments, **more):
        """The curvature of a batch."""
        fields = vars(super().curvature(*arguments, **more))
        return FirstPaths(**fields)


SAMPLES = {"weighted": th.DeepHedger, "first": HedgerOnFirstPaths}


def make_hedger(problem, num_blocks, rule, observes, sample="weighted", seed=0):
    """Makes a compiled hedger of untrained weights."""
    keras.utils.set_random_seed(seed)
    hedger = SAMPLES[sample](problem, th.RecurrentPolicy(32, num_blocks, observes))
    hedger.compile(optimizer=RULES[rule]())
    hedger.make_train_function()
    return hedger
