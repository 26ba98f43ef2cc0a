"""What each ingredient of DH-KFAC is worth: steps to losses of 0.085, 0.075 and 0.05 without it.

Run with `python benchmarks/ablation.py --out DIR --json benchmarks/results/ablation.json`. Each
variant is one run of one seed at the paper's size, of at most 400 steps to the first two losses,
and of at most 200 to the third; the policy decides on trades, as the paper's. The same command
continues what was interrupted, and leaves out what is done. Hours on two cores.
"""

import argparse
import dataclasses
from pathlib import Path

from record import machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import tensorflow as tf
from keras.optimizers.schedules import ExponentialDecay

import tfhedge as th
from tfhedge.curvature.algorithm1 import Algorithm1
from tfhedge.curvature.kronecker import KroneckerBlock, homogeneous, second_moment
from tfhedge.workflow.config import CHECKPOINT_FILE, RunConfig
from tfhedge.workflow.experiment import read_run, run_seed, until
from tfhedge.workflow.run import (
    copy_checkpoint,
    make_hedger,
    make_optimizer,
    make_problem,
    open_folder,
)
from tfhedge.workflow.tables import number

# The last of the losses is to be reached within so many steps, or is given up.
TARGETS, LATE_STEPS = (0.085, 0.075, 0.05), 200
ALGORITHM_1 = Algorithm1().get_config()
STEP_OF_ALGORITHM_1 = {
    **{name: ALGORITHM_1[name] for name in ("learning_rate", "momentum")},
    "trust_region": ExponentialDecay(
        ALGORITHM_1["trust_region"], 1, ALGORITHM_1["trust_region_decay"]
    ),
}


class StepByPreconditioner(th.DHKFAC):
    """Step length and momentum of Algorithm 1, lines 20 to 22, with its constants."""

    def _update(self, gradients, curvature):
        return Algorithm1._update(self, gradients, curvature)


class WithoutRestart(th.DHKFAC):
    """Goes on along the previous update uphill, too."""

    def _coefficients(self, slopes, gram):
        return self._with_momentum(self.momentum, slopes, gram)


class MomentumOfModel(th.DHKFAC):
    """Minimizes M over momenta of at most 0.9, too, and takes a share of that minimizer."""

    def _coefficients(self, slopes, gram):
        share = tf.cast(self.learning_rate, gram.dtype)
        return share * minimize_in_plane(slopes, gram, self.momentum)


def minimize_in_plane(slopes, gram, max_momentum):
    r"""Minimizes the quadratic model M over the updates -alpha v + mu p, 0 <= mu <= max_momentum.

    With B_vv, B_vp, B_pp the entries of `gram`, the unconstrained minimizer solves

        [ B_vv  -B_vp ] [alpha]   [  g'v ]
        [-B_vp   B_pp ] [ mu  ] = [ -g'p ];

    mu is then clipped, and alpha minimizes M given mu. Where v and p are parallel or p is zero,
    mu is zero.

    Args:
        slopes: g'v and g'p.
        gram: The matrix of v, p in the metric B, `[2, 2]`.
        max_momentum: Largest mu.

    Returns:
        The coefficients -alpha and mu, `[2]`.
    """
    slope_v, slope_p = slopes[0], slopes[1]
    b_vv, b_vp, b_pp = gram[0, 0], gram[0, 1], gram[1, 1]
    determinant = b_vv * b_pp - b_vp**2
    mu = tf.math.divide_no_nan(b_vp * slope_v - b_vv * slope_p, determinant)
    independent = determinant > 1e-6 * b_vv * b_pp
    mu = tf.where(independent, tf.clip_by_value(mu, 0.0, max_momentum), 0.0)
    alpha = tf.math.divide_no_nan(slope_v + mu * b_vp, b_vv)
    return tf.stack([-alpha, mu])


class Unchecked(th.DHKFAC):
    """Takes each step as M has it."""

    def _agreed_length(self, curvature, update, model, sizes, curved):
        return tf.ones_like(curved)


