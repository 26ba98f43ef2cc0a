"""An exported hedger, loaded where there is TensorFlow and nothing else."""

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


@pytest.fixture
def hedger():
    hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(units=4, num_blocks=2))
    hedger(PROBLEM.episodes(1, seed=0)[0])
    rng = np.random.default_rng(0)
    hedger.set_weights([rng.normal(0.0, 0.2, w.shape) for w in hedger.weights])
    return hedger


def test_tensorflow_alone_makes_the_same_trades(hedger, tmp_path):
    folder = th.export(hedger, tmp_path / "models" / "cliquet")
    assert folder == tmp_path / "models" / "cliquet" / "1"
    spot, variance = (x[:, :-1].numpy() for x in PROBLEM.simulate(num_paths=5, seed=3))
    np.savez(tmp_path / "observed.npz", spot=spot, variance=variance)
    files = [folder, tmp_path / "observed.npz", tmp_path / "trades.npz"]
    subprocess.run([sys.executable, "-c", SERVE, *map(str, files)], check=True, cwd=tmp_path)
    trades = dict(np.load(tmp_path / "trades.npz"))
    assert trades.keys() == {"action"}
    expected = hedger(PROBLEM.features(spot, variance))
    assert np.abs(expected).max() > 0.05
    assert_allclose(trades["action"], expected, rtol=1e-4, atol=1e-6)


def test_the_signature_serves_every_number_of_paths(hedger, tmp_path):
    signature = tf.saved_model.load(th.export(hedger, tmp_path)).signatures["serving_default"]
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


def test_a_hedger_that_has_never_been_called_is_exported(tmp_path):
    th.export(th.DeepHedger(PROBLEM, th.RecurrentPolicy(units=4, num_blocks=1)), tmp_path)


def test_versions_stand_side_by_side_and_none_is_overwritten(hedger, tmp_path):
    for version in (1, 7):
        th.export(hedger, tmp_path, version)
    with pytest.raises(FileExistsError, match=r"7 is there already: choose another version"):
        th.export(hedger, tmp_path, version=7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "7"]


@pytest.mark.parametrize("problem", ["write", "trades"])
def test_a_failed_export_leaves_nothing_behind(hedger, problem, tmp_path):
    if problem == "write":
        broken = mock.patch("keras.export.ExportArchive.write_out", side_effect=OSError("disk"))
        expected = pytest.raises(OSError, match="disk")
    else:
        broken = mock.patch("numpy.allclose", return_value=False)
        expected = pytest.raises(RuntimeError, match="trades differ from the hedger's")
    with broken, expected:
        th.export(hedger, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.xfail(reason="not checked, and TensorFlow Serving ignores such folders")
@pytest.mark.parametrize("version", [0, -1, 1.5, "latest"])
def test_bad_versions_are_refused(hedger, version, tmp_path):
    with pytest.raises(ValueError, match="`version` to be a positive integer"):
        th.export(hedger, tmp_path, version)
