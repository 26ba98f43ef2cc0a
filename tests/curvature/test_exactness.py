"""Where theory says that KFAC, RNN-KFAC or EKFAC is exact or the best, against dense matrices.

For one layer of weights [inputs, outputs], in float64. Matrices are vectorized row by row, so that
vec(DW) = sum_t a_t kron g_t. Expectations are means over all pairs of a path of inputs and a path
of pseudo-gradients, which thus are independent of each other, with no sampling error at all.
"""

import itertools

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.curvature.kronecker import KroneckerBlock, homogeneous, second_moment, shrink

NUM_STEPS, NUM_INPUTS, NUM_OUTPUTS = 4, 3, 2
LAGS = np.abs(np.subtract.outer(np.arange(NUM_STEPS), np.arange(NUM_STEPS)))  # |t - s|
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def new_state(shape, initializer, name):
    return tf.Variable(keras.initializers.get(initializer)(shape, "float64"), name=name)


def new_block(a, g, by_path=False):
    """The block of a layer without bias, once it has seen one sample."""
    block = KroneckerBlock((a.shape[-1], g.shape[-1]), False, new_state)
    if by_path:
        block.update_factors_by_path(a, g, 0.0)
    else:
        block.update_factors_by_step(second_moment(homogeneous(a)), g, 0.0)
    block.update_eigenbasis()
    block.update_diagonal(a, g, 0.0)
    return block


def dense_block(a, g):
    """E[vec(DW) vec(DW)']."""
    flat = np.einsum("nti,nto->nio", a, g).reshape(len(a), -1)
    return flat.T @ flat / len(a)


def factors(block):
    """A kron G."""
    return np.kron(block.input_factor, block.output_factor)


def from_eigenbasis(block, diagonal):
    """Q diag(diagonal) Q'."""
    Q = np.kron(block.input_basis, block.output_basis)
    return Q @ np.diag(np.ravel(diagonal)) @ Q.T


def kronecker_eigenvalues(block):
    return np.outer(np.linalg.eigvalsh(block.input_factor), np.linalg.eigvalsh(block.output_factor))


def covariance(size, seed):
    root = np.random.default_rng(seed).normal(size=[size, size])
    return root @ root.T


def paths(covariance):
    """Paths whose second moments E[x_t x_s'] are the given ones, `[num_steps, num_steps, n, n]`."""
    num_steps, _, n, _ = covariance.shape
    matrix = covariance.swapaxes(1, 2).reshape(num_steps * n, num_steps * n)
    scaled = np.sqrt(num_steps * n) * np.linalg.cholesky(matrix)
    return scaled.T.reshape(-1, num_steps, n)


def autoregressive(correlation, stationary):
    """E[x_t x_s'] = correlation^|t-s| E[x_0 x_0']."""
    return np.multiply.outer(correlation**LAGS, stationary)


def all_pairs(a, g):
    """Each path of inputs together with each path of pseudo-gradients."""
    pairs = itertools.product(a, g)
    return (np.stack(x) for x in zip(*pairs, strict=True))


A_0, G_0 = covariance(NUM_INPUTS, seed=0), covariance(NUM_OUTPUTS, seed=1)


def dependent_sample(num_paths=6):
    rng = np.random.default_rng(2)
    a = rng.normal(size=[num_paths, NUM_STEPS, NUM_INPUTS])
    noise = rng.normal(size=[num_paths, NUM_STEPS, NUM_OUTPUTS])
    return a, np.cumsum(a @ rng.normal(size=[NUM_INPUTS, NUM_OUTPUTS]) + noise, axis=1)


def test_one_step_from_a_constant_input():
    g = paths(G_0[np.newaxis, np.newaxis])
    a = np.broadcast_to([1.0, -2.0, 0.5], [len(g), 1, NUM_INPUTS])
    block = new_block(a, g)
    assert_allclose(factors(block), np.kron(np.outer(a[0, 0], a[0, 0]), G_0), **EXACT)
    assert_allclose(factors(block), dense_block(a, g), **EXACT)


@pytest.mark.parametrize("correlation", [0.0, 0.6], ids=["white inputs", "inputs with memory"])
def test_white_pseudo_gradients_make_eq_8_exact(correlation):
    """T A_0 kron G_0, with a factor T^(1/2) on each side, although the inputs may have memory."""
    a, g = all_pairs(paths(autoregressive(correlation, A_0)), paths(autoregressive(0.0, G_0)))
    block = new_block(a, g)
    assert_allclose(block.input_factor, np.sqrt(NUM_STEPS) * A_0, **EXACT)
    assert_allclose(block.output_factor, np.sqrt(NUM_STEPS) * G_0, **EXACT)
    assert_allclose(dense_block(a, g), NUM_STEPS * np.kron(A_0, G_0), **EXACT)
    assert_allclose(factors(block), dense_block(a, g), **EXACT)


