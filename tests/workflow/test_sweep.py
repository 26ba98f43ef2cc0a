"""A search that was interrupted goes on where it was, and does nothing twice."""

import json
import subprocess
import sys
import time

import pytest

from tfhedge import cli, files
from tfhedge.workflow import run
from tfhedge.workflow.config import (
    OPTIMIZERS,
    SEARCH_GRIDS,
    RunConfig,
    SweepConfig,
    read_settings,
)
from tfhedge.workflow.sweep import Search


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_grids_have_enough_points_all_of_which_can_be_run(optimizer):
    points = SweepConfig(run=RunConfig(optimizer=optimizer)).points
    assert SEARCH_GRIDS.keys() == OPTIMIZERS.keys()
    assert 8 <= len(points) == len({tuple(point.values()) for point in points})
    for point in points:
        assert RunConfig(optimizer=optimizer, **point).optimizer_settings == point


def test_a_search_goes_on(small, tmp_path, interrupt, monkeypatch, capsys):
    fits = []

    def noted_fit(self, *args, initial_epoch=0, **kwargs):
        fits.append(initial_epoch)
        return fit(self, *args, initial_epoch=initial_epoch, **kwargs)

    fit = run.DeepHedger.fit
    monkeypatch.setattr(run.DeepHedger, "fit", noted_fit)
    options = ["sweep", "--out", str(tmp_path), "--optimizer", "adam", *small]
    options += ["--steps", "8", "--trials", "2"]
    interrupt(write=3)
    assert cli.main(options) == 130
    assert cli.main(options) == 0
    assert fits == [0, 2, 0]
    outcome = json.loads((tmp_path / "sweep.json").read_text())
    points = SweepConfig(run=RunConfig(optimizer="adam")).points
    assert [trial["settings"] for trial in outcome["trials"]] == points[:2]
    first, second = outcome["trials"]
    assert (first["state"], first["steps"]) == ("complete", 8)
    assert second["state"] == ("complete" if second["steps"] == 8 else "pruned")
    assert outcome["best"]["best_val_loss"] == min(
        trial["best_val_loss"] for trial in outcome["trials"] if trial["state"] == "complete"
    )
    with open(tmp_path / "trial-0" / "history.csv") as file:
        assert [line.split(",")[0] for line in file] == ["step", "2", "4", "6", "8"]

    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(options) == 0  # all is done
    assert len(fits) == 3
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    printed = capsys.readouterr().out
    assert "complete" in printed
    assert f"tfhedge train --config {tmp_path / 'best.json'}" in printed
    assert (tmp_path / "sweep.png").exists()
    best = read_settings(tmp_path / "best.json")
    assert best.optimizer_settings == outcome["best"]["settings"]
    assert (best.steps, best.units) == (8, 4)

    with pytest.raises(SystemExit, match="2"):
        cli.main([*options, "--seed", "7"])
    assert "other settings" in capsys.readouterr().err


def test_a_search_in_which_all_diverges_has_no_winner(small, tmp_path, monkeypatch, capsys):
    grid = {"learning_rate": (1e30,), "learning_rate_decay": (1.0,)}
    monkeypatch.setitem(SEARCH_GRIDS, "adam", grid)
    options = ["sweep", "--out", str(tmp_path), "--optimizer", "adam", *small, "--steps", "4"]
    assert cli.main([*options, "--trials", "1"]) == 1
    assert "diverged" in capsys.readouterr().err
    assert not (tmp_path / "sweep.json").exists()


def test_a_search_that_is_damaged_is_named(small, tmp_path, capsys):
    options = ["sweep", "--out", str(tmp_path), "--optimizer", "adam", *small]
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SystemExit, match="2"):
        cli.main(options)
    assert f"Received: {tmp_path / 'config.json'}" in capsys.readouterr().err
    (tmp_path / "config.json").unlink()
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(SystemExit, match="2"):
        cli.main(options)  # the folder is not empty
    run = RunConfig(optimizer="adam")
    (tmp_path / "journal.log").write_text("garbage\n{}\n")
    with pytest.raises(files.DamagedFileError, match="Optuna's journal"):
        Search(SweepConfig(run=run), tmp_path)


@pytest.mark.slow
def test_processes_share_a_search_and_take_over_from_one_that_is_killed(small, tmp_path):
    folder = tmp_path / "search"
    options = ["sweep", "--out", str(folder), "--optimizer", "adam", *small, "--steps", "40"]
    options += ["--sampler", "tpe", "--trials", "3"]

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "tfhedge.cli", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(path):
        end = time.monotonic() + 120.0
        while not path.exists():
            assert time.monotonic() < end, f"{path} did not appear"
            time.sleep(0.05)

    killed, survivor = start(), start()
    wait_until(folder / "trial-1" / "history.csv")  # both are at work, on a trial each
    killed.kill()
    killed.communicate()
    _, errors = survivor.communicate(timeout=300)
    assert survivor.returncode == 0, errors
    outcome = json.loads((folder / "sweep.json").read_text())
    assert [trial["number"] for trial in outcome["trials"]] == list(range(3))
    points = [tuple(trial["settings"].values()) for trial in outcome["trials"]]
    assert len(set(points)) == 3
    for name, values in SEARCH_GRIDS["adam"].items():
        for trial in outcome["trials"]:
            assert min(values) <= trial["settings"][name] <= max(values)
    for trial in outcome["trials"]:
        assert trial["state"] in ("complete", "pruned")
        assert trial["steps"] == 40 or trial["state"] == "pruned"
        lines = (folder / f"trial-{trial['number']}" / "history.csv").read_text().splitlines()
        steps = [int(line.split(",")[0]) for line in lines[1:]]
        assert steps == list(range(2, trial["steps"] + 1, 2))  # each step once, whoever took it


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("sweep", "--out"),
        ("sweep --out OUT --trials 0", "trials"),
        ("sweep --out OUT --trials 99", "trials"),
        ("sweep --out OUT --trials 0 --sampler tpe", "trials"),
        ("sweep --out OUT --sampler random", "--sampler"),
        ("sweep --out OUT --steps 0", "steps"),
        ("sweep --out OUT --learning-rate 0.1", "--learning-rate"),
        ("sweep --out OUT --optimizer sgd", "--optimizer"),
        ("sweep --out OUT --v0 -1", "v0"),
        ("sweep --out /dev/null/sweep", "/dev/null/sweep"),
        ("experiment --out OUT", "name"),
        ("experiment everything --out OUT", "everything"),
        ("experiment optimizers", "--out"),
        ("experiment optimizers --out OUT --seeds 0", "seeds"),
        ("experiment optimizers --out OUT --search-steps 0", "search_steps"),
        ("experiment optimizers --out OUT --only sgd", "--only"),
        ("experiment optimizers --out OUT --optimizer adam", "--optimizer"),
    ],
)
def test_nonsense_ends_with_one_clear_line_and_status_2(options, complaint, tmp_path, refusal):
    folder = tmp_path / "out"
    assert complaint in refusal(
        [str(folder) if word == "OUT" else word for word in options.split()]
    )
    assert not folder.exists()
