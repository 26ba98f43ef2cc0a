"""Curvature blocks against dense matrices on vectorized weights, in float64.

Matrices are vectorized row by row, so that vec(A X B') = (A kron B) vec(X).
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tfhedge.curvature.kronecker import DiagonalBlock, KroneckerBlock, second_moment, shrink

NUM_PATHS, NUM_STEPS, NUM_INPUTS, NUM_OUTPUTS = 6, 5, 3, 2
with_and_without_bias = pytest.mark.parametrize("use_bias", [False, True])


def add_variable(shape, initializer, name):
    value = {"zeros": np.zeros, "identity": lambda shape: np.eye(*shape)}[initializer](shape)
    return tf.Variable(value, name=name, dtype=tf.float64)


def kronecker_block(use_bias):
    return KroneckerBlock((NUM_INPUTS, NUM_OUTPUTS), use_bias, add_variable)


def samples(count, num_steps=NUM_STEPS, num_outputs=NUM_OUTPUTS):
    """Inputs and pseudo-gradients of one layer, that depend on each other."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        a = rng.normal(size=[NUM_PATHS, num_steps, NUM_INPUTS])
        mixing = rng.normal(size=[NUM_INPUTS, num_outputs])
        yield a, np.cumsum(a @ mixing + rng.normal(size=[NUM_PATHS, num_steps, num_outputs]), 1)


def homogeneous(a, use_bias):
    return np.concatenate([a, np.ones_like(a[..., :1])], axis=-1) if use_bias else a


def dense_block(a, g):
    """E[vec(DW) vec(DW)'] with DW = sum_t a_t g_t'."""
    flat = np.einsum("nti,nto->nio", a, g).reshape(len(a), -1)
    return flat.T @ flat / len(a)


def basis(block):
    return np.kron(block.input_basis, block.output_basis)


def dense_preconditioner(block, shrinkage):
    """The inverse of Q diag((1 - rho) D + rho mean(D)) Q', eqs. (10) and (11)."""
    diagonal = np.ravel(block.diagonal)
    shrunk = (1.0 - shrinkage) * diagonal + shrinkage * diagonal.mean()
    return np.linalg.inv(basis(block) @ np.diag(shrunk) @ basis(block).T)


def preconditioned(block, matrix, shrinkage):
    """What the block makes of the gradients of kernel and bias, put together again."""
    parts = [matrix[:-1], matrix[-1]] if block.use_bias else [matrix]
    result = block.precondition(
        [tf.constant(part) for part in parts],
        shrink(block.diagonal, shrinkage, tf.reduce_mean(block.diagonal)),
    )
    assert [r.shape for r in result] == [p.shape for p in parts]
    return np.vstack(result)


@with_and_without_bias
def test_factors_are_moving_averages_of_second_moments(use_bias):
    block = kronecker_block(use_bias)
    factors = [np.zeros(block.input_factor.shape), np.zeros(block.output_factor.shape)]
    for decay, (a, g) in zip([0.0, 0.5, 0.95], samples(3), strict=True):
        assert block.update_factors_by_step(second_moment(homogeneous(a, True)), g, decay)
        for i, x in enumerate([homogeneous(a, use_bias), g]):
            moments = [[np.outer(x_t, x_t) for x_t in path] for path in x]
            moment = np.sum(np.mean(moments, axis=0), axis=0) / np.sqrt(NUM_STEPS)
            factors[i] = decay * factors[i] + (1.0 - decay) * moment
    assert_allclose(block.input_factor, factors[0], rtol=1e-12)
    assert_allclose(block.output_factor, factors[1], rtol=1e-12)


@with_and_without_bias
def test_factors_by_path_are_partial_traces_of_the_dense_block(use_bias):
    """sum_o B[io, jo] and sum_i B[io, ip], over the root of the trace."""
    block = kronecker_block(use_bias)
    factors = [np.zeros(block.input_factor.shape), np.zeros(block.output_factor.shape)]
    for decay, (a, g) in zip([0.0, 0.5, 0.95], samples(3), strict=True):
        assert block.update_factors_by_path(a, g, decay)
        dense = dense_block(homogeneous(a, use_bias), g)
        size = len(dense) // NUM_OUTPUTS
        tensor = dense.reshape(size, NUM_OUTPUTS, size, NUM_OUTPUTS)
        for i, (axis1, axis2) in enumerate([(1, 3), (0, 2)]):
            moment = np.trace(tensor, axis1=axis1, axis2=axis2) / np.sqrt(np.trace(dense))
            factors[i] = decay * factors[i] + (1.0 - decay) * moment
    assert_allclose(block.input_factor, factors[0], rtol=1e-12)
    assert_allclose(block.output_factor, factors[1], rtol=1e-12)


