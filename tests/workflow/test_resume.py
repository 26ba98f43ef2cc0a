"""A run that was interrupted and continued is the run that was not."""

import csv
import dataclasses
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tfhedge import cli, files
from tfhedge.training.callbacks import Stop, restore
from tfhedge.workflow.config import CHECKPOINT_FILE, CONFIG_FILE, read_settings
from tfhedge.workflow.run import make_hedger

TIMES = {"seconds", "training_seconds", "step_seconds"}


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]


def checkpoint(folder):
    with np.load(folder / "checkpoint.npz") as file:
        arrays = dict(file)
        return json.loads(arrays.pop("history").item()), arrays


@pytest.mark.parametrize("optimizer", ["dh-kfac", "adam"])
def test_a_run_goes_on_bit_for_bit(optimizer, small, tmp_path, interrupt):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*small, *("--test-paths 64 --steps 15 --seed 5 --optimizer".split()), optimizer]
    assert cli.main(["train", "--out", str(whole), *options]) == 0
    interrupt(write=6)
    assert cli.main(["train", "--out", str(parts), *options]) == 130
    rows, _ = checkpoint(parts)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    assert not (parts / "summary.json").exists()

    assert cli.main(["train", "--resume", str(parts)]) == 0
    assert history(parts) == history(whole)
    (rows, arrays), (_, expected) = checkpoint(parts), checkpoint(whole)
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    for name in ("seconds", "training_seconds"):
        assert np.all(np.diff([row[name] for row in rows]) > 0.0)
    summary, other = (json.loads((x / "summary.json").read_text()) for x in (parts, whole))
    assert summary.pop("seconds") > rows[-1]["seconds"] > rows[-1]["training_seconds"]
    assert other.pop("seconds") > 0.0
    assert summary == other
    assert not list(parts.glob(".*"))


@pytest.mark.parametrize(
    ("contents", "options", "complaint"),
    [
        (None, [], "No such file"),
        ({}, [], "No such file"),
        ({"config.json": "{"}, [], "Expected the settings of a run"),
        ({"config.json": "[]"}, [], "Expected the settings of a run"),
        ({"config.json": '{"speed": 1}'}, [], "Expected the settings of a run"),
        ({"config.json": "{}", "summary.json": '{"stopped_by": "target"}'}, [], "has ended"),
        (
            {"config.json": "{}"},
            ["--seed", "1", "--units", "32", "--cap", "0.02"],
            "seed is 0 there and 1 here, cap is 0.015 there and 0.02 here",
        ),
        ({"config.json": "{}", "checkpoint.npz": ""}, ["--preset", "demo"], "leave out"),
    ],
)
def test_what_cannot_go_on_is_said_in_one_line(contents, options, complaint, tmp_path, refusal):
    folder = tmp_path / "run"
    if contents is not None:
        folder.mkdir()
        for name, text in contents.items():
            (folder / name).write_text(text)
    assert complaint in refusal(["train", "--resume", str(folder), *options])


def weights(folder):
    with np.load(folder / "checkpoint.npz") as file:
        return {name: x for name, x in file.items() if name != "history"}


def killed_and_continued(kills, small, tmp_path):
    """Checks that a run killed at random moments ends with the weights of one that was not."""
    command = [sys.executable, "-m", "tfhedge.cli", "train"]
    options = [*small, *"--steps 12 --test-paths 64 --seed 5".split()]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    began = time.monotonic()
    subprocess.run([*command, "--out", str(whole), *options], check=True, capture_output=True)
    seconds = time.monotonic() - began

    rng = random.Random(0)
    for _ in range(kills):
        if not (parts / "config.json").exists():
            start = ["--out", str(parts), *options]
        elif (parts / "summary.json").exists():
            break
        else:
            start = ["--resume", str(parts)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([*command, *start], **quiet)
        time.sleep(rng.uniform(0.0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not (parts / "summary.json").exists():
        subprocess.run([*command, "--resume", str(parts)], check=True, capture_output=True)
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(parts)[name], value, err_msg=name)
    assert history(parts) == history(whole)


def test_a_run_that_is_killed_ends_as_if_it_had_not_been(small, tmp_path):
    killed_and_continued(2, small, tmp_path)


@pytest.mark.slow
def test_a_run_that_is_killed_many_times_ends_as_if_it_had_not_been(small, tmp_path):
    killed_and_continued(20, small, tmp_path)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    files.write_bytes(path, b"old")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [x.name for x in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_run_ends_at_its_target_or_after_its_steps():
    stop = Stop(num_steps=40, target_loss=0.1)
    assert [stop.verdict(step, 0.2) for step in (10, 40)] == [None, "steps"]
    assert stop.verdict(20, 0.1) == "target"
    assert stop.verdict(20, float("nan")) == "diverged"


def test_a_checkpoint_of_another_optimizer_is_refused(small, tmp_path):
    folder = tmp_path / "run"
    options = ["train", *small, "--steps", "2", "--test-paths", "64", "--out", str(folder)]
    assert cli.main([*options, "--optimizer", "adam"]) == 0
    config = dataclasses.replace(read_settings(folder / CONFIG_FILE), optimizer="dh-kfac")
    hedger = make_hedger(config)
    with pytest.raises(
        ValueError, match=r"Expected a checkpoint with the \d+ variables of dh_kfac"
    ):
        restore(folder / CHECKPOINT_FILE, hedger)