class GainsAlone(th.DHKFAC):
    """Takes the curvature of the gains alone, as the loss is linear in the costs C."""

    quadratic_cost_ratio = 1e-9


class CostsOfPaper(th.DHKFAC):
    """Takes the quadratic costs of the paper."""

    quadratic_cost_ratio = 8.0


class WithoutSignal(th.DHKFAC):
    """Takes the slope of the batch for that of all paths."""

    def _signal(self, halves):
        return super()._signal(None)


class WithoutTakingBack(th.DHKFAC):
    """Goes on from a step that did harm."""

    def _did_harm(self, curvature):
        return tf.constant(False)


class LittleDampingAtFirst(th.DHKFAC):
    """The damping starts where it ends."""

    _first_damping = 1.0


class StartAtZero(th.DHKFAC):
    """The averages start at zero, and take in each sample with the same weight.

    What D is too small at first cancels in the step length: what differs is the weight of the
    first samples.
    """

    def build(self, variables):
        """As if there had been many samples."""
        if not self.built:
            super().build(variables)
            self.num_samples.assign(1e9)


class StaleDiagonal(th.DHKFAC):
    """D stays as it is when the eigenbasis changes under it."""

    def _renew_eigenbases(self, carry_diagonal):
        return super()._renew_eigenbases(carry_diagonal=False)


class FactorsByStep(th.DHKFAC):
    """A and G of eq. (8), which take each time step by itself; A is of the sampled paths, too."""

    def _update_factors(self, block, a, g, decay):
        return block.update_factors_by_step(second_moment(homogeneous(a)), g, decay)


class IdentityG(FactorsByStep):
    """A of eq. (8) and G = I, so that only inputs are decorrelated; D is still measured.

    To be compared with `FactorsByStep`.
    """

    def _renew_eigenbases(self, carry_diagonal):
        for block in kronecker_blocks(self):
            block.output_factor.assign(tf.eye(block.output_factor.shape[0]))
        return super()._renew_eigenbases(carry_diagonal)


class PlainKFAC(FactorsByStep):
    """D is the product of the eigenvalues of eq. (8), not measured; scales keep their diagonal.

    To be compared with `FactorsByStep`.
    """

    def _update_blocks(self, curvature):
        healthy = super()._update_blocks(curvature)
        for block in kronecker_blocks(self):
            inputs, outputs = eigenvalues(block)
            block.diagonal.assign(inputs[:, tf.newaxis] * outputs)
        return healthy


class ShrinkageByBlock(th.DHKFAC):
    """Each D is shrunk towards its own mean."""

    def shrinkage_target(self, block):
        """The mean of the block."""
        return Algorithm1.shrinkage_target(self, block)


class LastingSharedDamping(th.DHKFAC):
    """What all layers share in the target of the shrinkage does not fade."""

    def shrinkage_target(self, block):
        """The mean of the block, and that of all layers."""
        return Algorithm1.shrinkage_target(self, block) + self.mean_eigenvalue()


class AveragedIterates(th.DHKFAC):
    """Keeps averages of the weights, over some ten steps at last, for the validation."""

    def build(self, variables):
        """With an average for each variable."""
        if not self.built:
            super().build(variables)
            self.averages = self.add_optimizer_variables(variables, "average")

    def apply(self, grads, trainable_variables=None, curvature=None):
        """The step, and then the averages."""
        super().apply(grads, trainable_variables, curvature)
        decay = tf.minimum(1.0 - 1.0 / tf.cast(self.iterations, tf.float32), 0.9)
        for average, variable in zip(self.averages, trainable_variables, strict=True):
            average.assign(decay * average + (1.0 - decay) * variable)


class FeaturesOfPaper(th.Cliquet):
    """With time, return since the last reset and payoff now; the problem adds spot and volatility.

    The first and the spot say what the spot was at the last reset.
    """

    def features_at(self, step, spot, spot_at_last_reset, accrued):
        """Three of the features."""
        features = super().features_at(step, spot, spot_at_last_reset, accrued)
        return tf.gather(features, [0, 4, 7], axis=-1)


