"""The hedger as a Keras user meets it: compile, fit, evaluate, predict, save."""

import dataclasses
import re
from unittest import mock

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import tfhedge as th
from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer
from tfhedge.training.metric import HedgeMetric
from tfhedge.training.path_statistics import PathStatistics

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=4, cap=0.015),
    instruments=th.FloatingGrid(maturities=(4, 2), strikes=(1.01, 1.0)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)
# A new optimizer is one more row; the share of the loss that has to go in 24 steps of 64 paths.
OPTIMIZERS = {
    "dh-kfac": (lambda: th.DHKFAC(), 0.3),
    "algorithm 1": (lambda: th.DHKFAC.paper(num_curvature_paths=16), 0.2),
    "adam": (lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0), 0.1),
}
METRICS = ["cost", "loss", "pnl_std"]


def new_hedger(optimizer="adam", **options):
    hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(units=4, num_blocks=1))
    hedger.compile(optimizer=optimizer, **options)
    return hedger


@pytest.fixture(scope="module")
def trading_hedger():
    """A hedger that is not trained, and trades."""
    hedger = new_hedger()
    hedger(PROBLEM.episodes(1, seed=0)[0])
    rng = np.random.default_rng(0)
    hedger.set_weights([rng.normal(0.0, 0.2, w.shape) for w in hedger.weights])
    return hedger


@pytest.fixture(scope="module", params=OPTIMIZERS.values(), ids=OPTIMIZERS)
def training(request):
    """What a user gets from `fit`, with the validation loss before it and how it should fall."""
    make_optimizer, share = request.param
    keras.utils.set_random_seed(0)
    hedger = new_hedger(make_optimizer())
    before = by_hand(hedger, 200, seed=1)["loss"]
    with mock.patch.object(hedger, "train_step", side_effect=hedger.train_step) as train_step:
        history = hedger.fit(
            PROBLEM.dataset(500, 64),  # the last of eight batches has 52 paths
            epochs=3,
            validation_data=PROBLEM.dataset(200, 128, seed=1),
            verbose=0,
        ).history
    hedger.num_traces = train_step.call_count
    return hedger, history, (1.0 - share) * before


def by_hand(hedger, num_paths, seed):
    """Metrics of all paths at once."""
    features, (returns, payoff) = (
        tf.nest.map_structure(np.float64, part) for part in PROBLEM.episodes(num_paths, seed)
    )
    actions = np.float64(hedger(features))
    pnl = np.sum(actions * returns, axis=(1, 2)) - payoff
    cost = np.mean(np.abs(actions) @ [1e-4, 1e-2, 1e-2], axis=0).sum()
    return {"loss": 1000.0 * pnl.var() + cost, "pnl_std": pnl.std(), "cost": cost}


def test_fit_lowers_the_loss(training):
    hedger, history, target = training
    after = by_hand(hedger, 200, seed=1)
    assert after["loss"] < target
    own = ["rejected_steps"] if isinstance(hedger.optimizer, KroneckerOptimizer) else []
    assert sorted(history) == sorted(METRICS + own + [f"val_{name}" for name in METRICS])
    assert {len(values) for values in history.values()} == {3}
    assert np.all(np.isfinite(list(history.values())))
    for name in METRICS:
        assert_allclose(history[f"val_{name}"][-1], after[name], rtol=1e-4)
    assert int(hedger.optimizer.iterations) == 24
    if isinstance(hedger.optimizer, KroneckerOptimizer):
        assert float(hedger.optimizer.rejected_steps) == 0.0
        assert float(hedger.optimizer.step_size) > 0.0


def test_a_checkpoint_keeps_the_weights_and_the_state_of_the_optimizer(training, tmp_path):
    hedger, *_ = training
    path = tf.train.Checkpoint(hedger).save(str(tmp_path / "checkpoint"))
    other = new_hedger(type(hedger.optimizer)())
    features, _ = PROBLEM.episodes(3, seed=0)
    other(features)
    other.optimizer.build(other.trainable_variables)
    tf.train.Checkpoint(other).restore(path).assert_existing_objects_matched()
    assert_array_equal(other(features), hedger(features))
    pairs = zip(hedger.optimizer.variables, other.optimizer.variables, strict=True)
    for variable, restored in pairs:
        if "learning_rate" not in variable.path:  # the other one was not given ours
            assert_array_equal(restored, variable)


