"""The robustness experiment: its claims, its design, and how it judges."""

import itertools
import json
from collections import Counter

import claims
import numpy as np
import pytest
import robustness
import tensorflow as tf
from robustness_design import ADAMS, DHKFAC, FACTORS, OPTIMIZERS, Trial, design, select
from robustness_runs import judged, read_rows, run_trial

import tfhedge as th
from tfhedge.files import write_json

NUM_STEPS = 24
DATES = range(6, 25, 6)
CLAIMS = {
    claims.Call(NUM_STEPS, 1.0): lambda x: max(x[-1] - 1.0, 0.0),
    claims.CallSpread(NUM_STEPS, 0.98, 1.04): lambda x: (
        max(x[-1] - 0.98, 0.0) - max(x[-1] - 1.04, 0.0)
    ),
    claims.Digital(NUM_STEPS, 1.02): lambda x: float(x[-1] >= 1.02),
    claims.AsianCall(NUM_STEPS, 1.0): lambda x: max(sum(x[1:]) / NUM_STEPS - 1.0, 0.0),
    claims.UpAndOutCall(NUM_STEPS, 1.0, 1.1): lambda x: (
        0.0 if max(x) >= 1.1 else max(x[-1] - 1.0, 0.0)
    ),
    claims.LookbackCall(NUM_STEPS, 1.01): lambda x: max(max(x) - 1.01, 0.0),
    claims.VarianceSwap(NUM_STEPS, 0.06): lambda x: (
        250.0 / NUM_STEPS * sum(np.log(b / a) ** 2 for a, b in itertools.pairwise(x)) - 0.06
    ),
    claims.Autocallable(4, 6, 1.01, 0.95, 0.02): lambda x: next(
        (0.02 * j for j, t in enumerate(DATES, start=1) if x[t] >= 1.01),
        x[-1] - 1.0 if x[-1] < 0.95 else 0.0,
    ),
    claims.NotionalCliquet(3, 8, 0.02): lambda x: max(
        sum(min(x[t] / x[t - 8] - 1.0, 0.02) for t in (8, 16, 24)), 0.0
    ),
}


@pytest.fixture(scope="module")
def paths():
    returns = np.random.default_rng(0).normal(0.0, 0.02, [200, NUM_STEPS])
    return np.exp(np.pad(np.cumsum(returns, axis=1), [(0, 0), (1, 0)]))


def features(claim, spot):
    return claim.features_at(np.arange(NUM_STEPS), spot, **claim.observables(spot)).numpy()


def of_claims(test):
    return pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: type(claim).__name__)(test)


@of_claims
def test_payoff_is_that_of_a_loop_over_paths(claim, paths):
    expected = [CLAIMS[claim](list(path)) for path in paths]
    assert np.mean(np.array(expected) != 0.0) > 0.05
    np.testing.assert_allclose(claim.payoff(paths), expected, rtol=1e-10, atol=1e-12)


@of_claims
def test_payoff_is_proportional_to_the_notional(claim, paths):
    arguments = claim.get_config() | {"notional": 100.0}
    large = type(claim).from_config(arguments).payoff(paths)
    np.testing.assert_allclose(large, 100.0 * claim.payoff(paths), rtol=1e-10)


@of_claims
def test_features_know_nothing_of_later_prices(claim, paths):
    before = features(claim, paths[:, :-1])
    for step in range(NUM_STEPS - 1):
        changed = paths[:, :-1].copy()
        changed[:, step + 1 :] = paths[::-1, step + 1 : -1]
        after = features(claim, changed)
        np.testing.assert_array_equal(after[:, : step + 1], before[:, : step + 1])
        assert np.any(after[:, step + 1] != before[:, step + 1])


@of_claims
def test_features_are_finite_on_a_path_that_stays(claim):
    assert np.isfinite(features(claim, np.ones([3, NUM_STEPS]))).all()


@of_claims
def test_features_of_one_time_are_those_of_the_path(claim, paths):
    spot, step = paths[:, :-1], 13
    now = {name: x[:, step] for name, x in claim.observables(spot).items()}
    one = claim.features_at(step, spot[:, step], **now)
    np.testing.assert_allclose(one, features(claim, spot)[:, step], rtol=1e-12)


def test_invalid_numbers_of_a_claim_are_refused():
    with pytest.raises(ValueError, match="Expected `strike` to be a positive number"):
        claims.Call(NUM_STEPS, -1.0)
    with pytest.raises(ValueError, match="Expected `num_steps` to be a positive integer"):
        claims.Call(24.0, 1.0)
    with pytest.raises(ValueError, match="Expected `notional` to be a positive number"):
        claims.NotionalCliquet(3, 8, 0.02, notional=0.0)


