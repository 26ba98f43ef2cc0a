import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.numerics import (
    bisect,
    chebyshev_basis,
    chebyshev_coefficients,
    chebyshev_points,
    chebyshev_sum,
    complex_log1p,
    symexp,
)

# The non-zero ones away from 0 by amounts that exp(|x|) - 1 would round off, and up to overflow.
ARGUMENTS = [-88.0, -1.0, -1e-9, -0.0, 0.0, 1e-30, 1e-9, 0.5, 88.0]


@pytest.mark.parametrize(("dtype", "rtol"), [(tf.float32, 1e-6), (tf.float64, 1e-14)])
def test_symexp_and_its_derivatives(dtype, rtol):
    x = tf.constant(ARGUMENTS, dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = symexp(x)
        slope = inner.gradient(y, x)
    curvature = outer.gradient(slope, x)

    exact = x.numpy().astype(np.float64)
    assert y.dtype == dtype
    assert_allclose(y, np.sign(exact) * np.expm1(np.abs(exact)), rtol=rtol)
    assert_allclose(slope, np.exp(np.abs(exact)), rtol=rtol)
    away = exact != 0
    assert_allclose(curvature[away], (np.sign(exact) * np.exp(np.abs(exact)))[away], rtol=rtol)


def test_symexp_inverts_the_symmetric_logarithm():
    x = np.linspace(-20, 20, 81)
    assert_allclose(symexp(np.sign(x) * np.log1p(np.abs(x))), x, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("degree", [1, 2, 7, 40])
def test_chebyshev_basis_is_that_of_scipy(degree):
    x = np.linspace(-1, 1, 101)
    basis = chebyshev_basis(tf.constant(x), degree)
    assert len(basis) == degree + 1
    for k, values in enumerate(basis):
        assert_allclose(values, scipy.special.eval_chebyt(k, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 7, 40])
def test_chebyshev_sum_is_that_of_numpy(degree):
    x = np.linspace(-1, 1, 101)
    coefficients = np.random.default_rng(0).normal(size=degree + 1)
    expected = np.polynomial.chebyshev.chebval(x, coefficients)
    assert_allclose(chebyshev_sum(list(coefficients), tf.constant(x)), expected, rtol=0, atol=1e-12)


def test_chebyshev_coefficients_are_those_of_numpy():
    def function(x):
        return np.exp(x) / (2.0 + x)

    expected = np.polynomial.chebyshev.chebinterpolate(function, 24)
    values = function(chebyshev_points(25))
    assert_allclose(chebyshev_coefficients(values), expected, rtol=0, atol=1e-14)
    columns = chebyshev_coefficients(np.stack([values, 2.0 * values], axis=1))
    assert_allclose(columns, np.stack([expected, 2.0 * expected], axis=1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("modulus", [1e-200, 1e-12, 1e-6, 0.1, 0.9, 5.0, 1e6])
def test_complex_logarithm_near_one(modulus):
    """Against the series where it converges fast, and NumPy's logarithm where that is precise."""
    x = modulus * np.exp(1j * np.linspace(-3.0, 3.0, 25))
    powers = np.arange(1, 40)[:, np.newaxis]
    series = -np.sum((-x) ** powers / powers, axis=0) if modulus < 0.2 else np.log(1.0 + x)
    assert_allclose(complex_log1p(x), series, rtol=4e-15)


def test_bisection_keeps_within_its_ends():
    low, high = tf.constant([0.0, 0.0, 0.0], tf.float64), tf.constant([2.0, 2.0, 2.0], tf.float64)
    point = bisect(lambda x: x < tf.constant([0.3, 5.0, -1.0], tf.float64), low, high, 45)
    assert_allclose(point, [0.3, 2.0, 0.0], rtol=0, atol=1e-12)
