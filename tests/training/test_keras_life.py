"""Saving, callbacks, precision and schedules, as they are for any Keras model."""

import csv
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.training.schedules import WarmUpExponentialDecay

FLOATING = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=4, cap=0.015),
    instruments=th.FloatingGrid(maturities=(4, 2), strikes=(1.01, 1.0)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)
CONTRACTS = th.FixedGrid(expiries=(3, 6), strikes=(1.01, 1.0), is_call=(True, False))
FIXED = dataclasses.replace(FLOATING, instruments=CONTRACTS)
DECAY = keras.optimizers.schedules.ExponentialDecay

POLICIES = {
    "floating grid": (FLOATING, lambda: th.RecurrentPolicy(4, num_blocks=1)),
    "fixed grid": (FIXED, lambda: th.RecurrentPolicy(4, num_blocks=1)),
    "feed-forward": (FLOATING, lambda: th.DensePolicy(4, num_blocks=1), "trades"),
}
OPTIMIZERS = {
    "dh-kfac": th.DHKFAC,
    "dh-kfac with schedules": lambda: th.DHKFAC(DECAY(0.8, 1, 0.99), trust_region=DECAY(2, 1, 0.9)),
    "algorithm 1": lambda: th.DHKFAC.paper(trust_region=1e-3, num_curvature_paths=4),
    "adam": lambda: keras.optimizers.Adam(WarmUpExponentialDecay(0.01, 3, 0.99)),
}


def new_hedger(policy="floating grid", optimizer="dh-kfac"):
    problem, make_policy, *controls = POLICIES[policy]
    keras.utils.set_random_seed(0)
    hedger = th.DeepHedger(problem, make_policy(), *controls)
    hedger.compile(optimizer=OPTIMIZERS[optimizer]())
    return hedger


def train(hedger, epochs=1, **options):
    """Trains for four steps in an epoch."""
    return hedger.fit(hedger.problem.dataset(128, 32), epochs=epochs, verbose=0, **options)


def assert_equal_weights(one, other):
    for x, y in zip(one.get_weights(), other.get_weights(), strict=True):
        assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("policy", "optimizer"),
    [
        ("floating grid", "dh-kfac with schedules"),
        ("fixed grid", "adam"),
        ("feed-forward", "algorithm 1"),
    ],
)
def test_a_saved_hedger_trades_and_trains_on_as_it_would_have(policy, optimizer, tmp_path):
    hedger = new_hedger(policy, optimizer)
    train(hedger)
    hedger.save(tmp_path / "hedger.keras")
    loaded = keras.saving.load_model(tmp_path / "hedger.keras")
    assert loaded.problem == hedger.problem
    assert loaded.optimizer.get_config() == hedger.optimizer.get_config()
    features, _ = hedger.problem.episodes(5, seed=1)
    assert_array_equal(loaded.predict(features, verbose=0), hedger.predict(features, verbose=0))
    for model in (hedger, loaded):
        train(model)
    assert int(loaded.optimizer.iterations) == 8
    assert_equal_weights(loaded, hedger)


