"""DH-KFAC: second-order optimization with Kronecker-factored curvature."""

import keras
import tensorflow as tf

from tfhedge.curvature.algorithm1 import Algorithm1
from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer, fraction, inner

# By what the part of all layers in the damping of each falls in a step.
_FADING = 0.9


@keras.saving.register_keras_serializable("tfhedge")
class DHKFAC(KroneckerOptimizer):
    r"""KFAC for Deep Hedging, with the step length from the exact quadratic model.

    Let g be the gradient of the loss and B the Gauss-Newton matrix J' H_u J of eq. (12). One step

    1. updates, for every layer, the Kronecker factors A and G of B from the pseudo-gradients DW of
       a sample of paths, their eigenbases, and the rescaled diagonal D (`KroneckerBlock`);
    2. preconditions the gradient in these eigenbases, v = \hat B^{-1} g, with D shrunk,
       at first towards more than its own mean;
    3. goes on along the previous update p, and from there along v,

           delta = mu p - alpha v,
           M(delta) = g' delta + delta' B delta / 2,

       with constant momentum mu and a share, the learning rate, of the alpha >= 0 that minimizes
       M(delta). Where that goes uphill, g' delta > 0, the momentum is dropped (the restart of
       O'Donoghue and Candes 2015), without which noisy gradients of small batches build up. The
       update is scaled into the trust region delta' B delta <= rho_TR |loss|, which stops a p that
       has become steep on a few paths. Learning rate and trust region decay by a constant factor
       every step, as the noise in g outgrows the gradient. The radius goes with the loss: where
       that passes through zero, as an entropic risk may, no step is taken.

    Only two directional derivatives of the network enter M (Martens and Grosse 2015, section 7).
    They also minimize M over alpha and mu, and what follows are conjugate gradients, as long as g
    is exact. But p was chosen by other batches, and what the gradient of one more batch says of it
    is mostly noise: to a loss of 0.05 that takes 195 steps in place of 90
    (`benchmarks/ablation.py`, "momentum that minimizes M").

    Algorithm 1 as printed, which is `DHKFAC.paper()`, takes its step length from \hat B (line 20)
    and a constant momentum (line 22). But \hat B leaves out what couples the layers and is smaller
    than B along its own preconditioned gradient, so that those steps need a cap found by trial.

    A and G start at their first estimates, which the moving averages then take in as a plain mean
    until that has as many terms as the decay gives weight to; D does the same. Bases are renewed
    before D is (line 14 before line 12), so that D is never measured in a basis other than its own.

    Algorithm 1 shrinks the D of a layer towards its own mean, eq. (11). At the start, when the last
    layer is small, so are the gradients by all layers before it, and their curvature, by the
    square: the first steps would change these layers most, on the word of a quadratic model that
    holds for small changes. So the target is here, in step i from 0 on,

        mean(D) + 0.9^i mean(D of all layers),

    of which the second holds the inner layers back until the last one has grown. In one run each
    it takes 115 steps with eq. (11) in place of 90 to that loss, and 200 are too few where the
    second term stays.

    A and G hold the inner products of the rows and of the columns of DW, and so know that a
    policy's trades add up over time, where eq. (8) takes each time step by itself.

    Layers, bad numbers and their damping: `KroneckerOptimizer`.

    Args:
        learning_rate: Initial share of the minimizing alpha that is taken, in [0, 1]; or a Keras
            schedule of it, in place of the decay.
        learning_rate_decay: Its decay in a step.
        momentum: Coefficient mu of the previous update, unless that goes uphill.
        shrinkage: Shrinkage intensity rho of D.
        factor_decay: Decay beta^F of the averages of A and G.
        diagonal_decay: Decay beta^D of the average of D.
        factor_interval: Steps N^cov between updates of A, G and D.
        eigenbasis_interval: Steps N^evd between eigendecompositions.
        trust_region: Initial size rho_TR of the trust region, as a share of the loss; or a Keras
            schedule of it, in place of the decay.
        trust_region_decay: Its decay beta^TR in a step.
        quadratic_cost_ratio: The ratio c~ / c of the quadratic costs in the curvature to those of
            the loss. The quadratic that touches c|u| at u = s from above has c / (2 s), so that 100
            is right for trades of 0.005; the paper's 8 is for trades of 0.06.
        num_curvature_paths: Number of paths in the sample of pseudo-gradients, the first of the
            batch, or all of them if it has fewer.
        num_quadratic_paths: Number of paths on which B is evaluated for the step length, likewise.
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

    def __init__(
        self,
        learning_rate=1.0,
        learning_rate_decay=0.997,
        momentum=0.9,
        shrinkage=1e-4,
        factor_decay=0.95,
        diagonal_decay=0.95,
        factor_interval=1,
        eigenbasis_interval=5,
        trust_region=0.3,
        trust_region_decay=0.985,
        quadratic_cost_ratio=100.0,
        num_curvature_paths=32,
        num_quadratic_paths=128,
        seed=0,
        name="dh_kfac",
    ):
        super().__init__(
            learning_rate,
            name,
            learning_rate_decay=learning_rate_decay,
            momentum=momentum,
            shrinkage=shrinkage,
            factor_decay=factor_decay,
            diagonal_decay=diagonal_decay,
            factor_interval=factor_interval,
            eigenbasis_interval=eigenbasis_interval,
            trust_region=trust_region,
            trust_region_decay=trust_region_decay,
            quadratic_cost_ratio=quadratic_cost_ratio,
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

    def share_now(self):
        """The share of the minimizing alpha that is taken in the step to come."""
        share = tf.cast(self.learning_rate, self.damping.dtype)
        return share if self._has_schedule else self._decayed(share, self.learning_rate_decay)

    def _update(self, gradients, curvature):
        """Lines 15 to 22, with the step length from M."""
        direction = self.precondition(gradients)
        previous = [slot.value for slot in self.momentums]
        gram = curvature.gram([direction, previous], self.num_quadratic_paths)
        slopes = tf.stack([inner(gradients, direction), inner(gradients, previous)])
        coefficients = self._coefficients(slopes, gram)
        curved = tf.einsum("i,ij,j->", coefficients, gram, coefficients)
        curved = tf.nn.relu(curved)  # where alpha v and mu p cancel, rounding may leave it negative
        radius = self.trust_region_now() * curvature.loss_scale
        coefficients *= tf.minimum(tf.sqrt(radius / curved), 1.0)
        update = [
            coefficients[0] * v + coefficients[1] * p
            for v, p in zip(direction, previous, strict=True)
        ]
        return update, update, -coefficients[0]

    def _coefficients(self, slopes, gram):
        """Those of v and p in the update, before the trust region."""
        coefficients = self._with_momentum(self.momentum, slopes, gram)
        uphill = tf.tensordot(coefficients, slopes, 1) > 0.0
        return tf.where(uphill, self._with_momentum(0.0, slopes, gram), coefficients)

    def _with_momentum(self, mu, slopes, gram):
        """The same with momentum mu, and the share of the alpha >= 0 that minimizes M given it."""
        minimizer = tf.math.divide_no_nan(slopes[0] + mu * gram[0, 1], gram[0, 0])
        return tf.stack([-self.share_now() * tf.nn.relu(minimizer), tf.constant(mu, gram.dtype)])
