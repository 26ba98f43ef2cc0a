import numpy as np
import scipy.special
import scipy.stats
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.market.random_numbers import normal, normal_quantile, uniform

BITS = np.random.default_rng(0).integers(-(2**31), 2**31, 1_000_000).astype(np.int32)


def test_normal_quantiles_are_precise_in_the_tail_and_at_the_median():
    tail = np.append(np.geomspace(1e-11, 0.5, 10_001), 0.5 - np.geomspace(1e-6, 0.1, 101))
    tail = tail.astype(np.float32)
    expected = -scipy.special.ndtri(tail.astype(np.float64))
    for quantile in (normal_quantile, tf.function(normal_quantile, jit_compile=True)):
        assert_allclose(quantile(tail), expected, rtol=1e-6, atol=1e-7)


def test_numbers_have_their_laws():
    assert scipy.stats.kstest(normal(BITS), "norm")[1] > 1e-3
    assert scipy.stats.kstest(uniform(BITS), "uniform")[1] > 1e-3


def test_no_bits_lead_to_infinity():
    extreme = np.array([0, 1, -1, -2, 2**31 - 1, -(2**31), -(2**31) + 1, 2**30], np.int32)
    assert np.all(np.isfinite(normal(extreme)))
    assert np.all(np.isfinite(np.log(uniform(extreme))))
