"""A trained policy as a SavedModel that speaks of prices and trades."""

import dataclasses
import os
import shutil
import tempfile
from importlib.metadata import version as version_of
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.files import write_json
from tfhedge.serving import tf_serving
from tfhedge.serving.signatures import Signatures

# What stands beside `saved_model.pb`: what the numbers mean, and a few paths with their trades.
DESCRIPTION_FILE, GOLDEN_FILE = "hedge.json", "golden.npz"

ACCRUED = "sum of the capped returns of the periods that have ended"


def export(hedger, directory, version=None, training=None):
    """Writes `directory/<version>/`, a SavedModel for TensorFlow Serving, and checks it.

    Its signatures, with flat named tensors and the batch axis first, are those of `Signatures`:
    `step`, which is also `serving_default`, from what is observed at a time and the states of the
    last time to the trades, whether they are valid, and the next states; `initial_state`; and
    `rollout`, all trades of a path. Feature scaling, masks and what can be traded when are inside,
    and `hedge.json` beside it says what can be traded, in which units, in which range of
    observations, and how the policy was trained. `golden.npz` holds `spot`, `variance` and
    `action` of a few paths, to test a server by. Of the folder `assets.extra` TensorFlow Serving
    warms up; in `directory` stand its `models.config` and `batching.config`.

    The folder appears only once it is complete and has been loaded again and given the same trades
    as the hedger.

    Args:
        hedger: A `DeepHedger`.
        directory: Base folder, one subfolder for each version.
        version: A positive integer; None is the one after the highest in the base folder.
        training: What is to be said of the training, JSON-ready.

    Returns:
        Path of the SavedModel.

    Raises:
        ValueError: If the version is not a positive integer.
        FileExistsError: If that version is there already.
        RuntimeError: If the SavedModel does not do what the hedger does.
    """
    base = Path(directory)
    if version is None:
        version = max(versions(base), default=0) + 1
    target = base / str(checks.positive_integer("version", version))
    if target.exists():
        raise FileExistsError(f"{target} is there already: choose another version")
    base.mkdir(parents=True, exist_ok=True)
    name = base.resolve().name
    signatures = Signatures(hedger)
    temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=base))
    try:
        model = temporary / "model"
        save(signatures, model)
        golden = verify(tf.saved_model.load(str(model)).signatures, signatures)
        np.savez(model / GOLDEN_FILE, **golden)
        write_json(model / DESCRIPTION_FILE, describe(signatures, training))
        tf_serving.write_warm_up(model, name, signatures.specs)
        tf_serving.write_configurations(base, name)
        os.replace(model, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def versions(base):
    """The versions in a base folder."""
    folders = base.iterdir() if base.is_dir() else []
    return [int(folder.name) for folder in folders if folder.name.isdecimal()]


def save(signatures, path):
    """Writes the SavedModel, `step` first, so that it is `serving_default` too."""
    archive = keras.export.ExportArchive()
    archive.track(signatures.hedger)
    for name, specs in signatures.specs.items():
        endpoint = tf.function(getattr(signatures, name), autograph=False)
        endpoint.get_concrete_function(**specs)
        archive.add_endpoint(name, endpoint)
    archive.write_out(str(path), verbose=False)


def verify(loaded, signatures, num_paths=3):
    """Compares a loaded model's trades, both ways, with the hedger's.

    Returns:
        `spot` and `variance` of some paths, and the hedger's `action`.

    Raises:
        RuntimeError: If they differ.
    """
    problem = signatures.problem
    spot, variance = (x[:, :-1] for x in problem.simulate(num_paths, seed=0))
    # As a graph, like what was saved: TensorFlow fuses operations there, on some processors, and
    # half precision rounds less often then.
    hedger = tf.function(signatures.hedger, autograph=False)
    expected = hedger(problem.features(spot, variance))
    by_rollout = loaded["rollout"](spot=spot, variance=variance)["action"]
    by_step = unroll(loaded, problem.claim.observables(spot), spot, variance)
    for action in (by_rollout, by_step):
        if not np.allclose(action, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()):
            raise RuntimeError("the exported model's trades differ from the hedger's")
    return {"spot": spot, "variance": variance, "action": expected}


def unroll(loaded, observables, spot, variance):
    """The trades of all times, one call of `step` after the other."""
    state = loaded["initial_state"](batch_size=tf.constant(len(spot)))
    actions = []
    for t in range(spot.shape[1]):
        observed = {"spot": spot, "variance": variance, **observables}
        observed = {name: x[:, t] for name, x in observed.items()}
        result = loaded["step"](t=tf.fill([len(spot)], t), **observed, **state)
        actions.append(result["action"])
        state = {name: result[name] for name in state}
    return tf.stack(actions, axis=1)


def describe(signatures, training):
    """What the numbers of the signatures mean, JSON-ready."""
    problem = signatures.problem
    return {
        "instruments": [{"type": "underlying"}, *problem.instruments.describe()],
        "num_steps": problem.num_steps,
        "steps_per_year": 1.0 / problem.dt,
        "units": {
            "t": "time steps since the sale of the claim",
            "spot": f"money; {problem.market.spot} at the sale",
            "variance": "annual",
            **({"accrued": ACCRUED} if "accrued" in signatures.start else {}),
            "action": "units bought (sold, if negative) for each unit of notional that is sold, "
            "where one unit of the underlying and of what the options are on is worth 1 at the "
            "sale",
            "prev_action": "as the last step gave it: positions in what can be held, trades in the "
            "rest",
        },
        "ranges": signatures.ranges,
        "initial": signatures.start,
        "states": signatures.state_sizes,
        "market": settings(problem.market),
        "claim": {"type": type(problem.claim).__name__, **settings(problem.claim)},
        "controls": signatures.hedger.kind_of_controls,
        "objective": settings(problem.objective),
        "training": training,
        "versions": {name: version_of(name) for name in ("tfhedge", "tensorflow", "keras")},
    }


def settings(part):
    """The fields of a part of the problem; of a class of one's own, none need be known."""
    return dataclasses.asdict(part) if dataclasses.is_dataclass(part) else {}
