"""Pseudo-gradients LZ by either route, the paper's and ours, against eq. (12) written out."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_less

from tfhedge.hedging.objectives import MeanVariance

NUM_STEPS, QUADRATIC_COSTS = 3, np.tile([0.01, 0.2], [3, 1]) * [[1.0], [0.9], [0.8]]
RNG = np.random.default_rng(0)
RETURNS = RNG.normal(0.0, 0.1, [2, *QUADRATIC_COSTS.shape])  # of two paths
OBJECTIVES = {
    "mostly variance": MeanVariance(risk_aversion=1000.0),
    "mostly costs": MeanVariance(risk_aversion=0.5),
}
EXACT = {"rtol": 1e-12, "atol": 1e-14}
NUM_ERRORS = 4.5


@pytest.fixture(params=OBJECTIVES.values(), ids=OBJECTIVES)
def objective(request):
    return request.param


@pytest.fixture(params=["pseudo_gradient", "pseudo_gradient_by_cholesky"])
def draw(request, objective):
    """Pseudo-gradients of `count` copies of each path, `[2, count, num_actions]`."""
    if not hasattr(objective, request.param):
        pytest.skip(f"There is no {request.param}")

    def draw(count):
        returns = tf.constant(np.repeat(RETURNS, count, axis=0))
        of_no_matter = tf.zeros(len(returns), tf.float64)
        curvature = objective.path_curvature(of_no_matter, of_no_matter)
        sample = getattr(objective, request.param)(returns, QUADRATIC_COSTS, curvature, seed=(1, 2))
        return sample.numpy().reshape(2, count, -1)

    return draw


def hessians(objective):
    """2 gamma r r' + 2 diag(c~, ..., c~) of each path."""
    costs = np.diag(QUADRATIC_COSTS.ravel())
    for r in RETURNS.reshape(2, -1):
        yield 2.0 * (objective.risk_aversion * np.outer(r, r) + costs)


def test_the_map_from_normals_is_a_root_of_the_hessian(draw, objective, unit_noise):
    """M M' = H_u, where the route takes normals Z to M Z."""
    unit_noise(QUADRATIC_COSTS.size + 1)
    for sample, expected in zip(draw(QUADRATIC_COSTS.size + 1), hessians(objective), strict=True):
        assert_allclose(sample.T @ sample / len(sample), expected, **EXACT)


def test_samples_have_the_hessian_as_covariance(draw, objective):
    """With the standard error of a product of two normal numbers."""
    count = 50_000
    for sample, H in zip(draw(count), hessians(objective), strict=True):
        error = np.sqrt((np.outer(np.diag(H), np.diag(H)) + H**2) / count)
        assert_array_less(np.abs(sample.T @ sample / count - H), NUM_ERRORS * error)
