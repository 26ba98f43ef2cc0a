"""Quadratic splines on uniform grids: interpolation in NumPy, evaluation in graphs."""

import math

import numpy as np
import scipy.interpolate
import tensorflow as tf


def spline_sites(num_cells):
    """Where a quadratic spline on `[0, num_cells]` interpolates: the ends and the cells' centres.

    Args:
        num_cells: number of cells of length 1.

    Returns:
        float64 NumPy array `[num_cells + 2]`.

    >>> spline_sites(3).tolist()
    [0.0, 0.5, 1.5, 2.5, 3.0]
    """
    return np.concatenate([[0.0], np.arange(num_cells) + 0.5, [num_cells]])


class TensorSpline:
    r"""A tensor product of quadratic splines, evaluated by table look-up.

    In the cell $[i, i + 1)$ of one dimension, with $t = x - i$, the spline is

    $$f(x) = \tfrac12(1 - t)^2\,c_i + (\tfrac12 + t - t^2)\,c_{i+1} + \tfrac12t^2\,c_{i+2}.$$

    It is once continuously differentiable, and its error falls with the third power of the cells'
    length. Arguments out of the grid are moved to its edge.

    Args:
        values: float64 array of the function at `spline_sites` along each of its axes.
        stacked: whether the first axis of `values` is one of several functions.

    >>> x = spline_sites(4)
    >>> spline = TensorSpline(np.add.outer(x, x**2))
    >>> print(spline([1.2, 3.0], [2.7, 9.0]).numpy())
    [ 8.49 19.  ]
    """

    def __init__(self, values, stacked=False):
        self.num_cells = [length - 2 for length in values.shape[stacked:]]
        for axis, num_cells in enumerate(self.num_cells, start=int(stacked)):
            knots = np.arange(-2.0, num_cells + 3)
            spline = scipy.interpolate.make_interp_spline(
                spline_sites(num_cells), np.moveaxis(values, axis, 0), k=2, t=knots
            )
            values = np.moveaxis(spline.c, 0, axis)
        self._coefficients = values.astype(np.float32)

    def __call__(self, *arguments, function=0):
        """The spline's values.

        Args:
            *arguments: one float32 tensor for each axis, in cells, all of one shape.
            function: which of stacked functions, integers that broadcast with the arguments.

        Returns:
            float32 tensor of that shape.
        """
        table = tf.constant(self._coefficients.ravel())
        sizes = [num_cells + 2 for num_cells in self.num_cells]
        strides = [*np.cumprod(sizes[:0:-1])[::-1].tolist(), 1]
        index, weights = function * math.prod(sizes), []
        for x, num_cells, stride in zip(arguments, self.num_cells, strides, strict=True):
            x = tf.clip_by_value(x, 0.0, float(num_cells))
            cell = tf.minimum(tf.cast(x, tf.int32), num_cells - 1)
            t = x - tf.cast(cell, tf.float32)
            index += cell * stride
            last = 0.5 * t**2
            weights.append((0.5 - t + last, 0.5 + t - 2.0 * last, last))

        def contract(offset, remaining):
            if not remaining:
                return tf.gather(table, index + offset)
            axis = len(weights) - len(remaining)
            return sum(
                weight * contract(offset + i * strides[axis], remaining[1:])
                for i, weight in enumerate(remaining[0])
            )

        return contract(0, weights)
