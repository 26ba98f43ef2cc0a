"""Algorithm 1 as the paper prints it."""

import keras
import tensorflow as tf

from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer, Schedule, Step, inner


@keras.saving.register_keras_serializable("tfhedge")
class Algorithm1(KroneckerOptimizer):
    r"""KFAC for Deep Hedging, line by line; `DHKFAC` is what to use, this is what to compare with.

    Every N^cov steps (lines 3 to 12), for each layer,

        A <- beta^F A + (1 - beta^F) T^(-1/2) sum_t E_batch[a_t a_t'],
        G <- beta^F G + (1 - beta^F) T^(-1/2) sum_t g_t g_t',
        D <- beta^D D + (1 - beta^D) (Q_A' (sum_t a_t g_t') Q_G)^2,

    with the pseudo-gradients g_t of a single path; every N^evd steps (line 14) Q_A and Q_G become
    the eigenvectors of A and G; in every step (lines 15 to 23), for gradients V_l,

        V_l^pre = Q_A ( (Q_A' V_l Q_G) / ((1 - rho) D + rho mean(D)) ) Q_G',
        eta     = min( sqrt(rho_TR / sum_l <V_l^pre, V_l>), eta^max ),    rho_TR <- beta^TR rho_TR,
        V_l^avg <- beta^mom V_l^avg + V_l^pre,        W_l <- W_l - eta V_l^avg.

    What the paper leaves open is how it starts. The first A is that of the first batch, G and D
    those of a sample of many paths, in the eigenvectors of A and G; lines 4 to 12 of the first
    step follow, and the average of the gradients is zero. A start fades over a hundred steps, and
    that of few paths is mostly noise: from 64, some initial weights diverge within twenty steps
    at an eta^max that serves others. To each first D comes rho times the mean D of all layers:
    the last layer starts small, and with it the D of all layers before, which without that would
    change by more than their size unless eta^max is so small that the others hardly move.
    D is left as it is when the eigenbasis changes.

    The paper's numbers are the defaults; eta^max, which it does not print, is what the search of
    `tfhedge experiment optimizers` chose. In its three runs the loss falls for 680 to 860 steps,
    each of length eta^max, and then diverges.

    Lines 7 and 8 draw LZ without the Cholesky factor L: `Objective.pseudo_gradient` has the same
    covariance, at a fraction of the cost. A layer is what one bias belongs to, or would: the
    weights W^I and W^u of the paper are one matrix, and so are those of an LSTM. Where D is zero
    throughout it is taken as one.

    Layers, bad numbers and their damping: `KroneckerOptimizer`.

    Args:
        learning_rate: Largest step size eta^max, or a Keras schedule of it.
        momentum: Weight beta^mom of past gradients.
        shrinkage: Shrinkage intensity rho of D, eq. (11).
        factor_decay: Decay beta^F of the averages of A and G.
        diagonal_decay: Decay beta^D of the average of D.
        factor_interval: Steps N^cov between updates of A, G and D.
        eigenbasis_interval: Steps N^evd between eigendecompositions.
        trust_region: Initial size rho_TR of the trust region; or a Keras schedule of it, in place
            of the decay.
        trust_region_decay: Its decay beta^TR in a step.
        quadratic_cost_ratio: The ratio c~ / c of the quadratic costs in the curvature to those of
            the loss.
        num_curvature_paths: Number of paths in the sample of pseudo-gradients, the first of the
            batch, or all of them if it has fewer.
        num_initial_paths: Number of paths in the sample where G and D start, likewise; of a small
            batch they start from its paths, however noisy.
        seed: Seed of the pseudo-gradients.
        name: Name of the optimizer.

    Raises:
        ValueError: If an argument is out of its range.

    Reference: Mueller et al., Fast Deep Hedging with Second-Order Optimization, Algorithm 1.
    """

    def __init__(
        self,
        learning_rate=4e-3,
        momentum=0.92,
        shrinkage=5e-4,
        factor_decay=0.95,
        diagonal_decay=0.95,
        factor_interval=5,
        eigenbasis_interval=25,
        trust_region=1e-3,
        trust_region_decay=0.997,
        quadratic_cost_ratio=8.0,
        num_curvature_paths=1,
        num_initial_paths=1024,
        seed=0,
        name="algorithm_1",
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
            trust_region_decay=trust_region_decay,
            quadratic_cost_ratio=quadratic_cost_ratio,
            num_curvature_paths=num_curvature_paths,
            num_initial_paths=num_initial_paths,
            seed=seed,
        )

    def _update_blocks(self, curvature):
        """Lines 3 to 14, after the start."""
        started = tf.cond(self.num_samples == 0.0, lambda: self._start(curvature), lambda: True)
        taken = tf.cond(
            started & (self.iterations % self.factor_interval == 0),
            lambda: self._take_in(curvature),
            lambda: True,
        )
        return started & taken & self._renew_eigenbases(carry_diagonal=False)

    def _start(self, curvature):
        """The first A, G and D, with D in the eigenbases of A and G."""
        taken = []
        for block, moment, a, g in self._layers(curvature, self.num_initial_paths):
            taken.append(block.update_factors_by_step(moment, g, 0.0))
            taken.append(block.update_eigenbasis(carry_diagonal=False))
            taken.append(block.update_diagonal(a, g, 0.0))
        added = self.shrinkage * self.mean_eigenvalue()
        for block in self.blocks:
            block.diagonal.assign(block.diagonal + added)
        return self._count(tf.reduce_all(taken))

    def _take_in(self, curvature):
        """Lines 4 to 12."""
        taken = []
        for block, moment, a, g in self._layers(curvature, self.num_curvature_paths):
            taken.append(block.update_factors_by_step(moment, g, self.factor_decay))
            taken.append(block.update_diagonal(a, g, self.diagonal_decay))
        return tf.reduce_all(taken)

    def _layers(self, curvature, num_paths):
        """Of each layer its block, the moment of its inputs over the batch, and a sample."""
        moments, sample = curvature.input_moments(), self._sample(curvature, num_paths)
        for block, moment, (a, g) in zip(self.blocks, moments, sample, strict=True):
            yield block, moment, a, g

    def trust_region_now(self):
        """The size rho_TR of the trust region in the step to come, line 21."""
        size = super().trust_region_now()
        if isinstance(self.trust_region, Schedule):
            return size
        decay = tf.constant(self.trust_region_decay, size.dtype)
        return size * decay ** tf.cast(self.iterations, size.dtype)

    def _update(self, gradients, curvature):
        """Lines 15 to 23."""
        direction = self.precondition(gradients)
        radius = self.trust_region_now()
        length = tf.sqrt(radius / inner(direction, gradients))  # infinite at a stationary point
        eta = tf.minimum(length, tf.cast(self.learning_rate, length.dtype))
        average = [
            self.momentum * slot + v for slot, v in zip(self.momentums, direction, strict=True)
        ]
        return Step([-eta * v for v in average], average, eta)
