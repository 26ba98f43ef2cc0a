"""Nonlinear least squares inside a box, from many starts at once, in float64."""

import math
import typing

import tensorflow as tf

_FIRST_DAMPING = 1e-2
# The damping changes by this factor at most in a step.
_LARGEST_CHANGE = 5.0
# Where a step lowers the cost by less, relatively, it is as low as it gets.
_SMALL_DECREASE = 1e-9


class Minima(typing.NamedTuple):
    """Where `levenberg_marquardt` came to rest.

    Attributes:
        x: float64 tensor `[num_starts, num_parameters]`.
        residuals: the residuals there, `[num_starts, num_residuals]`.
        cost: sum of their squares, `[num_starts]`; infinite where they are not finite.
        at_rest: whether the search ended before its steps did, `[num_starts]`.
        num_steps: steps tried.
    """

    x: tf.Tensor
    residuals: tf.Tensor
    cost: tf.Tensor
    at_rest: tf.Tensor
    num_steps: tf.Tensor


def levenberg_marquardt(
    residuals, num_residuals, start, low, high, *, max_steps=100, step_tolerance=1e-9
):
    r"""Minimizes $\|r(x)\|^2$ over a box, from every start at once.

    With $J$ the Jacobian of the residuals, $H = J^\top J$ and $D = \mathrm{diag}(H)$, a step is

    $$\delta = -(H + \lambda D)^{-1} J^\top r,$$

    restricted to the parameters that are free: not at a bound with the gradient pointing out of
    the box. It is cut to length 1 in every parameter, and $x + \delta$ is projected on the box. If
    that lowers the cost it is taken. The damping is multiplied by $1 - (2g - 1)^3$, within
    $[\frac15, 5]$, where $g$ is the decrease of the cost over that expected of the linearized
    residuals. A start comes to rest when its step is shorter than the tolerance, or the cost
    falls by less than 1e-9 of itself.

    TensorFlow Probability's `bfgs_minimize` and `lbfgs_minimize` minimize sums of squares too, and
    find the same minima; but they have to learn the curvature that $J$ tells at once. On the search
    of `calibrate`, from the same starts, they take 5 to 20 times as long:
    `benchmarks/calibration_optimizers.py` compares them.

    Args:
        residuals: function from `[num_starts, num_parameters]` to the residuals
            `[num_starts, num_residuals]` and their Jacobian
            `[num_starts, num_residuals, num_parameters]`.
        num_residuals: how many these are.
        start: float64 tensor `[num_starts, num_parameters]`, in the box.
        low: float64 tensor `[num_parameters]`, lower bounds.
        high: float64 tensor `[num_parameters]`, upper bounds.
        max_steps: largest number of steps.
        step_tolerance: a start is at rest when no parameter moves farther than this.

    Returns:
        `Minima`.

    References:
        - Marquardt, An algorithm for least-squares estimation of nonlinear parameters (1963).
        - Nielsen, Damping parameter in Marquardt's method (1999), eq. 2.5.
        - Kanzow, Yamashita and Fukushima, Levenberg-Marquardt methods with strong local convergence
          properties for solving nonlinear equations with convex constraints (2004), for the box.

    The root of 2, and the nearest to it that is allowed:

    >>> def residuals(x):
    ...     return x**2 - 2.0, 2.0 * x[..., tf.newaxis]
    >>> start = tf.constant([[1.0], [5.0]], tf.float64)
    >>> levenberg_marquardt(residuals, 1, start, [0.0], [9.0]).x.numpy().round(6).tolist()
    [[1.414214], [1.414214]]
    >>> levenberg_marquardt(residuals, 1, start, [1.0], [1.2]).x.numpy().round(6).tolist()
    [[1.2], [1.2]]
    """
    low, high = (tf.convert_to_tensor(x, tf.float64) for x in (low, high))
    start = tf.clip_by_value(start, low, high)

    def evaluate(x):
        r, jacobian = residuals(x)
        r = tf.ensure_shape(r, [start.shape[0], None])
        jacobian = tf.ensure_shape(jacobian, [start.shape[0], None, start.shape[1]])
        cost = tf.reduce_sum(r**2, axis=-1)
        usable = tf.math.is_finite(cost + tf.reduce_sum(jacobian, axis=[-2, -1]))
        cost = tf.where(usable, cost, math.inf * tf.ones_like(cost))
        # Where a residual is not finite, no derivative is either: the step is then zero.
        jacobian = tf.where(usable[:, None, None], jacobian, tf.zeros_like(jacobian))
        r = tf.where(usable[:, None], r, tf.zeros_like(r))
        gradient = tf.einsum("sij,si->sj", jacobian, r)
        return x, r, cost, gradient, tf.matmul(jacobian, jacobian, transpose_a=True)

    def free_of(x, gradient):
        outward = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
        return tf.cast(~outward, x.dtype)

    def step(count, point, damping, moving):
        x, _, cost, gradient, hessian = point
        free = free_of(x, gradient)
        diagonal = tf.linalg.diag_part(hessian)
        scale = free * tf.math.rsqrt(tf.where(diagonal > 0, diagonal, tf.ones_like(diagonal)))
        # In these units the free diagonal is 1; a parameter that is held, or has no effect, stays.
        matrix = tf.linalg.set_diag(
            hessian * scale[:, :, None] * scale[:, None, :], tf.ones_like(x) + damping[:, None]
        )
        delta = -scale * tf.linalg.solve(matrix, (scale * gradient)[..., None])[..., 0]
        delta = tf.clip_by_value(delta, -1.0, 1.0)
        trial = evaluate(tf.clip_by_value(x + delta, low, high))
        moved, decrease = trial[0] - x, cost - trial[2]
        better = moving & (decrease > 0)

        def chosen(new, old):
            return tf.where(tf.reshape(better, [-1] + [1] * (len(new.shape) - 1)), new, old)

        expected = -tf.einsum("si,si->s", moved, 2.0 * gradient + tf.linalg.matvec(hessian, moved))
        gain = decrease / tf.maximum(expected, 1e-300)
        damping *= tf.clip_by_value(
            1.0 - (2.0 * gain - 1.0) ** 3, 1.0 / _LARGEST_CHANGE, _LARGEST_CHANGE
        )
        at_rest = tf.reduce_max(tf.abs(moved), axis=-1) < step_tolerance
        at_rest |= better & (decrease < _SMALL_DECREASE * cost)
        at_rest &= tf.math.is_finite(cost)  # not so before the first step
        at_rest |= tf.math.is_inf(trial[2]) & tf.math.is_inf(cost)
        point = tuple(map(chosen, trial, point))
        return count + 1, point, damping, moving & ~at_rest

    # From an infinite cost with no derivatives the first step goes nowhere, and evaluates the
    # start: the residuals then stand once in the graph.
    num_starts, num_parameters = tf.unstack(tf.shape(start))
    point = (
        start,
        tf.zeros([num_starts, num_residuals], start.dtype),
        math.inf * tf.ones_like(start[:, 0]),
        tf.zeros_like(start),
        tf.zeros([num_starts, num_parameters, num_parameters], start.dtype),
    )
    count, point, _, moving = tf.while_loop(
        lambda count, point, damping, moving: tf.reduce_any(moving),
        step,
        (
            tf.constant(-1),
            point,
            (_FIRST_DAMPING * _LARGEST_CHANGE) * tf.ones_like(point[2]),
            tf.ones_like(point[2], tf.bool),
        ),
        maximum_iterations=max_steps + 1,
    )
    return Minima(*point[:3], ~moving, count)
