"""A trained policy as a SavedModel that speaks of prices and trades."""

import os
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfhedge import checks


def export(hedger, directory, version=1):
    """Writes `directory/<version>/`, a SavedModel for TensorFlow Serving, and checks it.

    Its signature `serving_default` maps `spot` and `variance`, `[num_paths, num_steps]`, what was
    observed at each trading time, to `action`, `[num_paths, num_steps, num_instruments]`, the
    trades. The features and the availability of the instruments are computed inside.

    The folder appears only once it is complete and has been loaded again and given the same
    trades as the hedger.

    Args:
        hedger: A `DeepHedger`.
        directory: Base folder, one subfolder for each version.
        version: A positive integer.

    Returns:
        Path of the SavedModel.

    Raises:
        ValueError: If the version is not a positive integer.
        FileExistsError: If that version is there already.
        RuntimeError: If the SavedModel does not do what the hedger does.
    """
    problem, base = hedger.problem, Path(directory)
    target = base / str(checks.positive_integer("version", version))
    if target.exists():
        raise FileExistsError(f"{target} is there already: choose another version")
    base.mkdir(parents=True, exist_ok=True)

    def observed(name):
        return tf.TensorSpec([None, problem.num_steps], tf.float32, name)

    def serve(spot, variance):
        return {"action": hedger(problem.features(spot, variance))}

    spot, variance = (x[:, :-1] for x in problem.simulate(num_paths=3, seed=0))
    expected = serve(spot, variance)["action"]

    archive = keras.export.ExportArchive()
    archive.track(hedger)
    archive.add_endpoint("serving_default", serve, [observed("spot"), observed("variance")])
    temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=base))
    try:
        archive.write_out(str(temporary / "model"), verbose=False)
        loaded = tf.saved_model.load(str(temporary / "model"))
        action = loaded.signatures["serving_default"](spot=spot, variance=variance)["action"]
        if not np.allclose(action, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()):
            raise RuntimeError("the exported model's trades differ from the hedger's")
        os.replace(temporary / "model", target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
