"""Replicas that share each batch train as one that has it all."""

import json
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose

# Two devices have to be made before TensorFlow begins: a process of its own.
SCRIPT = """
import json, sys
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import tfhedge as th

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=4, cap=0.015),
    instruments=th.FloatingGrid(maturities=(4, 2), strikes=(1.01, 1.0)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)
OPTIMIZERS = {
    "dh-kfac": lambda: th.DHKFAC(num_curvature_paths=7),
    "algorithm 1": lambda: th.DHKFAC.paper(num_curvature_paths=7),
    "adam": lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0),
}

def train(optimizer, dtype, strategy):
    keras.utils.set_random_seed(0)
    hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(4, num_blocks=1, dtype=dtype))
    hedger.compile(optimizer=OPTIMIZERS[optimizer](), strategy=strategy)
    paths = PROBLEM.dataset(149, 64)  # the last batch has 21
    history = hedger.fit(paths, validation_data=PROBLEM.dataset(50, 50, 1), verbose=0)
    return history.history, [w.tolist() for w in hedger.get_weights()]

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print(json.dumps([train(*sys.argv[1:], x) for x in (None, strategy)]))
"""


@pytest.mark.parametrize(
    ("optimizer", "dtype", "rtol"),
    [
        # On so small a problem each step of DH-KFAC multiplies what rounding did a hundredfold.
        ("dh-kfac", "float64", 1e-6),
        pytest.param("algorithm 1", "float64", 1e-8, marks=pytest.mark.slow),
        pytest.param("adam", "float32", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_two_devices_train_as_one(optimizer, dtype, rtol):
    """Histories and weights of one replica and of two."""
    command = [sys.executable, "-c", SCRIPT, optimizer, dtype]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    (alone, weights), (shared, shared_weights) = json.loads(result.stdout.splitlines()[-1])
    assert alone.keys() == shared.keys()
    for name, values in alone.items():
        assert_allclose(shared[name], values, rtol=rtol, err_msg=name)
    for one, other in zip(weights, shared_weights, strict=True):
        assert_allclose(other, one, rtol=rtol, atol=rtol * np.abs(one).max())
