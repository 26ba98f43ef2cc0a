"""The command line: what it promises, what it refuses, what a run leaves behind."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfhedge import arguments, cli
from tfhedge.curvature.dhkfac import DHKFAC
from tfhedge.evaluation.report import LEARNED, WITHOUT_OPTIONS
from tfhedge.market import calibration
from tfhedge.market.heston import Heston
from tfhedge.policy import cell
from tfhedge.workflow import config
from tfhedge.workflow.config import PRESETS, RunConfig, read_market
from tfhedge.workflow.run import (
    load_run,
    make_hedger,
    make_instruments,
    make_optimizer,
    training_batches,
)

SMALL = (  # with Adam, whose step is compiled in half of the time
    "--num-steps 20 --period 10 --units 4 --num-blocks 1 --batch-size 64 --num-paths 640 "
    "--validate-every 2 --validation-paths 100 --test-paths 100 --optimizer adam"
).split()


def train(folder, *options):
    return cli.main(["train", "--out", str(folder), *SMALL, *options])


def test_help_fits_a_screen_and_comes_without_tensorflow():
    script = (
        "import sys; from tfhedge import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: print('tensorflow' in sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert result.stderr.strip() == "False"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_every_setting_has_an_option_with_help_and_default(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split("options:")[1].split())
    for field in dataclasses.fields(RunConfig):
        option = "--" + field.name.replace("_", "-")
        entry = re.search(rf"{option} .*?default.*?(?= --|$)", text)
        assert entry, option
        assert field.metadata["help"].replace("-", "")[:20] in entry[0].replace("- ", "-").replace(
            "-", ""
        )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--grid fine", "--grid"),
        ("--observes prices", "--observes"),
        ("--controls greeks", "--controls"),
        ("--rho 1.2", "rho"),
        ("--rho nan", "rho"),
        ("--v0 -0.01", "v0"),
        ("--theta 0", "theta"),
        ("--kappa inf", "kappa"),
        ("--xi -1", "xi"),
        ("--xi 1e200", "too large"),
        ("--v0 1 --kappa 1 --theta 1e-300 --xi .01 --rho -.9", "Expected the premiums"),
        ("--spot 0", "spot"),
        ("--cap 0", "cap"),
        ("--num-steps 250", "multiple of `period`"),
        ("--num-steps -240", "num_steps"),
        ("--period 0", "period"),
        ("--steps 0", "steps"),
        ("--steps many", "--steps"),
        ("--batch-size -1", "batch_size"),
        ("--batch-size 999999999999999999999999999", "batch_size"),
        ("--units 1000000000", "too large"),
        ("--seed -1", "seed"),
        ("--target-loss 0", "target_loss"),
        ("--learning-rate -0.1", "learning_rate"),
        ("--learning-rate 1.1", "learning_rate"),
        ("--learning-rate-decay 1.1", "learning_rate_decay"),
        ("--optimizer adam --trust-region 0.1", "Expected no `trust_region`"),
        ("--optimizer dh-kfac-paper --trust-region 0", "trust_region"),
        ("--optimizer dh-kfac-paper --learning-rate-decay 1", "Expected no `learning_rate_decay`"),
        ("--units 0", "units"),
        ("--num-blocks 0", "num_blocks"),
        ("--risk-aversion 0", "risk_aversion"),
        ("--spot-cost -1", "spot_cost"),
        ("--option-cost nan", "option_cost"),
        ("--steps-per-year 0", "steps_per_year"),
        ("--optimizer sgd", "--optimizer"),
        ("--preset fast", "--preset"),
        ("--config nowhere.json", "nowhere.json"),
        ("--config setup.cfg", "Expected the settings of a run"),
        ("--config setup.cfg --preset demo", "leave out one"),
        ("--colour red", "--colour"),
        ("--out /dev/null/run", "/dev/null/run"),
    ],
)
def test_nonsense_ends_with_one_clear_line_and_status_2(options, complaint, tmp_path, refusal):
    folder = tmp_path / "run"
    assert complaint in refusal(["train", "--out", str(folder), *options.split()])
    assert not folder.exists()


def test_a_configuration_with_a_seed_that_is_none_is_refused_at_once():
    for seed in ("1", 1.5, None, True):
        with pytest.raises(
            ValueError, match="Expected `seed` to be an integer from 0 to 2147483646"
        ):
            RunConfig(seed=seed)


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path, capsys):
    (tmp_path / "summary.json").write_text("precious")
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path)
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_text() == "precious"


@pytest.mark.parametrize(
    ("optimizer", "make"), [("dh-kfac", DHKFAC), ("dh-kfac-paper", DHKFAC.paper)]
)
def test_the_command_trains_by_the_defaults_of_the_class(optimizer, make):
    assert make_optimizer(RunConfig(optimizer=optimizer)).get_config() == make().get_config()


def test_a_run_leaves_everything(tmp_path, capsys, caplog):
    folder = tmp_path / "run"
    assert train(folder, "--steps", "5", "--optimizer", "dh-kfac", "--seed", "3") == 0
    printed = capsys.readouterr().out
    assert "no hedge" in printed
    assert "learned, without its options" in printed
    assert "The policy is compiled" in caplog.text

    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "checkpoint.npz",
        "config.json",
        "history.csv",
        "optimizer.json",
        "summary.json",
        "validation_loss.png",
        "pnl_histogram.png",
        "saved_model",
    }
    assert (folder / "saved_model" / "1" / "saved_model.pb").exists()
    config = json.loads((folder / "config.json").read_text())
    assert RunConfig(**config) == dataclasses.replace(
        PRESETS["demo"], **{**config, "optimizer": "dh-kfac", "seed": 3, "steps": 5}
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 5
    assert summary["stopped_by"] == "steps"
    assert {"seconds", "loss", "pnl_std", "cost", "unhedged_std", "unhedged_loss", "seed"} <= set(
        summary
    )
    assert summary["seconds"] > 0
    with open(folder / "history.csv", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [2, 4, 5]


def test_another_seed_has_other_weights_and_other_paths():
    drawn = []
    for seed in (3, 4):
        run = RunConfig(
            num_steps=20, period=10, units=4, num_blocks=1, batch_size=8, grid="none", seed=seed
        )
        hedger = make_hedger(run)
        ((features, _),) = training_batches(hedger.problem, run, first_step=0).take(1)
        drawn.append((hedger.get_weights()[0], features[:, -1]))
    for one, other in zip(*drawn, strict=True):
        assert np.mean(one == other) < 0.5


def test_contracts_of_a_fixed_grid_are_hedged_with_in_the_market_of_a_file(tmp_path, capsys):
    path = tmp_path / "heston.json"
    market = {**dataclasses.asdict(Heston.from_paper()), "theta": 0.05}
    path.write_text(json.dumps(market))
    options = ["--market", str(path), "--xi", "0.5", "--grid", "fixed", "--steps", "2"]
    assert train(tmp_path / "run", *options) == 0
    assert "learned, without its options" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    expected = {"grid": "fixed", **market, "xi": 0.5}
    assert {name: config[name] for name in expected} == expected
    trades = (
        tf.saved_model.load(tmp_path / "run" / "saved_model" / "1")
        .signatures["rollout"]
        .structured_outputs["action"]
    )
    assert trades.shape == [None, 20, 1 + 7 * 4]


def test_a_short_claim_has_fewer_contracts():
    grid = make_instruments(RunConfig(grid="fixed", num_steps=2, period=2))
    assert sorted(set(grid.expiries)) == [1, 2]


def test_the_underlying_alone_by_a_policy_that_decides_on_trades_set_in_a_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"grid": "none", "controls": "trades", "steps": 99}))
    assert train(tmp_path / "run", "--config", str(path), "--steps", "2") == 0
    hedger, summary = load_run(tmp_path / "run")
    assert hedger.problem.num_instruments == 1
    assert not np.any(hedger.controls.carried)
    assert summary["steps"] == 2
    rows = summary["statistics"]
    assert rows[LEARNED] == rows[WITHOUT_OPTIONS]


@pytest.mark.parametrize("steps", ["1", "20"])
def test_divergence_is_said_and_not_hidden(steps, tmp_path, capsys, refusal):
    options = ("--optimizer", "adam", "--learning-rate", "1e30", "--steps", steps)
    assert train(tmp_path / "run", *options) == 1
    assert "Training failed at step" in capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["stopped_by"] == "diverged"
    assert "loss" not in summary
    assert not (tmp_path / "run" / "saved_model").exists()
    assert not (tmp_path / "run" / "checkpoint.npz").exists()  # none that had not diverged
    assert "which diverged" in refusal(["compare", str(tmp_path / "run")])


def test_ctrl_c_leaves_a_usable_folder(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "tfhedge.cli", "train", "--out", folder, *SMALL, "--steps", "99999"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not (folder / "history.csv").exists():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stopped_by"] == "interrupted"
    assert 0 < summary["steps"] < 99999
    assert np.isfinite(summary["loss"])
    assert (folder / "saved_model" / "1" / "saved_model.pb").exists()
    hedger, its_summary = load_run(folder)  # as it was at the last validation
    step = int(hedger.optimizer.iterations)
    assert summary["steps"] - 2 <= step <= summary["steps"]
    assert its_summary == (summary if step == summary["steps"] else None)


def test_calibrate_offers_the_weights_there_are():
    assert arguments.WEIGHTS == calibration.WEIGHTS


def test_train_offers_what_a_policy_may_observe():
    assert config.OBSERVABLE == cell.OBSERVABLE


def test_export_hands_the_policy_of_a_run_that_met_its_target_to_a_server(
    tmp_path, capsys, refusal
):
    run, target = tmp_path / "run", tmp_path / "models" / "small"
    assert train(run, "--steps", "8", "--target-loss", "1000") == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["stopped_by"]) == (2, "target")
    assert cli.main(["export", str(run), "--to", str(target)]) == 0
    printed = capsys.readouterr().out
    assert str(target / "1") in printed
    assert f"source={target},target=/models/small" in printed
    description = json.loads((target / "1" / "hedge.json").read_text())
    assert description["training"] == summary
    paths = {"spot": tf.fill([2, 20], 1.01), "variance": tf.fill([2, 20], 0.05)}
    trades = [
        tf.saved_model.load(folder).signatures["rollout"](**paths)["action"]
        for folder in (target / "1", run / "saved_model" / "1")
    ]
    np.testing.assert_array_equal(*trades)

    command = ["export", str(run), "--to", str(target)]
    assert "is there already" in refusal([*command, "--version", "1"])
    assert "version" in refusal([*command, "--version", "0"])
    assert "No such file" in refusal(["export", str(tmp_path / "none"), "--to", str(target)])
    (run / "checkpoint.npz").unlink()
    assert "checkpoint.npz" in refusal(command)
    assert [path.name for path in target.iterdir() if path.is_dir()] == ["1"]


def test_calibrate_leaves_a_market_to_train_in(tmp_path, capsys):
    chain = Path(__file__).parents[1] / "benchmarks" / "data" / "dax_2002-07-05.csv"
    bad = tmp_path / "chain.csv"
    bad.write_text(chain.read_text() + "2002-07-05,2002-07-01,5000,0.2,0.2,4468,4468,1\n")
    folder = tmp_path / "fit"
    assert cli.main(["calibrate", str(bad), "--out", str(folder), "--weights", "equal"]) == 0
    printed = capsys.readouterr()
    assert "1 not used, expired: row 106" in printed.err
    assert "IV RMSE" in printed.out
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "heston.json",
        "rejected.csv",
        "report.txt",
        "smiles.png",
    }
    assert (folder / "report.txt").read_text() in printed.out
    assert (folder / "rejected.csv").read_text() == "row,reason\n106,expired\n"
    market = Heston(**json.loads((folder / "heston.json").read_text()))
    assert printed.out.endswith(f"tfhedge train --market {folder / 'heston.json'}\n")
    assert read_market(folder / "heston.json") == dataclasses.asdict(market)


def test_a_fit_that_failed_ends_with_one_line_and_status_1(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("The fit failed: no minimum after 100 steps")

    monkeypatch.setattr("tfhedge.workflow.calibration.calibrate", fail)
    chain = Path(__file__).parents[1] / "benchmarks" / "data" / "dax_2002-07-05.csv"
    folder = tmp_path / "fit"
    assert cli.main(["calibrate", str(chain), "--out", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error == "tfhedge calibrate: The fit failed: no minimum after 100 steps\n"
    assert not folder.exists()


NOT_A_NUMBER = json.dumps({**dataclasses.asdict(Heston.from_paper()), "theta": float("nan")})


@pytest.mark.parametrize(
    "content", [None, "", "[]", "[5]", "5", "{}", '{"v0": "a"}', "\0", NOT_A_NUMBER]
)
def test_a_market_that_makes_no_sense_ends_with_one_line(content, tmp_path, refusal):
    path = tmp_path / "heston.json"
    if content is not None:
        path.write_text(content)
    error = refusal(["train", "--market", str(path), "--out", str(tmp_path / "run")])
    assert str(path) in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        (None, [], "No such file"),
        ("nonsense", [], "columns date"),
        ("date,expiry,strike,bid_iv,ask_iv\n2022-01-01,2022-02-01,1,0.2,0.2", [], "no forward"),
        ("", ["--weights", "volume"], "--weights"),
        ("", ["--feler"], "--feler"),
        ("", [], "empty"),
    ],
)
def test_a_chain_that_makes_no_sense_ends_with_one_line(
    content, options, complaint, tmp_path, refusal
):
    path = tmp_path / "chain.csv"
    if content is not None:
        path.write_text(content)
    assert complaint in refusal(["calibrate", str(path), "--out", str(tmp_path / "fit"), *options])
    assert not (tmp_path / "fit").exists()