def test_factors_by_path_of_a_layer_without_influence_are_zero():
    block, (a, g) = kronecker_block(False), next(samples(1))
    assert block.update_factors_by_path(a, 0.0 * g, 0.0)
    assert not np.any(block.input_factor)
    assert not np.any(block.output_factor)


@with_and_without_bias
def test_bases_are_eigenvectors_of_the_factors(use_bias):
    block = kronecker_block(use_bias)
    block.update_factors_by_path(*next(samples(1)), 0.0)
    block.update_eigenbasis()
    for factor, vectors in (
        (block.input_factor, block.input_basis),
        (block.output_factor, block.output_basis),
    ):
        factor, vectors = factor.numpy(), vectors.numpy()
        assert_allclose(vectors.T @ vectors, np.eye(len(vectors)), rtol=0, atol=1e-13)
        rotated = vectors.T @ factor @ vectors
        values = np.linalg.eigvalsh(factor)
        assert_allclose(rotated, np.diag(values), rtol=0, atol=1e-12 * values.max())


@given(
    size=st.integers(1, 40),
    ends=st.tuples(st.floats(-44.0, 38.0), st.floats(-44.0, 38.0)),
    rank=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_factors_that_are_finite_in_float32_have_eigenvectors(size, ends, rank, seed):
    """Whatever their scale or rank, so that only numbers that are not finite fail."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=[size, rank]) * 10.0 ** (0.5 * rng.uniform(*sorted(ends), [size, 1]))
    factor = np.float64(np.float32(np.clip(root @ root.T, -3e38, 3e38)))
    block = KroneckerBlock((size, size), False, add_variable)
    for part in (block.input_factor, block.output_factor):
        part.assign(factor)
    assert block.update_eigenbasis()
    vectors = block.input_basis.numpy()
    assert_allclose(vectors.T @ vectors, np.eye(size), rtol=0, atol=1e-12)


def test_a_basis_that_is_not_finite_is_not_taken(monkeypatch):
    block, sample = kronecker_block(False), next(samples(1))
    block.update_factors_by_path(*sample, 0.0)
    assert block.update_eigenbasis()
    block.update_diagonal(*sample, 0.0)
    before = basis(block), block.diagonal.numpy()
    monkeypatch.setattr(tf.linalg, "eigh", lambda x: (x[0], np.nan * x))
    assert not block.update_eigenbasis()
    assert_allclose(basis(block), before[0], rtol=1e-14)
    assert_allclose(block.diagonal, before[1], rtol=1e-12)


@with_and_without_bias
def test_diagonal_is_that_of_the_dense_block_in_the_eigenbasis(use_bias):
    """The best diagonal in any basis, eq. (10), here a moving average of it."""
    block, expected = kronecker_block(use_bias), 0.0
    for decay, (a, g) in zip([0.0, 0.7], samples(2), strict=True):
        block.update_factors_by_path(a, g, decay)
        if decay == 0.0:
            block.update_eigenbasis()
        block.update_diagonal(a, g, decay)
        dense = dense_block(homogeneous(a, use_bias), g)
        in_basis = np.diag(basis(block).T @ dense @ basis(block))
        expected = decay * expected + (1.0 - decay) * in_basis
    assert_allclose(np.ravel(block.diagonal), expected, rtol=1e-10)


@with_and_without_bias
def test_diagonal_is_carried_over_to_a_new_basis(use_bias):
    block, (first, second) = kronecker_block(use_bias), samples(2)
    block.update_factors_by_path(*first, 0.0)
    block.update_eigenbasis()
    block.update_diagonal(*first, 0.0)
    before = basis(block) @ np.diag(np.ravel(block.diagonal)) @ basis(block).T
    block.update_factors_by_path(*second, 0.5)
    block.update_eigenbasis()
    expected = np.diag(basis(block).T @ before @ basis(block))
    assert_allclose(np.ravel(block.diagonal), expected, rtol=1e-10)
    assert_allclose(np.sum(block.diagonal), np.trace(before), rtol=1e-12)


@with_and_without_bias
@pytest.mark.parametrize("shrinkage", [5e-4, 0.3, 1.0])
def test_precondition_multiplies_by_the_dense_inverse(use_bias, shrinkage):
    block, sample = kronecker_block(use_bias), next(samples(1))
    block.update_factors_by_path(*sample, 0.0)
    block.update_eigenbasis()
    block.update_diagonal(*sample, 0.0)
    matrix = np.random.default_rng(1).normal(size=block.diagonal.shape)
    expected = dense_preconditioner(block, shrinkage) @ matrix.ravel()
    actual = preconditioned(block, matrix, shrinkage)
    assert_allclose(actual.ravel(), expected, rtol=1e-9, atol=1e-12)


@with_and_without_bias
def test_one_step_with_independent_inputs_and_pseudo_gradients_is_exact(use_bias):
    """KFAC then is no approximation: A kron G is E[vec(DW) vec(DW)'], and so is Q diag(D) Q'."""
    rng = np.random.default_rng(2)
    inputs, outputs = rng.normal(size=[7, NUM_INPUTS]), rng.normal(size=[5, NUM_OUTPUTS])
    pairs = itertools.product(inputs, outputs)  # so that all pairs are equally likely
    a, g = (np.array(x)[:, np.newaxis] for x in zip(*pairs, strict=True))
    dense = dense_block(homogeneous(a, use_bias), g)

    block = kronecker_block(use_bias)
    block.update_factors_by_path(a, g, 0.0)
    block.update_eigenbasis()
    block.update_diagonal(a, g, 0.0)
    assert_allclose(np.kron(block.input_factor, block.output_factor), dense, rtol=1e-10, atol=1e-12)
    matrix = rng.normal(size=block.diagonal.shape)
    identity = np.eye(len(dense))
    shrunk = 0.9 * dense + 0.1 * np.trace(dense) / len(dense) * identity
    expected = np.linalg.solve(shrunk, matrix.ravel())
    assert_allclose(preconditioned(block, matrix, 0.1).ravel(), expected, rtol=1e-9, atol=1e-12)


def test_diagonal_block_is_the_diagonal_of_the_dense_block():
    block, expected = DiagonalBlock(NUM_INPUTS, add_variable), 0.0
    for decay, (a, g) in zip([0.0, 0.7], samples(2, num_outputs=NUM_INPUTS), strict=True):
        block.update_factors_by_path(a, g, decay)
        block.update_eigenbasis()
        block.update_diagonal(a, g, decay)
        expected = decay * expected + (1.0 - decay) * np.mean(np.sum(a * g, axis=1) ** 2, axis=0)
    assert_allclose(block.diagonal, expected, rtol=1e-12)
    damped = shrink(block.diagonal, 0.1, tf.reduce_mean(block.diagonal))
    (vector,) = block.precondition([tf.constant([1.0, -2.0, 3.0], tf.float64)], damped)
    shrunk = 0.9 * expected + 0.1 * expected.mean()
    assert_allclose(vector, [1.0, -2.0, 3.0] / shrunk, rtol=1e-12)


@pytest.mark.parametrize(
    ("diagonal", "intensity", "target", "expected"),
    [
        ([1.0, 3.0], 0.0, 2.0, [1.0, 3.0]),
        ([1.0, 3.0], 0.5, 2.0, [1.5, 2.5]),
        ([1.0, 3.0], 1.0, 2.0, [2.0, 2.0]),
        ([1.0, 3.0], 0.5, 9.0, [5.0, 6.0]),
        ([0.0, 0.0], 0.25, 4.0, [1.0, 1.0]),
        ([0.0, 0.0], 0.25, 0.0, [1.0, 1.0]),
    ],
)
def test_shrinkage(diagonal, intensity, target, expected):
    shrunk = shrink(tf.constant(diagonal, tf.float64), intensity, tf.constant(target, tf.float64))
    assert_allclose(shrunk, expected, rtol=1e-14)