ROWS = design()


def trials(numbers, **levels):
    """Some problems of the design, small, perhaps with other levels."""
    return [Trial(number, ROWS[number] | levels, 3, 128) for number in numbers]


def test_each_two_levels_of_two_factors_meet_in_a_problem():
    assert len(ROWS) == 96
    assert design() == ROWS
    for one, other in itertools.combinations(FACTORS, 2):
        met = {(row[one], row[other]) for row in ROWS}
        assert met == set(itertools.product(FACTORS[one], FACTORS[other]))


def test_most_triples_of_levels_meet_in_a_problem():
    met = {x for row in ROWS for x in itertools.combinations(row.items(), 3)}
    sizes = itertools.combinations(map(len, FACTORS.values()), 3)
    assert len(met) > 0.8 * sum(map(np.prod, sizes))


def test_levels_are_used_about_as_often_as_each_other():
    for factor, levels in FACTORS.items():
        uses = Counter(row[factor] for row in ROWS)
        assert max(uses.values()) - min(uses.values()) <= 2, uses
        assert len(uses) == len(levels)


def test_too_few_problems_for_all_pairs_are_refused():
    with pytest.raises(ValueError, match="Expected enough problems for all pairs"):
        design(40)


def test_no_two_levels_have_the_same_name():
    names = [name for levels in FACTORS.values() for name in levels]
    assert len(names) == len(set(names))


def test_each_problem_of_the_design_can_be_made():
    for trial in trials(range(96)):
        problem = trial.problem()
        assert problem.num_steps == NUM_STEPS
        assert problem.claim.notional == trial.level("notional")
        costs = np.array([1e-4, 1e-2])[: problem.num_instruments] * trial.level("cost")
        np.testing.assert_allclose(problem.instruments.costs[:2], costs, rtol=1e-6)


def test_problems_are_selected_by_number_or_level():
    everything = trials(range(96))
    chosen = select(everything, ["7", "digital"])
    assert 7 in [trial.number for trial in chosen]
    assert {trial.levels["claim"] for trial in chosen if trial.number != 7} == {"digital"}
    with pytest.raises(ValueError, match=r"Received: \['96'\]"):
        select(everything, ["96"])


def a_run(*risks, rejected=(), ended_by="steps"):
    steps = [10 * i for i in range(len(risks))]
    rejected = list(rejected) or [0.0] * len(risks)
    curve = {"step": steps, "val_risk": list(risks), "val_loss": list(risks)}
    return {**curve, "rejected_steps": rejected, "ended_by": ended_by}


def a_row(ours, *adams, problem=0):
    """A row of which one learning rate of Adam after the other has a run."""
    runs = dict(zip(OPTIMIZERS, [ours, *adams, *adams, *adams], strict=False))
    num_steps = 10 * (len(adams[0]["step"]) - 1)
    levels = ROWS[problem]
    about = {"problem": problem, "seed": 1, "num_steps": num_steps, "levels": levels}
    return {**about, "runs": runs}


def test_a_run_like_the_best_of_adam_has_no_fault():
    row = a_row(a_run(4.0, 2.0, 2.4, 1.2), a_run(4.0, 3.0, 2.0, 1.0), a_run(4.0, 9.0, None, None))
    assert not list(robustness.faults(row))
    assert robustness.ratio(row) == 1.2
    assert robustness.largest_rise(row) == pytest.approx(0.2)
    assert not robustness.is_at_or_below_adam(row)


@pytest.mark.parametrize(
    ("ours", "fault"),
    [
        (None, "no result of dhkfac"),
        (a_run(4.0, None, ended_by="TrainingError: no step"), "stopped: TrainingError: no step"),
        (a_run(4.0, 2.0), "ended before step 20"),
        (a_run(4.0, None, None), "not finite"),
        (a_run(4.0, 2.0, 1.0, rejected=(0.0, 1.0, 11.0)), "stuck: 55% of the last steps were"),
        (a_run(4.0, 4.01, 3.99), "stuck: its risk is that of the untrained policy"),
        (a_run(4.0, 2.0, 2.6), "a risk 30% above the lowest before"),
        (a_run(4.0, 2.0, 1.3), "a last risk of 1.30 times that of Adam"),
    ],
)
def test_faults_of_a_run_are_found(ours, fault):
    found = list(robustness.faults(a_row(ours, a_run(4.0, 2.0, 1.0))))
    assert any(each.startswith(fault) for each in found), found


def test_a_policy_that_cannot_be_improved_is_not_stuck():
    row = a_row(a_run(4.0, 4.0, 4.0), a_run(4.0, 4.0, 3.9))
    assert not list(robustness.faults(row))