def test_a_fixed_grid_is_hedged_by_positions():
    grid = th.FixedGrid((4, 8, 9), (1.0, 1.01, 0.99), (True, True, False))
    problem = dataclasses.replace(PROBLEM, instruments=grid)
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(4, num_blocks=1))
    hedger.compile(optimizer=th.DHKFAC())
    before = hedger.get_weights()
    history = hedger.fit(problem.dataset(3 * 64, 64), verbose=0).history
    assert np.all(np.isfinite(list(history.values())))
    assert int(hedger.optimizer.iterations) == 3
    assert all(np.any(x != y) for x, y in zip(before, hedger.get_weights(), strict=True))
    assert float(hedger.optimizer.rejected_steps) == 0.0
    features, _ = problem.episodes(2, seed=1)
    trades = hedger(features)
    assert np.all(trades.numpy()[:, problem.availability == 0.0] == 0.0)
    positions = hedger.policy(features, problem.availability)
    assert_allclose(grid.holdings(trades), positions, rtol=1e-5, atol=1e-7)
    assert_allclose(hedger.actions(features), trades, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_dense_policy_learns_and_is_reported_on(name):
    keras.utils.set_random_seed(0)
    make_optimizer, _ = OPTIMIZERS[name]
    hedger = th.DeepHedger(PROBLEM, th.DensePolicy(units=4, num_blocks=1))
    hedger.compile(optimizer=make_optimizer())
    before = by_hand(hedger, 200, seed=1)["loss"]
    hedger.fit(PROBLEM.dataset(1024, 64), verbose=0)
    assert by_hand(hedger, 200, seed=1)["loss"] < 0.9 * before
    if isinstance(hedger.optimizer, KroneckerOptimizer):
        paths = [block.weights[0] for block in hedger.curvature_report().blocks]
        layers = [path.split("/")[-2] for path in paths]
        assert layers == ["inlet", "scale_0", "dense_0", "outlet"]


@pytest.mark.parametrize(("num_paths", "batch_size"), [(100, 33), (1, 5)])
def test_metrics_are_those_of_all_paths_at_once(trading_hedger, num_paths, batch_size):
    hedger = trading_hedger
    dataset = PROBLEM.dataset(num_paths, batch_size, seed=5)
    expected = by_hand(hedger, num_paths, seed=5)
    for _ in range(2):  # nothing is left over from the first time
        metrics = hedger.evaluate(dataset, verbose=0, return_dict=True)
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-7, err_msg=name)


def test_the_variance_does_not_cancel():
    """The mean is ten thousand times the standard deviation."""
    metric, rng = HedgeMetric(PROBLEM.objective), np.random.default_rng(0)
    pnl, cost = 10.0 + 1e-3 * rng.normal(size=1000), rng.uniform(size=1000)
    for batch in np.split(np.arange(1000), [10, 400, 401]):
        metric.update_state(pnl[batch], cost[batch])
    assert_allclose(metric.result()["pnl_std"], pnl.std(), rtol=1e-10)
    assert_allclose(metric.result()["cost"], cost.mean(), rtol=1e-12)
    metric.reset_state()
    assert np.all(np.isnan(list(metric.result().values())))


@dataclasses.dataclass(frozen=True)
class CallOnNotional:
    """A sold call on a notional of 100."""

    num_steps: int = 6

    def payoff(self, spot):
        return 100.0 * tf.nn.relu(spot[:, -1] / spot[:, 0] - 0.9)

    def observables(self, spot):
        return {}

    def features_at(self, step, spot):
        return tf.broadcast_to(tf.cast(step, spot.dtype), tf.shape(spot))[..., tf.newaxis]


