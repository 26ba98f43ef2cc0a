"""`tfhedge compare`: which hedges, on which paths, and what it refuses."""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose

from tfhedge import cli
from tfhedge.evaluation.report import NO_HEDGE
from tfhedge.files import read_json, write_json
from tfhedge.workflow.comparison import desk_hedges
from tfhedge.workflow.config import RunConfig
from tfhedge.workflow.run import TEST, load_run, make_problem

RESULTS = Path(__file__).parents[2] / "benchmarks/results"

# One period, whose Greeks need no tables.
SMALL = (
    "--num-steps 10 --period 10 --units 4 --num-blocks 1 --batch-size 64 --num-paths 640 "
    "--steps 2 --validate-every 2 --validation-paths 64 --test-paths 64 --optimizer adam"
).split()


def train(folder, *options):
    assert cli.main(["train", "--out", str(folder), *SMALL, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "floating")


def test_two_runs_and_a_desk(run, tmp_path, capsys, refusal):
    other = train(tmp_path / "fixed", "--grid", "fixed")
    assert cli.main(["compare", str(run), str(other), "--paths", "300"]) == 0
    outcome = json.loads((run / "comparison.json").read_text())
    hedges = outcome["hedges"]
    *names, by_options = hedges
    assert names == [
        "floating",
        "fixed",
        "floating, without its options",
        NO_HEDGE,
        "Black-Scholes delta",
        "Heston delta",
        "Heston, minimum variance",
    ]
    assert by_options.startswith("delta and vega by 10-step options, strike 1.01, ")
    printed = capsys.readouterr().out
    assert all(name in printed for name in hedges)
    hedger, _ = load_run(run)
    report = hedger.evaluate_hedge(num_paths=300, seed=(0, TEST), batch_size=300)
    for name, row in zip(["floating", NO_HEDGE], ["learned", NO_HEDGE], strict=True):
        found = hedges[name]["loss"]["value"]
        assert_allclose(found, report.statistics[row].loss, rtol=1e-5)
    assert hedges["Heston delta"]["std"]["value"] < 0.5 * hedges[NO_HEDGE]["std"]["value"]
    for command in ("compare", "figures"):
        assert "/dev/null" in refusal([command, str(run), "--out", "/dev/null/x"])


def test_a_desk_trades_in_a_floating_grid_if_any_run_does(run, tmp_path):
    """And folders of one name go by their paths."""
    other = train(tmp_path / "floating", "--grid", "none")
    assert cli.main(["compare", str(other), str(run), "--paths", "50"]) == 0
    hedges = json.loads((other / "comparison.json").read_text())["hedges"]
    assert list(hedges)[:3] == [str(other), str(run), f"{other}, without its options"]
    assert list(hedges)[-1].startswith("delta and vega by 10-step options")


def test_the_options_that_hedge_vega_in_the_paper(monkeypatch):
    def greeks(market, claim, dt):
        return SimpleNamespace(market=market, claim=claim, dt=dt)

    monkeypatch.setattr("tfhedge.workflow.comparison.CliquetGreeks", greeks)
    desk, candidates = desk_hedges(make_problem(RunConfig()))
    assert list(desk) == [
        NO_HEDGE,
        "Black-Scholes delta",
        "Heston delta",
        "Heston, minimum variance",
    ]
    intervals, shares = (5, 10, 20, 40), (0.25, 0.5, 1.0)
    assert [
        (name, [(hedge.interval, hedge.share) for _, hedge in hedges.values()])
        for name, hedges in candidates.items()
    ] == [
        (
            "delta and vega by 20-step options, strike 1.01",
            list(itertools.product(intervals[:3], shares)),
        ),
        (
            "delta and vega by 40-step options, strike 1",
            list(itertools.product(intervals, shares)),
        ),
    ]
    # The kept comparison has all of them, and its first policy the lowest loss.
    kept = read_json(RESULTS / "comparison.json")["hedges"]
    policy, *others = kept
    learned = ["underlying", "fixed", f"{policy}, without its options"]
    assert [policy, *others[:-2]] == ["floating", *learned, *desk]
    for name, (candidate, hedges) in zip(others[-2:], candidates.items(), strict=True):
        assert name in [f"{candidate}, {settings}" for settings in hedges]
    assert all(kept[name]["excess_loss"]["low"] > 0.0 for name in others)


def test_the_delta_of_black_and_scholes_is_that_of_two_calls():
    """Of a single period, at the mean of the variance that is expected until it ends."""
    problem = make_problem(RunConfig(num_steps=10, period=10, num_paths=64))
    market, cap, steps = problem.market, problem.claim.cap, np.arange(10)
    spot, variance = (x.numpy() for x in problem.simulate(50, seed=1))
    _, hedge = desk_hedges(problem)[0]["Black-Scholes delta"]
    position = np.cumsum(hedge(spot, variance)[..., 0], axis=1)
    years = problem.dt * (10 - steps)
    weight = -np.expm1(-market.kappa * years) / (market.kappa * years)
    expected = market.theta + (variance[:, :-1] - market.theta) * weight
    deviation = np.sqrt(expected * years)
    call, capped = (
        scipy.stats.norm.cdf(np.log(spot[:, :-1] / strike) / deviation + 0.5 * deviation)
        for strike in (1.0, 1.0 + cap)
    )
    assert_allclose(position, call - capped, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [("--paths 0", "`num_paths`"), ("--seed -1", "`seed`"), ("", "No such file")],
)
@pytest.mark.parametrize("command", ["compare", "figures"])
def test_nonsense_is_refused(command, options, complaint, tmp_path, refusal):
    assert complaint in refusal([command, str(tmp_path / "none"), *options.split()])
    assert not (tmp_path / "none").exists()


def test_runs_in_different_markets_are_refused(run, tmp_path, refusal):
    other = shutil.copytree(run, tmp_path / "other")
    config = read_json(other / "config.json")
    write_json(other / "config.json", config | {"xi": 0.5})
    assert "differ in their instruments alone" in refusal(["compare", str(run), str(other)])
