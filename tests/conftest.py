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