@pytest.mark.parametrize(
    ("changes", "shifts"),
    [
        ({"objective": th.EntropicRisk(1000.0)}, [-0.8, 0.8]),
        ({"objective": th.EntropicRisk(50.0), "claim": CallOnNotional()}, [0.0]),
    ],
    ids=["shifted", "notional of 100"],
)
def test_entropic_risks_of_large_losses_and_gains_are_reported(changes, shifts):
    """By `fit` and by `evaluate`, in batches of which the last is smaller."""
    problem = dataclasses.replace(PROBLEM, **changes)
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(units=4, num_blocks=1))
    hedger.compile(optimizer=keras.optimizers.SGD(0.0))
    features, (returns, payoff) = problem.episodes(70, seed=1)
    actions = hedger(features)
    gains = tf.reduce_sum(tf.cast(actions, tf.float64) * np.float64(returns), [1, 2])
    a, cost = problem.objective.risk_aversion, np.float64(problem.cost(actions))
    for shift in shifts:
        data = features, (returns, payoff + shift)
        losses = np.float64(payoff + shift) - gains + cost
        expected = (scipy.special.logsumexp(a * losses) - np.log(70)) / a
        history = hedger.fit(*data, batch_size=32, verbose=0).history
        assert_allclose(history["loss"], expected, rtol=1e-5)
        metrics = hedger.evaluate(*data, batch_size=32, verbose=0, return_dict=True)
        assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_training_is_traced_once_for_batches_of_all_sizes(training):
    hedger, *_ = training
    assert hedger.num_traces == 1


def test_evaluation_is_traced_once_for_batches_of_all_sizes():
    hedger, dataset = new_hedger(), PROBLEM.dataset(10, 4)
    hedger(PROBLEM.episodes(1, seed=0)[0])
    with mock.patch.object(hedger, "test_step", side_effect=hedger.test_step) as test_step:
        for _ in range(2):
            hedger.evaluate(dataset, verbose=0)
    assert test_step.call_count == 1


def test_predict_gives_the_trades(trading_hedger):
    hedger = trading_hedger
    features, _ = PROBLEM.episodes(10, seed=0)
    actions = hedger.predict(features, batch_size=4, verbose=0)
    assert_allclose(actions, hedger(features), rtol=1e-5, atol=1e-7)
    assert np.all(actions[:, PROBLEM.availability == 0.0] == 0.0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_weights_are_saved_and_loaded(trading_hedger, tmp_path):
    hedger, other = trading_hedger, new_hedger()
    hedger.save_weights(tmp_path / "hedger.weights.h5")
    features, _ = PROBLEM.episodes(3, seed=0)
    other(features)
    other.load_weights(tmp_path / "hedger.weights.h5")
    assert_allclose(other(features), hedger(features), rtol=1e-6)


def test_a_single_batch_can_be_trained_on_but_not_weighted():
    hedger = new_hedger()
    features, target = PROBLEM.episodes(64, seed=0)
    before = hedger.test_on_batch(features, target, return_dict=True)
    assert hedger.train_on_batch(features, target, return_dict=True) == pytest.approx(before)
    assert hedger.test_on_batch(features, target, return_dict=True)["loss"] < before["loss"]
    with pytest.raises(ValueError, match="Expected no `sample_weight`"):
        hedger.train_on_batch(features, target, sample_weight=np.ones(64))


def test_other_optimizers_may_scale_the_loss():
    hedger = new_hedger(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)))
    before = hedger.evaluate(FEATURES, (RETURNS, PAYOFF), return_dict=True, verbose=0)["loss"]
    for _ in range(3):
        hedger.train_on_batch(FEATURES, (RETURNS, PAYOFF))
    after = hedger.evaluate(FEATURES, (RETURNS, PAYOFF), return_dict=True, verbose=0)["loss"]
    assert after < before


def test_report_is_on_fresh_paths(trading_hedger):
    hedger = trading_hedger
    report = hedger.evaluate_hedge(num_paths=50, seed=(4, 2), batch_size=20)
    expected = by_hand(hedger, 50, seed=(4, 2))
    assert_allclose(report.statistics["learned"].loss, expected["loss"], rtol=1e-4)
    assert_allclose(report.statistics["learned"].std, expected["pnl_std"], rtol=1e-4)
    assert_allclose(report.statistics["learned"].cost, expected["cost"], rtol=1e-4)


def test_dh_kfac_runs_without_a_graph():
    hedger = new_hedger(th.DHKFAC(), run_eagerly=True)
    hedger.fit(PROBLEM.dataset(16, 8), verbose=0)
    assert float(hedger.optimizer.rejected_steps) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("make", [th.DHKFAC, th.DHKFAC.paper])
