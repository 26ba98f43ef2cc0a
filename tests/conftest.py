"""What holds in every test: quiet TensorFlow, no display, the same random numbers each time."""

import os

import hypothesis
import pytest

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

# A first call traces a graph, so times vary; and a build must not fail for another draw.
hypothesis.settings.register_profile("tfhedge", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tfhedge")


@pytest.fixture(autouse=True)
def _same_initial_weights():
    import keras  # here, because it reads the environment set above

    keras.utils.set_random_seed(0)


@pytest.fixture
def refusal(capsys):
    """Runs a command that ends with status 2, and returns the one line that it says."""
    from tfhedge import cli

    def refuse(arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        error = capsys.readouterr().err
        assert stopped.value.code == 2
        assert len(error.splitlines()) == 1
        return error

    return refuse


@pytest.fixture
def unit_noise(monkeypatch):
    """Makes second moments exact: call it with K, the number of normal numbers that a path takes.

    Each K paths in a row then get, in place of K normal numbers each, sqrt(K) times the K unit
    vectors, whose mean outer product is the identity, too.
    """
    import numpy as np
    import tensorflow as tf

    def install(size):
        columns = iter(np.sqrt(size) * np.eye(size))

        def stateless_normal(shape, seed, dtype=tf.float32):
            num_paths, *rest = np.array(shape)
            noise = np.stack([next(columns) for _ in range(np.prod(rest, dtype=int))], axis=-1)
            return tf.reshape(tf.constant(np.tile(noise, [num_paths // size, 1]), dtype), shape)

        monkeypatch.setattr(tf.random, "stateless_normal", stateless_normal)

    return install
