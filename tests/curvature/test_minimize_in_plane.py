"""The ablation's step, which minimizes M over the momentum too, against a grid of momenta."""

import numpy as np
import tensorflow as tf
from ablation import minimize_in_plane
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal


def model(coefficients, slopes, gram):
    """M along c_0 v + c_1 p, for coefficients `[..., 2]`."""
    curved = np.einsum("...i,ij,...j->...", coefficients, gram, coefficients)
    return coefficients @ slopes + 0.5 * curved


@given(
    size=st.integers(2, 5),
    kind=st.sampled_from(["general", "first step", "parallel", "opposite"]),
    max_momentum=st.sampled_from([0.0, 0.5, 0.9]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 2**32),
)
def test_the_step_minimizes_the_quadratic_model(size, kind, max_momentum, scale, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=[size, size])
    gradient, v, p = rng.normal(size=[3, size])
    p = scale * {"general": p, "first step": 0.0 * p, "parallel": 2.0 * v, "opposite": -v}[kind]
    curvature, plane = root @ root.T, np.stack([v, p])
    slopes, gram = plane @ gradient, plane @ curvature @ plane.T
    assume(kind != "general" or gram[0, 1] ** 2 < 0.999 * gram[0, 0] * gram[1, 1])
    coefficients = minimize_in_plane(list(slopes), tf.constant(gram), max_momentum).numpy()
    assert 0.0 <= coefficients[1] <= max_momentum

    # The best alpha is known for each mu, so that a grid of mu alone covers the strip.
    momentum = np.linspace(0.0, max_momentum, 201)
    alpha = (slopes[0] + momentum * gram[0, 1]) / gram[0, 0]
    best = model(np.stack([-alpha, momentum], axis=-1), slopes, gram).min()
    assert model(coefficients, slopes, gram) <= best + 1e-9 * abs(best) + 1e-14 * gram.max()


def test_a_step_without_curvature_is_none():
    assert_array_equal(minimize_in_plane([0.0, 0.0], tf.zeros([2, 2]), 0.9), [0.0, 0.0])