def test_the_whole_step_may_be_compiled(make, monkeypatch):
    def noise(shape, seed, dtype):  # XLA draws other numbers than TensorFlow
        x = tf.cast(tf.range(tf.reduce_prod(shape)), dtype)
        return tf.reshape(1.4 * tf.sin(x**2), shape)

    monkeypatch.setattr(tf.random, "stateless_normal", noise)
    runs = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(4, 1, dtype="float64"))
        hedger.compile(make(), jit_compile=jit_compile)
        hedger.fit(PROBLEM.dataset(128, 64), verbose=0)
        assert float(hedger.optimizer.rejected_steps) == 0.0
        runs.append(np.concatenate([w.ravel() for w in hedger.get_weights()]))
    assert_allclose(*runs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [th.DHKFAC, th.DHKFAC.paper])
def test_a_path_that_is_no_number_is_not_learned_from(make):
    hedger = new_hedger(make())
    features, (returns, payoff) = PROBLEM.episodes(16, seed=0)
    spoiled = returns.numpy()
    spoiled[3, 2, 1] = np.nan
    weights = hedger.get_weights()
    result = hedger.train_on_batch(features, (spoiled, payoff), return_dict=True)
    assert result["rejected_steps"] == 1.0
    for before, after in zip(weights, hedger.get_weights(), strict=True):
        assert_array_equal(after, before)
    hedger.reset_metrics()
    assert hedger.train_on_batch(features, (returns, payoff), return_dict=True)["loss"] > 0.0
    assert any(np.any(x != y) for x, y in zip(weights, hedger.get_weights(), strict=True))


def test_the_trust_region_of_a_hedger_is_a_share_of_its_loss_and_of_the_signal():
    hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(4, 1, dtype="float64"))
    hedger.compile(th.DHKFAC(trust_region=1e-4), run_eagerly=True)
    features, target = PROBLEM.episodes(16, seed=0)
    before = hedger.get_weights()
    features, *target = (np.float64(x) for x in (features, *target))
    trades = hedger(features)
    pnl, cost = PROBLEM.pnl(trades, *target), PROBLEM.cost(trades)
    loss = PROBLEM.objective.loss(pnl, cost)
    hedger.train_on_batch(features, target)
    update = [y - x for x, y in zip(before, hedger.get_weights(), strict=True)]
    hedger.set_weights(before)
    _, gram, _ = hedger.curvature(features, *target, pnl, cost).quadratic([update], 16)
    signal = hedger.optimizer.signal.numpy()
    assert 0.0 < signal < 1.0
    assert_allclose(gram, [[1e-4 * signal**2 * loss]], rtol=1e-6)


def test_all_of_it_may_be_float64_and_the_objective_another():
    problem = dataclasses.replace(PROBLEM, objective=th.EntropicRisk(risk_aversion=100.0))
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(units=4, num_blocks=1, dtype="float64"))
    hedger.compile(optimizer=th.DHKFAC())
    statistics = PathStatistics(PROBLEM.episodes(64, seed=1))
    paths = PROBLEM.dataset(256, 64)
    history = hedger.fit(paths, epochs=2, callbacks=[statistics], verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    assert np.all(np.array(history["gradient_variance"]) > 0.0)
    report = hedger.evaluate_hedge(64, seed=1)
    by_keras = hedger.evaluate(PROBLEM.dataset(64, 64, seed=1), verbose=0, return_dict=True)
    assert report.statistics["learned"].loss == pytest.approx(by_keras["loss"], rel=1e-4)
    assert {w.dtype for w in hedger.trainable_weights} == {"float64"}
    assert {block.diagonal.dtype for block in hedger.optimizer.blocks} == {"float64"}


FEATURES, (RETURNS, PAYOFF) = PROBLEM.episodes(16, seed=0)


@pytest.mark.parametrize(
    ("batch", "complaint"),
    [
        ((FEATURES, (RETURNS, PAYOFF[:, None])), "`payoff` to be of shape [num_paths]"),
        ((FEATURES[..., :-1], (RETURNS, PAYOFF)), "`features` to be of shape [num_paths, 8, 10]"),
        ((FEATURES[:, :-1], (RETURNS, PAYOFF)), "`features` to be of shape"),
        ((FEATURES, (RETURNS[..., :2], PAYOFF)), "`returns` to be of shape [num_paths, 8, 3]"),
        ((FEATURES, (PAYOFF, RETURNS)), "`returns` to be of shape"),
        ((FEATURES, RETURNS), "Expected batches `(features, (returns, payoff))`"),
        ((FEATURES,), "Expected batches `(features, (returns, payoff))`"),
    ],
)
def test_batches_of_another_problem_are_refused_and_leave_no_trace(batch, complaint):
    hedger = new_hedger()
    for method in (hedger.fit, hedger.evaluate):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            method(*batch, verbose=0)
    hedger.fit(FEATURES, (RETURNS, PAYOFF), batch_size=8, verbose=0)


@pytest.mark.parametrize("part", [0, 1])
def test_batches_with_fewer_payoffs_or_returns_than_paths_are_refused(part):
    hedger, target = new_hedger(), [RETURNS, PAYOFF]
    target[part] = target[part][:9]
    for method in (hedger.train_on_batch, hedger.test_on_batch):
        with pytest.raises(ValueError, match="one number of paths"):
            method(FEATURES, target)

    def batches():
        yield FEATURES, tuple(target)

    specs = tf.nest.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]]), (FEATURES, (RETURNS, PAYOFF))
    )
    batches = tf.data.Dataset.from_generator(batches, output_signature=specs)
    for method in (hedger.fit, hedger.evaluate):
        with pytest.raises(tf.errors.InvalidArgumentError, match="one number of paths"):
            method(batches, verbose=0)