def test_only_the_last_fifty_steps_say_whether_a_run_is_stuck():
    rejected = [20.0 * min(i, 5) / 2.0 for i in range(11)]
    run = a_run(*np.linspace(4.0, 1.0, 11), rejected=rejected)
    assert robustness.rejected_share(run) == 0.0
    assert robustness.rejected_share(a_run(4.0, 3.0, rejected=(0.0, 6.0))) == 0.6


def test_equal_risks_up_to_rounding_are_not_above_adam():
    adam = a_run(4.0, 1.0)
    assert robustness.is_at_or_below_adam(a_row(a_run(4.0, 1.0005), adam))
    assert not robustness.is_at_or_below_adam(a_row(a_run(4.0, 1.005), adam))
    assert not robustness.is_at_or_below_adam(a_row(a_run(4.0, None), adam))
    assert robustness.is_at_or_below_adam(a_row(a_run(4.0, 9.0), a_run(4.0, None)))


def test_a_problem_counts_if_all_its_seeds_do():
    adam = a_run(4.0, 1.0)
    rows = [a_row(a_run(4.0, end), adam, problem=i) for i, end in [(0, 0.5), (0, 1.1), (1, 0.9)]]
    assert robustness.share_at_or_below(rows) == (1, 2)


def test_the_risk_is_the_loss_but_for_the_mean_of_the_pnl():
    pnl = tf.constant([-0.3, 0.1, 0.5], tf.float64)
    cost = tf.constant([0.01, 0.02, 0.03], tf.float64)
    for objective in (th.MeanVariance(10.0), th.EntropicRisk(1000.0)):
        found = judged(objective, pnl, cost)
        moved = judged(objective, pnl + 7.0, cost)
        assert found["val_risk"] == pytest.approx(moved["val_risk"], rel=1e-10)
        assert found["val_cost"] == pytest.approx(0.02)
    assert found["val_loss"] == pytest.approx(found["val_risk"] - 0.1, rel=1e-10)


def test_the_command_judges_runs_that_are_done(tmp_path, monkeypatch, capsys):
    for trial in trials([0, 1]):
        for name in OPTIMIZERS:
            end = 1.0 if name == DHKFAC and trial.number == 0 else 0.5
            run = a_run(4.0, end) | {"step": [0, 3], "machine": {"commit": "abc"}}
            path = trial.path(tmp_path, name, seed=1)
            path.parent.mkdir(exist_ok=True)
            write_json(path, run | {"settings": trial.settings(name, 1)})
    command = ["robustness.py", "--out", str(tmp_path), "--problems", "0", "1", "--seeds", "1"]
    command += ["--validation-paths", "128", "--json", str(tmp_path / "results.json")]
    command += ["--figure", str(tmp_path / "figure.png"), "--steps"]
    monkeypatch.setattr("sys.argv", [*command, "3"])
    with pytest.raises(SystemExit) as stopped:
        robustness.main()
    assert "000 (call, underlying" in str(stopped.value)
    assert "a last risk of 2.00 times that of Adam" in str(stopped.value)
    assert "at or below Adam in 1 of 2 problems only" in str(stopped.value)
    assert "risk at or below Adam in 1 of 2 problems" in capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["problem"] for row in rows] == [0, 1]
    assert rows[0]["runs"][DHKFAC]["commit"] == "abc"
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    monkeypatch.setattr("sys.argv", [*command, "4"])
    with pytest.raises(SystemExit) as stopped:
        robustness.main()
    assert stopped.value.code == 2
    assert "Expected a run with the settings of today" in capsys.readouterr().err


def run_small(numbers, folder, **levels):
    """Runs some problems with one seed; those in which DHKFAC leaves no finite policy."""
    optimizers = DHKFAC, ADAMS[0]
    wrong = []
    for trial in trials(numbers, batch="batch 64", **levels):
        run_trial(trial, folder, [1], optimizers)
        (row,) = read_rows([trial], folder, [1])
        for name in optimizers:
            run = row["runs"][name]
            assert run["step"] == [0, 3]
            # The untrained policy hardly trades.
            assert run["val_risk"][0] == pytest.approx(run["unhedged"]["val_risk"], rel=0.2)
        if robustness.last(row["runs"][DHKFAC]) == np.inf:
            wrong.append(trial.name)
    return wrong


def test_problems_of_the_design_run_small(tmp_path):
    assert not run_small([5, 8], tmp_path, network="1 block of 8")


@pytest.mark.slow
@pytest.mark.xfail(reason="DHKFAC still leaves policies that are not finite", strict=True)
def test_a_dozen_problems_of_the_design_run_small(tmp_path):
    assert not run_small(range(12), tmp_path)
