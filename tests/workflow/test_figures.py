"""`tfhedge figures`: what it draws, what it finds, and what it refuses."""

import json

import numpy as np
import pytest
import scipy.stats

from tfhedge import cli
from tfhedge.evaluation import figures
from tfhedge.hedging.instruments import FloatingGrid
from tfhedge.workflow.config import RunConfig
from tfhedge.workflow.figures import findings_on_trades, over_time, smiles
from tfhedge.workflow.run import TEST, load_run, make_problem
from tfhedge.workflow.tables import findings_table

SMALL = (
    "--num-steps 20 --period 10 --units 4 --num-blocks 1 --batch-size 64 --num-paths 640 "
    "--steps 2 --validate-every 2 --validation-paths 64 --test-paths 64"
).split()
ALWAYS = {"pnl_histogram", "hedges_over_time"}


def train(folder, *options):
    assert cli.main(["train", "--out", str(folder), *SMALL, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def experiment(tmp_path):
    """An `optimizers.json` of two optimizers with a run each."""
    history = {
        "step": [1.0, 2.0],
        "val_loss": [0.3, 0.2],
        "gradient_variance": [1e5, 1e4],
    }
    kfac = history | {"largest_eigenvalue_outlet": [1e6, 2e6]}
    outcome = {
        "target": 0.25,
        "comparison": {"adam": {"steps_ratio": 1.0}, "dh-kfac": {"steps_ratio": 0.05}},
        "step_seconds": {"seconds": {"adam": 0.1, "dh-kfac": 0.12}},
        "optimizers": {
            "adam": {"runs": [{"history": history}]},
            "dh-kfac": {"runs": [{"history": kfac}]},
        },
    }
    path = tmp_path / "optimizers.json"
    path.write_text(json.dumps(outcome))
    return path


def test_all_figures_with_their_data(run, experiment, tmp_path, capsys):
    folder = tmp_path / "figures"
    options = ["--experiment", str(experiment), "--out", str(folder), "--paths", "300"]
    assert cli.main(["figures", str(run), *options]) == 0
    printed = capsys.readouterr().out
    names = ALWAYS | {"floating_grid", "largest_eigenvalues", "optimizers", "along_paths"}
    assert {path.stem for path in folder.glob("*.png")} == names
    for name in names:
        data = json.loads((folder / f"{name}.json").read_text())
        getattr(figures, name)(**data)  # can be drawn again

    hedger, _ = load_run(run)
    report = hedger.evaluate_hedge(num_paths=300, seed=(0, TEST), batch_size=300)
    learned, without = (report.statistics[x] for x in ("learned", "learned, without its options"))
    skewness = [
        scipy.stats.skew(report.pnl[x]) for x in ("learned", "learned, without its options")
    ]
    findings = json.loads((folder / "findings.json").read_text())["findings"]
    for row in findings:
        assert row["statement"] in printed
    ours = [row["ours"] for row in findings]
    expected = [0.05, learned.std / without.std, skewness[0] - skewness[1]]
    expected.append(learned.cost / learned.loss)
    np.testing.assert_allclose(ours[:4], expected, rtol=1e-4)
    ranges = [(0.0, 0.3), (0.0, 0.6), (0.0, np.inf), (0.1, 0.3), (1.0, np.inf), (1.0, np.inf)]
    for row, (low, high) in zip(findings, ranges, strict=True):
        assert row["holds"] == (low <= row["ours"] <= high)
    underlying, option = (row["statement"] for row in findings[4:])
    assert underlying == "mean trade in the underlying, within 2 steps of a reset / elsewhere"
    assert option == "mean trade in the 10-step 1.01 call, within 2 steps of a reset / elsewhere"
    blocks = json.loads((folder / "largest_eigenvalues.json").read_text())["blocks"]
    assert blocks == ["input layer", "RMSNorm 1", "LSTM 1", "output layer"]


def test_fewer_figures_for_a_run_by_adam_in_the_underlying_alone(tmp_path):
    run = train(tmp_path / "run", "--grid", "none", "--optimizer", "adam")
    assert cli.main(["figures", str(run), "--paths", "100"]) == 0
    assert {path.stem for path in (run / "figures").glob("*.png")} == ALWAYS
    (row,) = json.loads((run / "figures" / "findings.json").read_text())["findings"]
    assert row["statement"].startswith("mean trade in the underlying, within 2 steps of a reset")


def test_smiles_are_flat_where_variance_is_constant():
    data = smiles(make_problem(RunConfig(xi=1e-4)))
    for volatilities in data["volatilities"][data["variances"].index(0.0625)]:
        np.testing.assert_allclose(volatilities, 0.25, rtol=1e-3)
    for k, chosen, number in zip(data["strikes"], data["traded"], (3, 5, 3, 3, 5), strict=True):
        assert len(chosen) == number
        assert set(np.array(k)[chosen]) <= set(FloatingGrid.from_paper().strikes)


def test_a_position_earns_its_dividends():
    problem = make_problem(RunConfig(dividend_yield=0.5))
    trades = np.zeros([5, 240])
    trades[:, [0, 120]] = 1.0, -0.4
    rows = over_time(problem, {"underlying": trades})["quantiles"]
    position = rows["position in the\nunderlying"][0]
    assert position[0] == 1.0
    assert position[-1] == pytest.approx(np.exp(239 * 0.002) - 0.4 * np.exp(119 * 0.002))


def test_trades_next_to_resets():
    problem = make_problem(RunConfig())
    trades = np.ones([5, 240])
    trades[:, 18:23] = -3.0  # around the first of eleven
    (row,) = findings_on_trades(problem, {"underlying": trades})
    assert row["ours"] == pytest.approx((3.0 + 10.0) / 11.0)
    assert row["holds"]


def test_there_may_be_no_findings():
    problem = make_problem(RunConfig(num_steps=20, period=20))  # no reset before maturity
    assert findings_on_trades(problem, {"underlying": np.ones([5, 20])}) == []
    assert findings_table({"findings": []}).split() == ["paper", "ours", "holds"]


def test_files_that_are_no_experiment_are_refused(tmp_path, refusal):
    run, other = tmp_path / "none", tmp_path / "other.json"
    keys = '{"target": 1, "comparison": {}, "optimizers": {}, "step_seconds": {}}'
    for content in ("{}", "[]", "x", '{"target": 1}', keys):
        other.write_text(content)
        complaint = refusal(["figures", str(run), "--experiment", str(other)])
        assert "Expected the optimizers.json of an experiment" in complaint
    missing = str(tmp_path / "missing.json")
    assert "No such file" in refusal(["figures", str(run), "--experiment", missing])