def test_features_of_another_problem_are_refused(trading_hedger):
    trading_hedger.predict(FEATURES, verbose=0)
    for method in (trading_hedger, trading_hedger.actions):
        with pytest.raises(ValueError, match="Expected `features` to be of shape"):
            method(FEATURES[:, :4])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"expected shape \[\?,8,10\]"):
        trading_hedger.predict(FEATURES[:, :4], verbose=0)  # by the graph that is there


def test_a_policy_of_which_a_part_is_frozen_is_for_other_optimizers():
    hedger = new_hedger()
    hedger.policy.cell.linear_layers[0].trainable = False
    hedger.compile("adam")
    with pytest.raises(ValueError, match=r"as a whole, for dh_kfac.* one with 2"):
        hedger.compile(th.DHKFAC())
    late = new_hedger(th.DHKFAC())
    late.policy.trainable = False
    with pytest.raises(ValueError, match="as a whole, for dh_kfac"):
        late.train_on_batch(FEATURES, (RETURNS, PAYOFF))


def test_a_policy_is_no_problem():
    policy = th.RecurrentPolicy(4, 1)
    with pytest.raises(ValueError, match="Expected `problem` to be a HedgingProblem"):
        th.DeepHedger(policy, PROBLEM)
    for other in ("recurrent", th.RecurrentPolicy, keras.layers.Dense(2), None):
        with pytest.raises(ValueError, match="Expected `policy` to be a policy"):
            th.DeepHedger(PROBLEM, other)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"loss": "mse"}, "Expected no `loss`"),
        ({"metrics": ["mae"]}, "Expected no `metrics`"),
        ({"weighted_metrics": ["mae"]}, "Expected no `weighted_metrics`"),
        ({"loss_weights": [1.0]}, "Expected no `loss_weights`"),
        ({"optimizer": None}, "Expected an optimizer"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(th.DHKFAC())}, "none around a `DHKFAC`"),
        ({"strategy": tf.distribute.get_strategy()}, "`strategy` to be a MirroredStrategy or"),
        ({"strategy": "mirrored"}, "Received: 'mirrored'"),
    ],
)
def test_what_would_not_be_heeded_is_refused(options, complaint, trading_hedger):
    optimizer = trading_hedger.optimizer
    with pytest.raises(ValueError, match=complaint):
        trading_hedger.compile(**options)
    assert trading_hedger.optimizer is optimizer


def test_shapes_are_known_before_there_are_numbers(trading_hedger):
    assert trading_hedger.compute_output_shape((None, 8, 10)) == (None, 8, 3)
    assert trading_hedger.policy.compute_output_shape((7, 8, 10), (8, 3)) == (7, 8, 3)
    assert trading_hedger.actions(FEATURES.numpy().tolist()).shape == (16, 8, 3)
