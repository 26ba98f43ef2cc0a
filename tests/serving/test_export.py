"""An exported hedger, loaded where there is TensorFlow and nothing else."""

import dataclasses
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import tfhedge as th

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(3, 2), strikes=(1.01, 1.0)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)
CONTRACTS = th.FixedGrid(expiries=(3, 6), strikes=(1.01, 1.0), is_call=(True, False))
PROBLEMS = {
    "floating grid": (PROBLEM, "last_action"),
    "fixed grid": (dataclasses.replace(PROBLEM, instruments=CONTRACTS), "holdings"),
}
# What `None` stands for cannot be imported.
SERVE = """
import sys
sys.modules.update(dict.fromkeys(["keras", "tf_keras", "tfhedge"]))
import numpy as np, tensorflow as tf
folder, observed, trades = sys.argv[1:]
signature = tf.saved_model.load(folder).signatures["serving_default"]
inputs = {name: tf.constant(value) for name, value in np.load(observed).items()}
np.savez(trades, **{name: value.numpy() for name, value in signature(**inputs).items()})
"""


@pytest.fixture(scope="module", params=PROBLEMS.values(), ids=PROBLEMS)
def hedger(request):
    problem, observes = request.param
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(3, num_blocks=1, observes=observes))
    hedger(PROBLEM.episodes(1, seed=0)[0])
    rng = np.random.default_rng(0)
    hedger.set_weights([rng.normal(0.0, 0.3, w.shape) for w in hedger.weights])
    return hedger


@pytest.fixture(scope="module")
def base(hedger, tmp_path_factory):
    """A folder with version 1 of the hedger."""
    base = tmp_path_factory.mktemp("saved") / "models" / "cliquet"
    assert th.export(hedger, base) == base / "1"
    return base


def test_tensorflow_alone_makes_the_same_trades(hedger, base, tmp_path):
    spot, variance = (x[:, :-1].numpy() for x in PROBLEM.simulate(num_paths=5, seed=3))
    np.savez(tmp_path / "observed.npz", spot=spot, variance=variance)
    files = [base / "1", tmp_path / "observed.npz", tmp_path / "trades.npz"]
    subprocess.run([sys.executable, "-c", SERVE, *map(str, files)], check=True, cwd=tmp_path)
    trades = dict(np.load(tmp_path / "trades.npz"))
    assert trades.keys() == {"action"}
    expected = hedger(PROBLEM.features(spot, variance))
    assert np.abs(expected).max() > 0.05
    assert_allclose(trades["action"], expected, rtol=1e-4, atol=1e-6)


def test_the_signature_serves_every_number_of_paths(hedger, base):
    signature = tf.saved_model.load(base / "1").signatures["serving_default"]
    (_, inputs), outputs = signature.structured_input_signature, signature.structured_outputs
    assert {name: spec.shape.as_list() for name, spec in inputs.items()} == {
        "spot": [None, 6],
        "variance": [None, 6],
    }
    assert outputs["action"].shape.as_list() == [None, 6, 3]
    for num_paths in (1, 4):
        spot, variance = (x[:, :-1] for x in PROBLEM.simulate(num_paths, seed=3))
        action = signature(spot=spot, variance=variance)["action"]
        expected = hedger(PROBLEM.features(spot, variance))
        assert_allclose(action, expected, rtol=1e-4, atol=1e-6)


def test_versions_stand_side_by_side_and_none_is_overwritten(base):
    """The second is of a hedger that has never been called."""
    other = th.DeepHedger(PROBLEM, th.RecurrentPolicy(units=2, num_blocks=1))
    th.export(other, base, version=7)
    files = {path: path.stat().st_mtime_ns for path in (base / "1").rglob("*")}
    with pytest.raises(FileExistsError, match=r"1 is there already: choose another version"):
        th.export(other, base)
    assert sorted(path.name for path in base.iterdir()) == ["1", "7"]
    assert files == {path: path.stat().st_mtime_ns for path in (base / "1").rglob("*")}


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (
            {"target": "tensorflow.saved_model.load", "side_effect": OSError("disk")},
            OSError,
            "disk",
        ),
        (
            {"target": "numpy.allclose", "return_value": False},
            RuntimeError,
            "the exported model's trades differ from the hedger's",
        ),
    ],
    ids=["cannot be loaded", "trades differ"],
)
def test_a_failed_export_leaves_nothing_behind(hedger, broken, error, message, tmp_path):
    with mock.patch(**broken), pytest.raises(error, match=message):
        th.export(hedger, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [0, "latest"])
def test_bad_versions_are_refused(hedger, version, tmp_path):
    with pytest.raises(ValueError, match="`version` to be a positive integer"):
        th.export(hedger, tmp_path, version)