def test_memory_of_both_is_what_rescaling_makes_good():
    """Eq. (7) then holds, of which eq. (8) keeps the terms t = s, a fixed share of each direction.

    The terms have the same eigenvectors, so that D is all that is to be corrected.
    """
    A, G = autoregressive(0.6, A_0), autoregressive(0.9, G_0)
    a, g = all_pairs(paths(A), paths(G))
    block, dense = new_block(a, g), dense_block(a, g)
    pairs_of_times = itertools.product(range(NUM_STEPS), repeat=2)
    eq_7 = sum(np.kron(A[t, s], G[t, s]) for t, s in pairs_of_times)
    assert_allclose(dense, eq_7, **EXACT)
    share = NUM_STEPS / np.sum(0.6**LAGS * 0.9**LAGS)
    assert share < 0.6
    assert_allclose(factors(block), share * dense, **EXACT)
    assert_allclose(from_eigenbasis(block, block.diagonal), dense, **EXACT)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_factors_by_path_are_exact_whatever_the_memory(correlation):
    A, G = autoregressive(0.6, A_0), autoregressive(correlation, G_0)
    a, g = all_pairs(paths(A), paths(G))
    block, dense = new_block(a, g, by_path=True), dense_block(a, g)
    assert_allclose(factors(block), dense, **EXACT)
    assert_allclose(from_eigenbasis(block, block.diagonal), dense, **EXACT)


def test_eq_8_misses_the_basis_where_memories_differ():
    """Inputs are noise, and one of them has a part with memory; so do all pseudo-gradients.

    In the sum over time that part counts for more, which eq. (8) does not see: the eigenvectors are
    others, and even the best diagonal in its basis misses what is off it.
    """
    fast, slow = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 0.1]])
    A = autoregressive(0.0, fast) + autoregressive(0.95, slow)
    a, g = all_pairs(paths(A), paths(autoregressive(0.95, G_0)))
    dense = dense_block(a, g)
    by_path, by_step = new_block(a, g, by_path=True), new_block(a, g)
    assert_allclose(from_eigenbasis(by_path, by_path.diagonal), dense, **EXACT)
    missed = dense - from_eigenbasis(by_step, by_step.diagonal)
    assert np.linalg.norm(missed) > 0.1 * np.linalg.norm(dense)


def test_the_rescaled_diagonal_is_the_best():
    """Eq. (9): whatever other diagonal is further from B by all that it differs from D."""
    a, g = dependent_sample()
    block, dense = new_block(a, g), dense_block(a, g)

    def squared_distance(diagonal):
        return np.sum((dense - from_eigenbasis(block, diagonal)) ** 2)

    least = squared_distance(block.diagonal)
    rng = np.random.default_rng(3)
    others = [
        block.diagonal * (1.0 + 0.1 * rng.normal(size=block.diagonal.shape)) for _ in range(3)
    ]
    for other in [kronecker_eigenvalues(block), *others]:
        difference = np.sum((other - block.diagonal) ** 2)
        assert difference > 1e-3 * least
        assert_allclose(squared_distance(other), least + difference, **EXACT)


@pytest.mark.parametrize("shrinkage", [5e-4, 0.3])
@pytest.mark.parametrize("rescaled", [False, True], ids=["A kron G", "rescaled"])
def test_the_eigenbasis_route_is_damped_inversion_by_cholesky(rescaled, shrinkage):
    """Of (1 - rho) B + rho tr(B) / N I, eq. (11), with B = A kron G or B = Q diag(D) Q'."""
    block = new_block(*dependent_sample())
    B = from_eigenbasis(block, block.diagonal) if rescaled else factors(block)
    if not rescaled:
        block.diagonal.assign(kronecker_eigenvalues(block))
    damped = (1.0 - shrinkage) * B + shrinkage * np.trace(B) / len(B) * np.eye(len(B))
    V = np.random.default_rng(4).normal(size=[NUM_INPUTS, NUM_OUTPUTS])
    expected = scipy.linalg.cho_solve(scipy.linalg.cho_factor(damped), V.ravel())
    (actual,) = block.precondition(
        [tf.constant(V)], shrink(block.diagonal, shrinkage, tf.reduce_mean(block.diagonal))
    )
    assert_allclose(np.ravel(actual), expected, **EXACT)