class UniformDamping(th.DHKFAC):
    """The same lambda I is added to every block: rho times the mean of all their eigenvalues.

    It follows them over the training, as a constant could not. To be compared with
    `ShrinkageByBlock`: nothing fades.
    """

    def damp(self, block):
        """D + lambda."""
        return block.diagonal + self.strength()

    def strength(self):
        """The number lambda."""
        return self.shrinkage * self.damping * self.mean_eigenvalue()


class FactoredDamping(UniformDamping):
    """What damping both factors by sqrt(lambda) I adds to their product, added to D.

    That is sqrt(lambda) (Lambda_A + Lambda_G) + lambda, which goes with the eigenvalues: our
    reading of the adaptive damping of George et al. (2018), appendix C.
    """

    def damp(self, block):
        """D with what damping the factors adds."""
        damped = super().damp(block)
        if not isinstance(block, KroneckerBlock):
            return damped
        inputs, outputs = eigenvalues(block)
        return damped + tf.sqrt(self.strength()) * (inputs[:, tf.newaxis] + outputs)


def kronecker_blocks(optimizer):
    """The blocks of an optimizer that have factors."""
    return [block for block in optimizer.blocks if isinstance(block, KroneckerBlock)]


def eigenvalues(block):
    """Of A and of G, or their diagonals in a basis of some steps ago."""
    pairs = (block.input_factor, block.input_basis), (block.output_factor, block.output_basis)
    return [tf.maximum(tf.reduce_sum(q * (x.value @ q), axis=0), 0.0) for x, q in pairs]


def with_optimizer(optimizer_class=th.DHKFAC, **settings):
    """A variant that differs in the optimizer or its settings."""

    def make(config):
        arguments = make_optimizer(config).get_config() | settings
        return make_hedger(config, optimizer=optimizer_class.from_config(arguments))

    return make


def without_recurrence(config):
    """The policy does not see its last action."""
    policy = th.RecurrentPolicy(config.units, config.num_blocks, observes="nothing")
    return make_hedger(config, policy=policy)


def with_positions(config):
    """The policy decides on the position in the underlying."""
    return make_hedger(dataclasses.replace(config, controls="positions"))


def with_averages(config):
    """The averages of the weights are validated."""
    hedger = with_optimizer(AveragedIterates)(config)
    evaluate = hedger.evaluate

    def evaluate_averages(*arguments, **options):
        iterates = hedger.get_weights()
        hedger.set_weights([average.numpy() for average in hedger.optimizer.averages])
        losses = evaluate(*arguments, **options)
        hedger.set_weights(iterates)
        return losses

    hedger.evaluate = evaluate_averages
    return hedger


def with_features_of_paper(config):
    """The policy sees what the paper's does."""
    problem = make_problem(config)
    claim = FeaturesOfPaper(**dataclasses.asdict(problem.claim))
    return make_hedger(config, dataclasses.replace(problem, claim=claim))


def with_larger_outlet(config):
    """The last layer starts ten times as large."""
    hedger = make_hedger(config)
    kernel = hedger.policy.cell.linear_layers[-1].kernel
    kernel.assign(10.0 * kernel)
    return hedger


