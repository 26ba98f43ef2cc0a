"""An exported hedger, loaded where there is TensorFlow and nothing else."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.serving.export import unroll

ROOT = Path(__file__).parents[2]

# What `None` stands for cannot be imported.
SERVE = """
import sys
sys.modules.update(dict.fromkeys(["keras", "tf_keras", "tfhedge"]))
import numpy as np, tensorflow as tf
folder, observed, trades = sys.argv[1:]
signatures = tf.saved_model.load(folder).signatures
observed = {name: tf.constant(value) for name, value in np.load(observed).items()}
rollout = signatures["rollout"](spot=observed["spot"], variance=observed["variance"])
num_paths, num_steps = observed["spot"].shape
state = signatures["initial_state"](batch_size=tf.constant(num_paths))
actions, valid = [], []
for t in range(num_steps):
    now = {name: value[:, t] for name, value in observed.items()}
    result = signatures["serving_default"](t=tf.fill([num_paths], t), **now, **state)
    state = {name: result[name] for name in state}
    actions.append(result["action"])
    valid.append(result["valid"])
np.savez(
    trades,
    rollout=rollout["action"],
    step=tf.stack(actions, axis=1),
    valid=rollout["valid"] & tf.stack(valid, axis=1),
)
"""


def run(command, folder):
    return subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True).stdout


def test_tensorflow_alone_makes_the_same_trades(hedger, base, paths, tmp_path):
    spot, variance = paths(5)
    observables = hedger.problem.claim.observables(spot)
    np.savez(tmp_path / "observed.npz", spot=spot, variance=variance, **observables)
    files = [base / "1", tmp_path / "observed.npz", tmp_path / "trades.npz"]
    run([sys.executable, "-c", SERVE, *map(str, files)], tmp_path)
    trades = np.load(tmp_path / "trades.npz")
    expected = hedger.predict(hedger.problem.features(spot, variance), verbose=0)
    scale = np.abs(expected).max()
    assert scale > 0.05
    assert_allclose(trades["rollout"], expected, rtol=0.0, atol=1e-5 * scale)
    assert_allclose(trades["step"], expected, rtol=0.0, atol=1e-5 * scale)
    assert trades["valid"].all()


def replay(model, claim):
    """Asks a SavedModel for the trades that stand beside it, both ways."""
    golden = np.load(model / "golden.npz")
    spot, variance, expected = (golden[name] for name in ("spot", "variance", "action"))
    loaded = tf.saved_model.load(model).signatures
    by_rollout = loaded["rollout"](spot=tf.constant(spot), variance=tf.constant(variance))
    by_step = unroll(loaded, claim.observables(spot), spot, variance)
    scale = np.abs(expected).max()
    assert by_rollout["valid"].numpy().all()
    for action in (by_rollout["action"], by_step):
        assert_allclose(action, expected, rtol=0.0, atol=1e-4 * scale)
    return golden


def test_the_trades_beside_a_model_are_those_of_the_hedger(hedger, base):
    golden = replay(base / "1", hedger.problem.claim)
    as_graph = tf.function(hedger, autograph=False)
    expected = as_graph(hedger.problem.features(golden["spot"], golden["variance"]))
    assert_array_equal(golden["action"], expected)


def test_the_policy_that_comes_with_the_package():
    """It answers as it did, and its card says what its description says."""
    folder = ROOT / "saved_models" / "cliquet"
    problem = th.HedgingProblem.from_paper()
    golden = replay(folder / "1", problem.claim)
    assert golden["action"].shape == (3, problem.num_steps, problem.num_instruments)
    description = json.loads((folder / "1" / "hedge.json").read_text())
    assert description["market"] == dataclasses.asdict(problem.market)
    card = (folder / "README.md").read_text()
    training = description["training"]
    assert f"{training['steps']} steps" in card
    assert f"{training['pnl_std']:.5f}" in card
    assert sum(x.stat().st_size for x in folder.rglob("*")) < 5e6


@pytest.mark.parametrize("num_paths", [1, 4096])
def test_every_number_of_paths_is_served(hedger, base, paths, num_paths):
    loaded = tf.saved_model.load(base / "1").signatures
    spot, variance = paths(num_paths)
    expected = hedger.predict(hedger.problem.features(spot, variance), verbose=0)
    scale = np.abs(expected).max()
    by_rollout = loaded["rollout"](spot=tf.constant(spot), variance=tf.constant(variance))
    by_step = unroll(loaded, hedger.problem.claim.observables(spot), spot, variance)
    assert_allclose(by_rollout["action"], expected, rtol=0.0, atol=1e-5 * scale)
    assert_allclose(by_step, expected, rtol=0.0, atol=1e-5 * scale)


def test_signatures_are_flat_and_named_with_the_batch_axis_first(hedger, base):
    signatures = tf.saved_model.load(base / "1").signatures
    shapes = {
        name: (
            {key: spec.shape.rank and spec.shape.as_list() for key, spec in inputs.items()},
            {key: x.shape.as_list() for key, x in signature.structured_outputs.items()},
        )
        for name, signature in signatures.items()
        for inputs in [signature.structured_input_signature[1]]
    }
    sizes = dict(zip(hedger.policy.cell.state_names, hedger.policy.cell.state_size, strict=True))
    states = {name: [None, size] for name, size in sizes.items()}
    observed = ["t", "spot", "variance", "spot_at_last_reset", "accrued"]
    step = ({x: [None] for x in observed} | states, {"action": [None, 3], "valid": [None]} | states)
    rollout = {"action": [None, 6, 3], "valid": [None, 6]}
    assert shapes == {
        "serving_default": step,
        "step": step,
        "initial_state": ({"batch_size": None}, states),
        "rollout": ({"spot": [None, 6], "variance": [None, 6]}, rollout),
    }
    assert next(iter(sizes)) == "prev_action"


def test_the_description_says_what_the_numbers_mean(hedger, base):
    description = json.loads((base / "1" / "hedge.json").read_text())
    options = hedger.problem.instruments.describe()
    assert description["instruments"] == [{"type": "underlying"}, *options]
    kinds = [option["type"] for option in options]
    assert kinds == ["call", "put"]
    assert description["num_steps"] == 6
    assert description["claim"] == {"type": "Cliquet", "num_periods": 2, "period": 3, "cap": 0.015}
    assert description["market"]["spot"] == 80.0
    assert description["training"] == {"seed": 3}
    assert set(description["states"]) == set(hedger.policy.cell.state_names)


def test_saved_model_cli_shows_and_runs_it(cases, tmp_path):
    hedger, base = cases("floating grid")
    tool = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    shown = run([*tool, "show", "--dir", str(base / "1"), "--all"], tmp_path)
    assert all(f"signature_def['{name}']" in shown for name in ("step", "rollout"))
    spot, variance = (x[:, :-1] for x in hedger.problem.simulate(2, seed=3))
    for name, path in (("spot", spot), ("variance", variance)):
        np.save(tmp_path / f"{name}.npy", path)
    options = "--tag_set serve --signature_def rollout --outdir . --inputs".split()
    inputs = "spot=spot.npy;variance=variance.npy"
    run([*tool, "run", "--dir", str(base / "1"), *options, inputs], tmp_path)
    assert np.load(tmp_path / "action.npy").shape == (2, 6, 3)
    assert np.load(tmp_path / "valid.npy").all()


def test_versions_stand_side_by_side_and_none_is_overwritten(cases):
    """The next is of a hedger that has never been called."""
    hedger, base = cases("floating grid")
    other = th.DeepHedger(hedger.problem, th.RecurrentPolicy(units=2, num_blocks=1))
    assert th.export(other, base, version=7) == base / "7"
    assert th.export(other, base) == base / "8"
    files = {path: path.stat().st_mtime_ns for path in (base / "1").rglob("*")}
    with pytest.raises(FileExistsError, match=r"1 is there already: choose another version"):
        th.export(other, base, version=1)
    versions = sorted(path.name for path in base.iterdir() if path.is_dir())
    assert versions == ["1", "7", "8"]
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


class AsianCall:
    """A claim as in notebook 5, but for what its dataclass says."""

    num_steps = 4

    def payoff(self, spot):
        return tf.nn.relu(tf.reduce_mean(spot[:, 1:], axis=1) - 80.0)

    def observables(self, spot):
        return {"total": tf.cumsum(spot, axis=1) - spot[:, :1]}

    def features_at(self, step, spot, total):
        return tf.stack([total / 320.0], axis=-1)


def test_a_claim_of_ones_own_is_exported(tmp_path):
    problem = th.HedgingProblem(
        market=th.Heston(spot=80.0, v0=0.0625, kappa=8.0, theta=0.0625, xi=1.0, rho=-0.7),
        claim=AsianCall(),
        instruments=th.FloatingGrid(maturities=(2,), strikes=(1.0,)),
        objective=th.MeanVariance(risk_aversion=1000.0),
    )
    th.export(th.DeepHedger(problem, th.RecurrentPolicy(3, num_blocks=1)), tmp_path / "asian")
    told = json.loads((tmp_path / "asian/1/hedge.json").read_text())
    assert told["claim"] == {"type": "AsianCall"}
    assert told["ranges"].keys() == {"spot", "variance", "total"}
    assert "accrued" not in told["units"]


def test_the_initial_states_are_zeros_for_a_number_or_a_vector_that_sums_up_to_it(base):
    initial_state = tf.saved_model.load(base / "1").signatures["initial_state"]
    for batch_size in (3, [3], [1, 1, 1]):
        for state in initial_state(batch_size=tf.constant(batch_size)).values():
            assert_array_equal(state, np.zeros([3, state.shape[1]]))


def test_a_policy_of_half_precision_is_exported(cases, tmp_path):
    """Positions are subtracted as exactly in one step as along the path."""
    problem = cases("floating grid")[0].problem
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(3, num_blocks=1, dtype="mixed_bfloat16"))
    rng = np.random.default_rng(0)
    hedger.set_weights([rng.normal(0.0, 0.25, w.shape) for w in hedger.weights])
    assert th.export(hedger, tmp_path / "models") == tmp_path / "models" / "1"
