"""The comparison of the optimizers, from search to figure, on a problem for dwarfs."""

import json
from pathlib import Path

import numpy as np
import pytest

from tfhedge import cli
from tfhedge.files import read_json
from tfhedge.workflow import experiment
from tfhedge.workflow.config import OPTIMIZERS, ExperimentConfig, RunConfig
from tfhedge.workflow.experiment import bands, collect, comparison
from tfhedge.workflow.run import load_run
from tfhedge.workflow.tables import comparison_table

KEPT = Path(__file__).parents[2] / "benchmarks/results/optimizers"


@pytest.fixture
def options(small, tmp_path, monkeypatch):
    """Arguments of a small experiment in which a step takes 0.1 s."""
    monkeypatch.setattr(experiment, "time_steps", lambda runs: dict.fromkeys(runs, 0.1))
    sizes = "--search-steps 4 --trials 1 --seeds 1".split()
    return ["experiment", "optimizers", "--out", str(tmp_path), *small, *sizes]


@pytest.mark.slow
def test_the_part_of_adam(options, tmp_path, capsys):
    assert cli.main([*options, "--steps", "4", "--only", "adam"]) == 0
    outcome = json.loads((tmp_path / "optimizers.json").read_text())
    assert comparison_table(outcome) in capsys.readouterr().out
    (adam,) = outcome["optimizers"].pop("adam")["runs"]
    assert not outcome["optimizers"]
    assert adam["history"]["step"] == [2, 4]
    assert outcome["target"] == 1.01 * min(adam["history"]["val_loss"])
    assert (tmp_path / "optimizers.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_the_experiment_in_parts(options, tmp_path, capsys):
    options += ["--steps", "6"]
    assert cli.main([*options, "--only", "dh-kfac-paper"]) == 0
    assert "no run of adam is finished" in capsys.readouterr().out
    assert cli.main(options) == 0
    printed = capsys.readouterr().out
    assert printed.count("adam, trial 0") == 1
    assert "paper, trial 0" not in printed  # was done before

    outcome = json.loads((tmp_path / "optimizers.json").read_text())
    assert comparison_table(outcome) in printed
    assert list(outcome["optimizers"]) == list(outcome["comparison"]) == list(OPTIMIZERS)
    assert outcome["step_seconds"]["seconds"] == dict.fromkeys(OPTIMIZERS, 0.1)
    (adam,) = outcome["optimizers"]["adam"]["runs"]
    assert outcome["target"] == 1.01 * adam["best_val_loss"]
    assert adam["best_val_loss"] == min(adam["history"]["val_loss"])
    for name, result in outcome["optimizers"].items():
        if name == "dh-kfac":
            assert result["search"] is None
        else:
            assert [trial["state"] for trial in result["search"]["trials"]] == ["complete"]
        (run,) = result["runs"]
        assert {"processor", "tensorflow", "python"} <= run["machine"].keys()
        history = run["history"]
        steps = history["step"]
        assert steps == ([2, 4, 6] if name == "adam" else [1, 2])
        assert {len(column) for column in history.values()} == {len(steps)}
        assert np.all(np.array(history["gradient_variance"]) > 0.0)
        assert np.all(np.diff(history["training_seconds"]) > 0.0)
        assert np.all(np.less(history["training_seconds"], history["seconds"]))
        statistics = {"overshoot", "step_size", "largest_eigenvalue_outlet"}
        assert statistics & history.keys() == (set() if name == "adam" else statistics)
    assert (tmp_path / "optimizers.png").read_bytes()[1:4] == b"PNG"
    hedger, summary = load_run(tmp_path / "adam" / "seed-1")
    assert int(hedger.optimizer.iterations) == summary["steps"] == 6

    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert cli.main(options) == 0  # all is done
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


@pytest.mark.slow
def test_a_step_of_many_paths_takes_longer():
    sizes = {"num_steps": 20, "period": 10, "units": 4, "num_blocks": 1, "optimizer": "adam"}
    runs = {paths: RunConfig(**sizes, batch_size=paths, num_paths=4096) for paths in (32, 1024)}
    seconds = experiment.time_steps(runs)
    assert 0.0 < seconds[32] < seconds[1024]


def test_the_kept_runs_are_as_fast_as_they_are_said_to_be():
    settings = read_json(KEPT / "config.json")
    config = ExperimentConfig(**settings | {"run": RunConfig(**settings["run"])})
    outcome = collect(config, KEPT)
    for name in ("dh-kfac-paper", "adam"):
        winner = outcome["optimizers"][name]["search"]["best"]["settings"]
        assert config.run_of(name).optimizer_settings == winner
    rows = outcome["comparison"]
    assert rows["dh-kfac-paper"]["steps_ratio"] <= 0.30
    assert rows["dh-kfac"]["steps_ratio"] <= 0.12
    assert rows["dh-kfac"]["seconds_ratio"] <= 0.16
    assert rows["dh-kfac"]["best_val_loss_ratio"] <= 0.97
    assert rows["dh-kfac"]["last_val_loss_ratio"] <= 0.97


def results(*losses):
    """The part of a result that is compared: runs with a validation at steps 10, 20, ..."""
    return {
        "runs": [
            {
                "best_val_loss": min(x for x in run if x is not None),
                "history": {
                    "step": [10.0 * (i + 1) for i in range(len(run))],
                    "val_loss": run,
                },
            }
            for run in losses
        ]
    }


def test_bands_are_of_the_runs_that_went_so_far():
    steps = [10.0, 20.0, 30.0]
    histories = [
        {
            "step": steps[: len(losses)],
            "val_loss": losses,
            "gradient_variance": losses,
            "largest_eigenvalue_inlet": [1.0] * len(losses),
            "largest_eigenvalue_outlet": losses,
        }
        for losses in ([3.0, 2.0, None], [2.0, 4.0])
    ]
    band = bands(histories, 2.0)
    ranges = [[2.0, 2.0, None], [2.5, 3.0, None], [3.0, 4.0, None]]
    assert band == {
        "step": steps,
        "step_seconds": 2.0,
        "val_loss": ranges,
        "gradient_variance": ranges,
        "largest_eigenvalue": ranges,
    }
    diverged = [{**histories[1], "step": [10.0], "val_loss": [None]}, *histories]
    assert bands(diverged, 2.0)["val_loss"] == [ranges[0], [3.0, 4.0, None], ranges[2]]
    adam = {name: x for name, x in histories[0].items() if "eigenvalue" not in name}
    assert "largest_eigenvalue" not in bands([adam], 2.0)


def test_the_comparison_is_of_medians_over_the_runs():
    adam = results([0.3, 0.2, 0.1], [0.3, 0.3, 0.15], [0.3, 0.1, 0.12])
    other = results([0.1, 0.09], [0.2, 0.1], [0.1, 0.05, None])
    never = results([0.5], [0.6], [0.1])
    seconds = {"adam": 0.2, "other": 0.3, "never": 0.3}
    rows = comparison({"adam": adam, "other": other, "never": never}, 0.1, seconds)
    assert rows["adam"]["steps"] == [30, None, 20]
    assert rows["adam"]["median_steps"] == 30
    assert rows["adam"]["median_seconds"] == pytest.approx(6.0)
    assert rows["other"] == {
        "steps": [10, 20, 10],
        "median_steps": 10,
        "median_seconds": pytest.approx(3.0),
        "best_val_loss": 0.09,
        "steps_ratio": pytest.approx(1 / 3),
        "seconds_ratio": pytest.approx(0.5),
        "best_val_loss_ratio": pytest.approx(0.9),
        "last_val_loss": 0.1,
        "last_val_loss_ratio": pytest.approx(0.1 / 0.12),
        # Adam's three runs have losses of 0.2 after 20, 30 and 20 steps.
        "earlier_steps_ratio": {"2": 0.5}
        | dict.fromkeys(("1.5", "1.25", "1.1"), pytest.approx(1 / 3)),
    }
    assert rows["never"]["median_steps"] is rows["never"]["steps_ratio"] is None
    table = comparison_table({"target": 0.1, "comparison": rows})
    assert "0.333" in table
    compared, earlier = table.split("\n\n")
    assert len({len(line) for line in compared.splitlines()[1:]}) == 1
    assert earlier.splitlines()[2].split() == ["other", "0.500", "0.333", "0.333", "0.333"]