VARIANTS = {
    "DH-KFAC": make_hedger,
    "no momentum": with_optimizer(momentum=0.0),
    "momentum that minimizes M": with_optimizer(MomentumOfModel),
    "no restart": with_optimizer(WithoutRestart),
    "step length of Algorithm 1": with_optimizer(StepByPreconditioner, **STEP_OF_ALGORITHM_1),
    "the same, at most a 4th of its length": with_optimizer(
        StepByPreconditioner, **STEP_OF_ALGORITHM_1 | {"learning_rate": 1e-3}
    ),
    "half steps": with_optimizer(learning_rate=0.5),
    "no check of the steps": with_optimizer(Unchecked),
    "no taking back": with_optimizer(WithoutTakingBack),
    "little damping at first": with_optimizer(LittleDampingAtFirst),
    "no signal": with_optimizer(WithoutSignal),
    "no signal, trust region with a decay": with_optimizer(
        WithoutSignal, trust_region=ExponentialDecay(0.3, 1, 0.985)
    ),
    "no trust region": with_optimizer(trust_region=1e9),
    "hardly any damping": with_optimizer(shrinkage=2e-7),
    "shrinkage of eq. (11)": with_optimizer(ShrinkageByBlock),
    "shared damping that does not fade": with_optimizer(LastingSharedDamping),
    "uniform damping": with_optimizer(UniformDamping),
    "damping by the factors": with_optimizer(FactoredDamping),
    "factors of eq. (8)": with_optimizer(FactorsByStep),
    "plain KFAC": with_optimizer(PlainKFAC),
    "G = I": with_optimizer(IdentityG),
    "D not carried over": with_optimizer(StaleDiagonal),
    "averages that start at zero": with_optimizer(StartAtZero),
    "outputs {Gamma, C}": with_optimizer(GainsAlone),
    "quadratic costs of the paper": with_optimizer(CostsOfPaper),
    "positions in place of trades": with_positions,
    "no action recurrence": without_recurrence,
    "features of the paper": with_features_of_paper,
    "last layer tenfold at the start": with_larger_outlet,
    "averages of the iterates": with_averages,
    "1 curvature path": with_optimizer(num_curvature_paths=1),
    "4 curvature paths": with_optimizer(num_curvature_paths=4),
    "16 curvature paths": with_optimizer(num_curvature_paths=16),
    "64 curvature paths": with_optimizer(num_curvature_paths=64),
    "16 paths for the step length": with_optimizer(num_quadratic_paths=16),
    "curvature every 5 steps": with_optimizer(factor_interval=5),
    "bases every 25 steps": with_optimizer(eigenbasis_interval=25),
}


def main():
    """Runs the variants, prints and perhaps writes what they need."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the runs' folders")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400, help="at most, to the first two losses")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here")
    options = parser.parse_args()
    config = RunConfig(
        steps=options.steps,
        validate_every=5,
        validation_paths=8192,
        target_loss=TARGETS[-2],
        seed=options.seed,
        controls="trades",
    )
    rows = []
    for name in options.variants:
        run = run_variant(config, options.out / name.replace(" ", "-"), VARIANTS[name])
        history = run["history"]
        losses = [loss for loss in history["val_loss"] if loss is not None]
        rows.append(
            {
                "variant": name,
                "steps": [until(history, target) for target in TARGETS],
                "stopped_by": run["stopped_by"],
                "last_val_loss": losses[-1] if losses else None,
                "commit": run["machine"]["commit"],
                "history": {key: history[key] for key in ("step", "val_loss")},
            }
        )
    print("\n" + table(rows))
    if options.json:
        about = {"machine": machine(), "seed": options.seed, "targets": TARGETS}
        write(options.json, {**about, "variants": rows})


def run_variant(config, folder, make):
    """Runs to the last target but one, and if that is reached early on to the last.

    Returns:
        The last run, as `read_run` gives it; its history begins at the start.
    """
    run_seed(config, folder, make)
    run = read_run(folder)
    if run["stopped_by"] != "target" or run["history"]["step"][-1] >= LATE_STEPS:
        return run
    late = folder / "late"
    config = dataclasses.replace(config, steps=LATE_STEPS, target_loss=TARGETS[-1])
    open_folder(late, config)
    if not (late / CHECKPOINT_FILE).exists():
        copy_checkpoint(folder, late)
    run_seed(config, late, make)
    return read_run(late)


def table(rows):
    """By variant the steps to each target, and what the run ends with; a text."""
    titles = "".join(f"{f'to {target}':>10}" for target in TARGETS)
    lines = [f"{'steps':42}{titles}{'last loss':>12}  ended by"]
    for row in rows:
        steps = "".join(f"{number(x, ''):>10}" for x in row["steps"])
        loss = number(row["last_val_loss"], ".4f")
        lines.append(f"{row['variant']:42}{steps}{loss:>12}  {row['stopped_by']}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
