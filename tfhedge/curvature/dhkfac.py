"""DH-KFAC: second-order optimization with Kronecker-factored curvature."""

import functools
import itertools

import keras
import tensorflow as tf

from tfhedge import checks
from tfhedge.curvature.kronecker import DiagonalBlock, KroneckerBlock


@keras.saving.register_keras_serializable("tfhedge")
class DHKFAC(keras.optimizers.Optimizer):
    r"""KFAC for Deep Hedging: Algorithm 1, with the step length from the exact quadratic model.

    Let g be the gradient of the loss and B the Gauss-Newton matrix J' H_u J of eq. (12). One step

    1. updates, for every layer, the Kronecker factors A and G of B from a sample of
       pseudo-gradients, their eigenbases, and the rescaled diagonal D (`KroneckerBlock`);
    2. preconditions the gradient in these eigenbases, v = \hat B^{-1} g, with shrinkage of D;
    3. looks for the next update in the plane of v and the previous update p,

           delta(alpha, mu) = -alpha v + mu p,
           M(delta) = g' delta + delta' B delta / 2,

       and takes the minimizer of M with 0 <= mu <= momentum, scaled by the learning rate to guard
       against the noise in g, and within the trust region delta' B delta <= rho_TR |loss|, whose
       size decays by a constant factor every step. It is there for gradients that a few extreme
       paths make.

    Only two directional derivatives of the network enter M (Martens and Grosse 2015, section 7).
    Algorithm 1 as printed takes its step length from \hat B (line 20) and a constant momentum (line
    22). But \hat B leaves out what couples the layers and is smaller than B along its own
    preconditioned gradient, so that those steps need a cap found by trial.

    A and G start at their first estimates, which the moving averages then take in as a plain mean
    until that has as many terms as the decay gives weight to; D does the same. Bases are renewed
    before D is (line 14 before line 12), so that D is never measured in a basis other than its own.

    Every expectation, that of A too, is over the paths of the sample, of which there may be many.

    A layer with a matrix, or a matrix and a bias, is a Kronecker block; any other variable is a
    diagonal block. A step whose update is not finite is not taken, and counted in
    `rejected_steps`.

    Args:
        learning_rate: Share of the minimizing step that is taken, in (0, 1], or a Keras schedule of
            it.
        momentum: Largest coefficient of the previous update.
        shrinkage: Shrinkage intensity rho of D, eq. (11).
        factor_decay: Decay beta^F of the averages of A and G.
        diagonal_decay: Decay beta^D of the average of D.
        factor_interval: Steps N^cov between updates of A, G and D.
        eigenbasis_interval: Steps N^evd between eigendecompositions.
        trust_region: Initial size rho_TR of the trust region, as a share of the loss.
        trust_region_decay: Its decay beta^TR in a step.
        num_curvature_paths: Number of paths in the sample of pseudo-gradients.
        num_quadratic_paths: Number of paths on which B is evaluated for the step length.
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

    def __init__(
        self,
        learning_rate=0.8,
        momentum=0.9,
        shrinkage=5e-4,
        factor_decay=0.95,
        diagonal_decay=0.95,
        factor_interval=1,
        eigenbasis_interval=5,
        trust_region=0.3,
        trust_region_decay=0.997,
        num_curvature_paths=32,
        num_quadratic_paths=128,
        seed=0,
        name="dh_kfac",
    ):
        if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            checks.in_range("learning_rate", learning_rate, 0.0, 1.0, closed="right")
        super().__init__(learning_rate=learning_rate, name=name)
        self.momentum = checks.in_range("momentum", momentum, 0.0, 1.0)
        self.shrinkage = checks.in_range("shrinkage", shrinkage, 0.0, 1.0, closed="right")
        self.factor_decay = checks.in_range("factor_decay", factor_decay, 0.0, 1.0)
        self.diagonal_decay = checks.in_range("diagonal_decay", diagonal_decay, 0.0, 1.0)
        self.factor_interval = checks.positive_integer("factor_interval", factor_interval)
        self.eigenbasis_interval = checks.positive_integer(
            "eigenbasis_interval", eigenbasis_interval
        )
        self.trust_region = checks.positive("trust_region", trust_region)
        self.trust_region_decay = checks.in_range(
            "trust_region_decay", trust_region_decay, 0.0, 1.0
        )
        self.num_curvature_paths = checks.positive_integer(
            "num_curvature_paths", num_curvature_paths
        )
        self.num_quadratic_paths = checks.positive_integer(
            "num_quadratic_paths", num_quadratic_paths
        )
        self.seed = seed

    def build(self, variables):
        """Creates the curvature blocks, one for each layer among the variables' paths."""
        if self.built:
            return
        super().build(variables)
        self.previous_update = self.add_optimizer_variables(variables, "previous_update")
        self.step_size = self.add_variable((), name="step_size")
        self.momentum_used = self.add_variable((), name="momentum_used")
        self.rejected_steps = self.add_variable((), name="rejected_steps")
        self.blocks = []
        for layer, group in itertools.groupby(variables, lambda v: v.path.rpartition("/")[0]):
            shapes = [tuple(variable.shape) for variable in group]
            add_variable = functools.partial(self._add_block_variable, layer)
            if [len(shape) for shape in shapes] in ([2], [2, 1]):
                block = KroneckerBlock(shapes[0], len(shapes) == 2, add_variable)
            elif [len(shape) for shape in shapes] == [1]:
                block = DiagonalBlock(shapes[0][0], add_variable)
            else:
                raise ValueError(
                    "Expected each layer to have a matrix, a matrix and a vector, or a vector. "
                    f"Received: {layer!r} with weights of shapes {shapes}"
                )
            self.blocks.append((len(shapes), block))

    def _add_block_variable(self, layer, shape, initializer, name):
        return self.add_variable(shape, initializer, name=f"{layer}_{name}".replace("/", "_"))

    def apply(self, grads, trainable_variables=None, curvature=None):
        """Takes one step.

        Args:
            grads: Gradients of the loss.
            trainable_variables: The variables they belong to.
            curvature: The curvature B of the batch, with two methods and an attribute.
                `sample(num_paths, seed)` returns, for each layer in the order of the variables, its
                inputs and pseudo-gradients, `[num_paths, num_steps, size]`.
                `gram(directions, num_paths)` returns the matrix of v_i' B v_j.
                `loss_scale` is the size of the loss, for the trust region.

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
        update = self._update(grads, curvature)
        super().apply(update, trainable_variables)
        for slot, step in zip(self.previous_update, update, strict=True):
            slot.assign(step)

    def update_step(self, gradient, variable, learning_rate):
        """Adds the update that `apply` passes in place of a gradient; it is scaled already."""
        self.assign_add(variable, gradient)

    def _update(self, gradients, curvature):
        """The update of each variable: lines 3 to 22, with the step length from M."""
        self._update_blocks(curvature)
        direction = self.precondition(gradients)
        previous = [slot.value for slot in self.previous_update]
        gram = curvature.gram([direction, previous], self.num_quadratic_paths)
        slopes = [_inner(gradients, direction), _inner(gradients, previous)]
        coefficients = minimize_in_plane(slopes, gram, self.momentum) * self.learning_rate

        decay = self.trust_region_decay ** tf.cast(self.iterations, tf.float32)
        radius = self.trust_region * decay * curvature.loss_scale
        curved = tf.einsum("i,ij,j->", coefficients, gram, coefficients)
        shortened = tf.sqrt(tf.math.divide_no_nan(radius, curved))
        coefficients *= tf.where(curved > 0.0, tf.minimum(1.0, shortened), 1.0)

        update = [
            coefficients[0] * v + coefficients[1] * p
            for v, p in zip(direction, previous, strict=True)
        ]
        finite = _all_finite(update)
        coefficients = tf.where(finite, coefficients, 0.0)
        self.step_size.assign(-coefficients[0])
        self.momentum_used.assign(coefficients[1])
        self.rejected_steps.assign_add(tf.where(finite, 0.0, 1.0))
        return [tf.where(finite, u, tf.zeros_like(u)) for u in update]

    def _update_blocks(self, curvature):
        """Lines 3 to 14."""
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(self.iterations, tf.int64)])
        past = tf.cast(self.iterations // self.factor_interval, tf.float32)
        plain_mean = past / (past + 1.0)
        factor_decay = tf.minimum(self.factor_decay, plain_mean)
        diagonal_decay = tf.minimum(self.diagonal_decay, plain_mean)

        def update():
            sample = curvature.sample(self.num_curvature_paths, seed)
            _when(_all_finite(tf.nest.flatten(sample)), lambda: take_in(sample))

        def take_in(sample):
            for (_, block), (a, g) in zip(self.blocks, sample, strict=True):
                block.update_factors(a, g, factor_decay)
            renew_eigenbases()
            for (_, block), (a, g) in zip(self.blocks, sample, strict=True):
                block.update_diagonal(a, g, diagonal_decay)

        def renew_eigenbases():
            _when(
                self.iterations % self.eigenbasis_interval == 0,
                lambda: [block.update_eigenbasis() for _, block in self.blocks],
            )

        _when(self.iterations % self.factor_interval == 0, update, otherwise=renew_eigenbases)

    def precondition(self, gradients):
        r"""Lines 16 to 19: \hat B^{-1} times the gradients."""
        gradients = iter(gradients)
        return [
            preconditioned
            for num_variables, block in self.blocks
            for preconditioned in block.precondition(
                list(itertools.islice(gradients, num_variables)), self.shrinkage
            )
        ]

    def get_config(self):
        """The arguments that make this optimizer again."""
        names = [
            *("momentum", "shrinkage", "factor_decay", "diagonal_decay", "factor_interval"),
            *("eigenbasis_interval", "trust_region", "trust_region_decay"),
            *("num_curvature_paths", "num_quadratic_paths", "seed"),
        ]
        inherited = super().get_config()
        return {
            **{name: inherited[name] for name in ("name", "learning_rate")},
            **{name: getattr(self, name) for name in names},
        }


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

    Example:
    >>> minimize_in_plane([1.0, -1.0], tf.constant([[2.0, 0.0], [0.0, 4.0]]), 0.9).numpy().tolist()
    [-0.5, 0.25]
    """
    (slope_v, slope_p), (b_vv, b_vp, b_pp) = slopes, (gram[0, 0], gram[0, 1], gram[1, 1])
    determinant = b_vv * b_pp - b_vp**2
    mu = tf.math.divide_no_nan(b_vp * slope_v - b_vv * slope_p, determinant)
    independent = determinant > 1e-6 * b_vv * b_pp
    mu = tf.where(independent, tf.clip_by_value(mu, 0.0, max_momentum), 0.0)
    alpha = tf.math.divide_no_nan(slope_v + mu * b_vp, b_vv)
    return tf.stack([-alpha, mu])


def _when(condition, act, otherwise=lambda: None):
    """Runs `act` where `condition` holds, else `otherwise`: functions with effects and no value."""
    tf.cond(condition, lambda: (act(), tf.no_op())[1:], lambda: (otherwise(), tf.no_op())[1:])


def _inner(left, right):
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(left, right, strict=True)])


def _all_finite(tensors):
    return tf.math.is_finite(tf.add_n([tf.reduce_sum(tf.abs(x)) for x in tensors]))
