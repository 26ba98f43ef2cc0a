"""DH-KFAC: second-order optimization with Kronecker-factored curvature."""

import keras
import numpy as np
import tensorflow as tf

from tfhedge.curvature.algorithm1 import Algorithm1
from tfhedge.curvature.kronecker_optimizer import (
    LESS_DAMPING,
    KroneckerOptimizer,
    Step,
    fraction,
    inner,
)

# Decay per step of the damping that layers share.
_FADING = 0.9
# An update is halved while the change of the loss exceeds that of M by more than a share of the
# terms of M and a share of the risk, for rounding; below the least length no step is taken.
_TOLERANCE, _ROUNDING, _LEAST_LENGTH = 0.25, 1e-5, 2.0**-20
# Decay of the average of the signal.
_SIGNAL_DECAY = 0.9
# A risk of so many times the usual one has the last step examined; a risk of so many times that of
# the weights before has it taken back.
_UNUSUAL, _HARMFUL, _USUAL_DECAY = 1.5, 1.25, 0.9


@keras.saving.register_keras_serializable("tfhedge")
class DHKFAC(KroneckerOptimizer):
    r"""KFAC for Deep Hedging, with the step length from the exact quadratic model.

    Let g be the gradient of the loss and B the Gauss-Newton matrix J' H_u J of eq. (12). One step

    1. updates, for every layer, the Kronecker factors A and G of B from the pseudo-gradients DW of
       a sample of paths, their eigenbases, and the rescaled diagonal D (`KroneckerBlock`);
    2. preconditions the gradient in these eigenbases, v = \hat B^{-1} g, with D damped;
    3. goes on along the previous update p, and from there along v,

           delta = mu p - alpha v,
           M(delta) = g' delta + delta' B delta / 2,

       with constant momentum mu and a share, the learning rate, of the alpha >= 0 that minimizes
       M(delta), were the slope along v only s g'v, with the signal s. Where that goes uphill,
       g' delta > 0, the momentum is dropped (the restart of O'Donoghue and Candes 2015). The update
       is scaled into the trust region delta' B delta <= rho_TR s^2 risk, where the risk is the loss
       of the P&L about its mean, and to a slope -g' delta <= 2 s^2 risk, beyond which a minimum of
       M would be below a risk of zero;
    4. compares the change of the loss with that of M, on the same paths, and halves the update
       while it is wrong.

    Only two directional derivatives of the network enter M (Martens and Grosse 2015, section 7),
    and step 4 is one forward pass, both of the same few paths. Costs c |u| are in B as parabolas
    that touch them where the trades are (`majorizing_costs`), and the objective's threshold follows
    the trades in M (`Objective.curvature_gram`).

    **Signal.** The gradient g of a batch is used twice, for v and for its slope along v, and so
    promises more than the loss of other paths keeps. The gradients g_1 and g_2 of two halves of the
    batch are independent of each other. So the slope that one half has along the direction of the
    other is that of other paths, and its share is estimated by

        s = max(0, average of 4 g_1' \hat B^{-1} g_2 / (g_1 + g_2)' \hat B^{-1} (g_1 + g_2)).

    It starts near 1 and falls as the noise comes to dominate the gradient; no decay of the learning
    rate or of the trust region is needed. The average has a decay of 0.9.

    **Check.** Let L be the loss of the paths of M, let g in M be their own gradient, and let the
    costs in M be the true costs of the linearized trades, with their kinks. The update is
    taken to the length c, the first of 1, 1/2, 1/4, ..., 2^-20 at which L agrees with M,

        L(c delta) - L(0) - M(c delta) <= (c^2 delta' B delta / 2 + c |mu g'p| + c |alpha g'v|) / 4.

    Where there is none, as the loss is no number at any length, the step is rejected.

    **Damping.** D is shrunk as in eq. (11), with the intensity rho times a damping that starts at
    100, falls by a factor of 0.9 in each step, to 1, and is divided by the square root of c where
    an update had to be halved (Levenberg and Marquardt). Directions with hardly any curvature are
    where steps leave the range in which the policy is nearly linear, and where weights grow by
    the noise of the gradient alone.

    At the start, when the last layer is small, so are the gradients with respect to all layers
    before it, and their curvature, by the square: the first steps would change these layers most,
    on the word of a quadratic model that holds for small changes. So the target of the shrinkage is
    here, in step i from 0 on,

        mean(D) + 0.9^i mean(D of all layers),

    of which the second holds the inner layers back until the last one has grown.

    **Taking back.** Where the loss of a batch is not finite, or its risk is 1.5 times the usual
    risk and 1.25 times the risk of the same batch before the last step, the last step is taken
    back, the momentum is dropped and the damping raised. `rejected_steps` counts this step, too.

    Algorithm 1 as printed, which is `DHKFAC.paper()`, takes its step length from \hat B (line 20)
    and a constant momentum (line 22). But \hat B leaves out what couples the layers and is smaller
    than B along its own preconditioned gradient, so that those steps need a cap found by trial.

    A and G start at their first estimates, which the moving averages then take in as a plain mean
    until that has as many terms as the decay gives weight to; D does the same. Bases are renewed
    before D is (line 14 before line 12), so that D is never measured in a basis other than its own.
    A and G hold the inner products of the rows and of the columns of DW, and so know that a
    policy's trades add up over time, where eq. (8) takes each time step by itself.

    Layers, bad numbers and their damping: `KroneckerOptimizer`.

    Args:
        learning_rate: Share of the minimizing alpha that is taken, in [0, 1]; or a Keras schedule
            of it.
        momentum: Coefficient mu of the previous update, unless that goes uphill.
        shrinkage: Least shrinkage intensity rho of D.
        factor_decay: Decay beta^F of the averages of A and G.
        diagonal_decay: Decay beta^D of the average of D.
        factor_interval: Steps N^cov between updates of A, G and D.
        eigenbasis_interval: Steps N^evd between eigendecompositions.
        trust_region: Size rho_TR of the trust region, as a share of the risk; or a Keras schedule
            of it.
        num_curvature_paths: Number of paths in the sample of pseudo-gradients, or all of the batch
            if it has fewer.
        num_quadratic_paths: Number of paths on which B and the loss are evaluated for the step
            length, likewise.
        seed: Seed of the pseudo-gradients.
        name: Name of the optimizer.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
    >>> DHKFAC(shrinkage=1.5)
    Traceback (most recent call last):
    ValueError: Expected `shrinkage` to be a number in (0.0, 1.0]. Received: shrinkage=1.5

    Reference: Mueller et al., Fast Deep Hedging with Second-Order Optimization, Algorithm 1.
    """

    _check_learning_rate = staticmethod(fraction)
    _first_damping = 100.0
    needs_half_gradients = True

    def __init__(
        self,
        learning_rate=1.0,
        momentum=0.9,
        shrinkage=1e-4,
        factor_decay=0.95,
        diagonal_decay=0.95,
        factor_interval=1,
        eigenbasis_interval=5,
        trust_region=0.3,
        num_curvature_paths=32,
        num_quadratic_paths=128,
        seed=0,
        name="dh_kfac",
    ):
        super().__init__(
            learning_rate,
            name,
            momentum=momentum,
            shrinkage=shrinkage,
            factor_decay=factor_decay,
            diagonal_decay=diagonal_decay,
            factor_interval=factor_interval,
            eigenbasis_interval=eigenbasis_interval,
            trust_region=trust_region,
            num_curvature_paths=num_curvature_paths,
            num_quadratic_paths=num_quadratic_paths,
            seed=seed,
        )

    @classmethod
    def paper(cls, **arguments):
        """The algorithm as the paper prints it, with its numbers; how it starts is our choice.

        Args:
            **arguments: Those of `Algorithm1`, which this returns.
        """
        return Algorithm1(**arguments)

    def build(self, variables):
        """Creates the state: that of the blocks, the average of the signal, and the usual risk."""
        if self.built:
            return
        super().build(variables)
        self.signal = self.add_variable((), "zeros", variables[0].dtype, name="signal")
        self.usual_risk = self.add_variable((), "zeros", variables[0].dtype, name="usual_risk")

    def _step(self, gradients, curvature):
        """A step forward, or back where the last one did harm."""
        tf.cond(
            self._did_harm(curvature),
            self._take_back,
            lambda: self._go_on(gradients, curvature),
        )

    def _did_harm(self, curvature):
        """Whether the loss is no number, or the batch was better off before the last step."""
        risk, usual = curvature.risk, self.usual_risk.value

        def better_before():
            before = curvature.risk_after([-slot.value for slot in self.momentums])
            return tf.math.is_finite(before) & (risk > _HARMFUL * before)

        unusual = (usual > 0.0) & (risk > _UNUSUAL * usual)
        harm = tf.cond(unusual, better_before, lambda: tf.constant(False))
        return harm | ~tf.math.is_finite(risk)

    def _take_back(self):
        back = [-slot.value for slot in self.momentums]
        self._finish(back, [tf.zeros_like(x) for x in back], False)
        return tf.constant(False)

    def _go_on(self, gradients, curvature):
        risk, usual = curvature.risk, self.usual_risk.value
        average = _USUAL_DECAY * usual + (1.0 - _USUAL_DECAY) * risk
        self.usual_risk.assign(tf.where(usual > 0.0, average, risk))
        super()._step(gradients, curvature)
        return tf.constant(True)

    def _update_blocks(self, curvature):
        """Lines 3 to 14, with the bases renewed before D is measured."""
        # A plain mean, until it has as many terms as the decay gives weight to.
        plain_mean = self.num_samples / (self.num_samples + 1.0)
        factor_decay = tf.minimum(plain_mean, self.factor_decay)
        diagonal_decay = tf.minimum(plain_mean, self.diagonal_decay)

        def renew_eigenbases():
            return self._renew_eigenbases(carry_diagonal=True)

        def take_in_sample():
            sample = self._sample(curvature, self.num_curvature_paths)
            pairs = list(zip(self.blocks, sample, strict=True))
            taken = [self._update_factors(block, a, g, factor_decay) for block, (a, g) in pairs]
            taken.append(renew_eigenbases())
            taken += [block.update_diagonal(a, g, diagonal_decay) for block, (a, g) in pairs]
            return self._count(tf.reduce_all(taken))

        return tf.cond(
            self.iterations % self.factor_interval == 0, take_in_sample, renew_eigenbases
        )

    def _update_factors(self, block, a, g, decay):
        """Lines 5 and 11, from the pseudo-gradients of whole paths."""
        return block.update_factors_by_path(a, g, decay)

    def shrinkage_target(self, block):
        """The mean of the block's D, and at first that of the D of all layers."""
        overall = self.mean_eigenvalue()
        faded = tf.constant(_FADING, overall.dtype) ** tf.cast(self.iterations, overall.dtype)
        return super().shrinkage_target(block) + faded * overall

    def _update(self, gradients, curvature):
        """Lines 15 to 22, with the step length from M, as far as M agrees with the loss."""
        direction = self.precondition(gradients)
        previous = [slot.value for slot in self.momentums]
        own_slopes, gram, kink = curvature.quadratic(
            [direction, previous], self.num_quadratic_paths
        )
        slopes = tf.stack([inner(gradients, direction), inner(gradients, previous)])
        signal = self._signal(curvature.half_gradients)
        slopes *= tf.stack([signal, 1.0])
        coefficients = self._coefficients(slopes, gram)
        # Where alpha v and mu p cancel, rounding may leave it negative.
        curved = tf.nn.relu(tf.einsum("i,ij,j->", coefficients, gram, coefficients))
        radius = self.trust_region_now() * signal**2 * curvature.risk
        within = tf.where(curved > radius, tf.sqrt(radius / curved), 1.0)
        fall, largest = -tf.reduce_sum(coefficients * slopes), 2.0 * signal**2 * curvature.risk
        within = tf.where(within * fall > largest, largest / fall, within)
        coefficients *= within
        curved *= within**2
        update = [
            coefficients[0] * v + coefficients[1] * p
            for v, p in zip(direction, previous, strict=True)
        ]
        slope = tf.tensordot(coefficients, own_slopes, 1)
        sizes = tf.reduce_sum(tf.abs(coefficients * slopes))

        def model(length):
            return length * slope + 0.5 * length**2 * curved + kink(length * coefficients)

        length = self._agreed_length(curvature, update, model, sizes, curved)
        # NaN where there is none, so that the step is rejected.
        update = [length * x for x in update]
        damping = tf.where(length < 1.0, tf.math.rsqrt(length), LESS_DAMPING)
        return Step(update, update, -length * coefficients[0], damping)

    def _signal(self, halves):
        """The share of the slope g'v that other paths have, too.

        Args:
            halves: g_1 and g_2, or None if they are not known.

        Returns:
            The average over the steps so far, at least 0; or 1.
        """
        if halves is None:
            return tf.ones_like(self.signal.value)
        total = [x + y for x, y in zip(*halves, strict=True)]
        common = 4.0 * inner(halves[0], self.precondition(halves[1]))
        share = common / inner(total, self.precondition(total))
        # Not known where the objective gives a half no weight, as of a single path.
        share = tf.where(tf.math.is_finite(share), share, 1.0)
        past = tf.cast(self.iterations, share.dtype)
        decay = tf.minimum(past / (past + 1.0), _SIGNAL_DECAY)  # a plain mean at first
        self.signal.assign(decay * self.signal.value + (1.0 - decay) * share)
        return tf.nn.relu(self.signal.value)

    def _agreed_length(self, curvature, update, model, sizes, curved):
        """Halves the length of an update until the loss changes as M says, or is NaN.

        Args:
            curvature: The curvature of the batch.
            update: The update of length 1.
            model: From a length to the change of the loss on the paths of M, were the policy
                linear.
            sizes: |mu g'p| + |alpha g'v| of the batch.
            curved: delta' B delta.

        Returns:
            The length, 1 or less, or NaN if there is none.
        """

        def is_wrong(length):
            change = curvature.change([length * x for x in update], self.num_quadratic_paths)
            error = change - model(length)
            bound = _TOLERANCE * (0.5 * length**2 * curved + length * sizes)
            # Not "not <=": Grappler makes ">" of that, which NaN passes.
            return (error > bound + _ROUNDING * curvature.risk) | ~tf.math.is_finite(error)

        (length,) = tf.while_loop(
            lambda length: (length >= _LEAST_LENGTH) & is_wrong(length),
            lambda length: [0.5 * length],
            [tf.ones_like(curved)],
        )
        return tf.where(length >= _LEAST_LENGTH, length, np.nan)

    def _coefficients(self, slopes, gram):
        """Those of v and p in the update, before the trust region."""
        coefficients = self._with_momentum(self.momentum, slopes, gram)
        uphill = tf.tensordot(coefficients, slopes, 1) > 0.0
        return tf.where(uphill, self._with_momentum(0.0, slopes, gram), coefficients)

    def _with_momentum(self, mu, slopes, gram):
        """The same with momentum mu, and the share of the alpha >= 0 that minimizes M given it."""
        minimizer = tf.math.divide_no_nan(slopes[0] + mu * gram[0, 1], gram[0, 0])
        share = tf.cast(self.learning_rate, gram.dtype)
        return tf.stack([-share * tf.nn.relu(minimizer), tf.constant(mu, gram.dtype)])