@pytest.mark.parametrize(
    "value",
    [
        th.Heston.from_paper(),
        th.Cliquet.from_paper(),
        th.FloatingGrid.from_paper(spot_cost=0.0),
        CONTRACTS,
        th.MeanVariance(10.0),
        th.EntropicRisk(10.0),
        FIXED,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_problem_is_made_of_can_be_made_again(value):
    assert type(value).from_config(value.get_config()) == value
    encoded = keras.saving.serialize_keras_object(value)
    assert keras.saving.deserialize_keras_object(encoded) == value


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_can_be_made_again(name):
    optimizer = OPTIMIZERS[name]()
    again = type(optimizer).from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    encoded = keras.saving.serialize_keras_object(optimizer)
    assert keras.saving.deserialize_keras_object(encoded).get_config() == optimizer.get_config()


def test_the_callbacks_of_keras_see_all_there_is_to_see(tmp_path):
    hedger = new_hedger()
    callbacks = [
        th.OptimizerStatistics(),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_loss", save_best_only=True),
        keras.callbacks.EarlyStopping("val_pnl_std", min_delta=1e9, patience=2, mode="min"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = train(hedger, 9, validation_data=FLOATING.dataset(64, 32, 1), callbacks=callbacks)
    logs = history.history
    assert len(logs["loss"]) == 3  # stopped early
    hedged = {f"{prefix}{x}" for prefix in ("", "val_") for x in ("loss", "cost", "pnl_std")}
    settings = {"step_size", "damping", "trust_region", "signal", "rejected_steps"}
    blocks = {
        f"{statistic}_{layer}"
        for layer in ("inlet", "scale_0", "gates_0", "outlet")
        for statistic in (
            *(f"{x}_eigenvalue" for x in ("largest", "mean", "smallest")),
            "condition",
        )
    }
    assert set(logs) == hedged | settings | blocks
    assert_allclose(logs["trust_region"], 0.3, rtol=1e-6)
    assert 0.0 < min(logs["signal"]) <= max(logs["signal"]) <= 1.0
    diagonal = hedger.optimizer.blocks[0].diagonal.numpy()
    assert logs["largest_eigenvalue_inlet"][-1] == diagonal.max()

    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert_allclose([float(row["trust_region"]) for row in rows], logs["trust_region"])
    shown = {
        value.tag.removeprefix("epoch_")
        for path in (tmp_path / "board").rglob("events*")
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert shown >= blocks | settings | {"loss", "cost", "pnl_std"}
    best = keras.saving.load_model(tmp_path / "best.keras")
    loss = best.evaluate(FLOATING.dataset(64, 32, 1), verbose=0, return_dict=True)["loss"]
    assert_allclose(loss, min(logs["val_loss"]), rtol=1e-6)


def test_backup_and_restore_goes_on_where_it_was_interrupted(tmp_path):
    class Interruption(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    with pytest.raises(KeyboardInterrupt):
        train(new_hedger(), 4, callbacks=[backup, Interruption()])
    resumed = new_hedger()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    history = train(resumed, 4, callbacks=[backup])
    assert history.epoch == [2, 3]
    undisturbed = new_hedger()
    train(undisturbed, 4)
    assert_equal_weights(resumed, undisturbed)


def test_a_trained_policy_goes_on_in_another_market():
    policy = new_hedger().policy
    market = dataclasses.replace(FLOATING.market, xi=0.5)
    other = th.DeepHedger(dataclasses.replace(FLOATING, market=market), policy)
    other.compile(optimizer="adam")
    before = policy.get_weights()
    train(other)
    assert not np.array_equal(policy.get_weights()[0], before[0])
    fewer = dataclasses.replace(FLOATING, instruments=th.FloatingGrid((4,), (1.01,)))
    with pytest.raises(ValueError, match=r"\(2, 10\). Received one that was built for \(3, 10\)"):
        th.DeepHedger(fewer, policy)


@pytest.mark.parametrize("optimizer", [pytest.param("dh-kfac", marks=pytest.mark.slow), "adam"])
def test_mixed_precision_trains_nearly_as_float32(optimizer):
    losses = {}
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        keras.utils.set_random_seed(0)
        policy = th.RecurrentPolicy(4, num_blocks=1, dtype=precision)
        hedger = th.DeepHedger(FLOATING, policy)
        hedger.compile(optimizer=OPTIMIZERS[optimizer]())
        losses[precision] = train(hedger, 3).history["loss"]
        assert {v.dtype for v in hedger.trainable_variables} == {"float32"}
        assert hedger(FLOATING.episodes(2, seed=1)[0]).dtype == "float32"  # trades are exact
    exact, *rounded = losses.values()
    assert exact[-1] < 0.9 * exact[0]
    for course in rounded:
        assert_allclose(course, exact, rtol=0.02)


@pytest.mark.slow
def test_learning_rate_and_trust_region_may_follow_schedules():
    schedules = {"learning_rate": DECAY(1.0, 1, 1.0), "trust_region": DECAY(0.3, 1, 1.0)}
    hedgers = []
    for optimizer in (th.DHKFAC(), th.DHKFAC(**schedules)):
        keras.utils.set_random_seed(0)
        hedger = th.DeepHedger(FLOATING, th.RecurrentPolicy(4, num_blocks=1))
        hedger.compile(optimizer=optimizer)
        train(hedger)
        hedgers.append(hedger)
    for x, y in zip(*(hedger.get_weights() for hedger in hedgers), strict=True):
        assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_own_paths_are_trained_on_as_those_that_are_simulated(tmp_path):
    spot, variance = FLOATING.simulate(70, seed=4)
    np.savez(tmp_path / "paths.npz", spot=spot, variance=variance)
    own = FLOATING.dataset_along(**np.load(tmp_path / "paths.npz"), batch_size=32)
    simulated = FLOATING.dataset(70, 32, seed=4)
    assert len(own) == len(simulated) == 3
    for batch, expected in zip(own, simulated, strict=True):
        for x, y in zip(tf.nest.flatten(batch), tf.nest.flatten(expected), strict=True):
            assert_allclose(x, y, rtol=1e-6, atol=1e-7)
    new_hedger().fit(own, epochs=2, verbose=0)


def test_a_hedger_is_loaded_as_it_was_compiled_and_frozen(tmp_path):
    hedger = new_hedger(optimizer="adam")
    hedger.trainable = False
    hedger.compile("sgd", steps_per_execution=2, run_eagerly=True)
    hedger.save(tmp_path / "hedger.keras")
    loaded = keras.saving.load_model(tmp_path / "hedger.keras")
    assert (loaded.steps_per_execution, loaded.run_eagerly) == (2, True)
    assert not loaded.trainable_variables
    with pytest.raises(TypeError, match="dtype"):  # the policy's is what counts
        th.DeepHedger(FLOATING, th.RecurrentPolicy(4, 1), dtype="float64")


@th.serializable
@dataclasses.dataclass(frozen=True)
class Forward:
    """A claim of one's own."""

    num_steps: int = 3

    def payoff(self, spot):
        return spot[:, -1] - 1.0

    def observables(self, spot):
        return {}

    def features_at(self, step, spot):
        return tf.stack([tf.broadcast_to(tf.cast(step, spot.dtype), tf.shape(spot))], axis=-1)


def test_a_claim_of_ones_own_is_saved_and_loaded(tmp_path):
    problem = dataclasses.replace(FLOATING, claim=Forward())
    th.DeepHedger(problem, th.RecurrentPolicy(4, 1)).save(tmp_path / "hedger.keras")
    assert keras.saving.load_model(tmp_path / "hedger.keras").problem == problem


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"spot": np.full([3, 9], 100.0)}, "paths that start at the market's spot"),
        ({"variance": np.full([3, 9], 625.0)}, "annual variances of at most"),
        ({"spot": np.ones([3, 8])}, r"shape \[num_paths, 9\]"),
        ({"variance": np.ones([2, 9])}, r"shape \[num_paths, 9\]"),
        ({"spot": np.ones([0, 9]), "variance": np.ones([0, 9])}, r"shape \[num_paths, 9\]"),
        ({"spot": np.ones(9)}, r"shape \[num_paths, 9\]"),
        ({"spot": np.zeros([3, 9])}, "`spot` to be positive"),
        ({"spot": np.full([3, 9], np.nan)}, "`spot` to be positive"),
        ({"variance": np.full([3, 9], -0.1)}, "`variance` to be non-negative"),
        ({"variance": [["a"] * 9] * 3}, "`variance` to be non-negative"),
        ({"batch_size": 0}, "`batch_size` to be a positive integer"),
    ],
)
def test_paths_that_are_none_are_refused(changes, complaint):
    paths = {"spot": np.ones([3, 9]), "variance": np.ones([3, 9]), "batch_size": 2}
    with pytest.raises(ValueError, match=complaint):
        FLOATING.dataset_along(**paths | changes)
