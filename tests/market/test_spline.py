import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.market.spline import TensorSpline, spline_sites


def function(*x):
    return np.exp(-0.1 * x[0]) * np.cos(0.3 * sum(x[1:]))


@pytest.mark.parametrize("cells", [(40,), (30, 20), (20, 10, 12)])
def test_smooth_functions_are_interpolated(cells):
    sites = [spline_sites(n) * 10 / n for n in cells]
    spline = TensorSpline(function(*np.meshgrid(*sites, indexing="ij")))
    points = np.random.default_rng(0).uniform(0, 10, [len(cells), 1000])
    scaled = [tf.constant(x * n / 10, tf.float32) for x, n in zip(points, cells, strict=True)]
    # The third derivatives are below 0.03, and the cells up to 1 long.
    assert_allclose(spline(*scaled), function(*points), rtol=0, atol=1e-3)


def test_the_error_falls_with_the_third_power_of_the_cells():
    def error(num_cells):
        spline = TensorSpline(np.sin(spline_sites(num_cells) / num_cells))
        x = np.linspace(0, 1, 1001)
        return np.max(abs(spline(tf.constant(x * num_cells, tf.float32)) - np.sin(x)))

    assert 6.5 < error(4) / error(8) < 10.0


def test_arguments_out_of_the_grid_are_moved_to_its_edge():
    spline = TensorSpline(spline_sites(3) ** 2)
    assert_allclose(spline(tf.constant([-1.0, 0.0, 3.0, 1e9])), [0, 0, 9, 9], rtol=1e-6, atol=1e-6)


def test_stacked_functions_are_told_apart():
    x = spline_sites(4)
    spline = TensorSpline(np.stack([np.add.outer(x, x), np.multiply.outer(x, x)]), stacked=True)
    arguments = tf.constant([[1.0], [3.0]]), tf.constant([[2.0], [0.5]])
    values = spline(*arguments, function=np.array([0, 1], np.int32))
    assert_allclose(values, [[3.0, 2.0], [3.5, 1.5]], rtol=1e-6)
