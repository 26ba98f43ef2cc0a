"""A run that was interrupted and continued is the run that was not."""

import csv
import dataclasses
import json
import random
import shutil
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


def assert_same_run(parts, whole):
    (_, arrays), (_, expected) = checkpoint(parts), checkpoint(whole)
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    assert history(parts) == history(whole)


@pytest.fixture(scope="session")
def options(small):
    """Options of a run, but for its optimizer."""
    return [*small, *"--test-paths 64 --steps 15 --seed 5 --optimizer".split()]


@pytest.fixture(scope="module")
def whole_run(options, tmp_path_factory):
    """The folder of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main(["train", "--out", str(folder), *options, "dh-kfac"]) == 0
    return folder


def test_a_run_goes_on_bit_for_bit(options, whole_run, tmp_path, interrupt):
    whole, parts = whole_run, tmp_path / "parts"
    interrupt(write=6)
    assert cli.main(["train", "--out", str(parts), *options, "dh-kfac"]) == 130
    rows, _ = checkpoint(parts)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    assert not (parts / "summary.json").exists()

    assert cli.main(["train", "--resume", str(parts)]) == 0
    assert_same_run(parts, whole)
    rows, _ = checkpoint(parts)
    for name in ("seconds", "training_seconds"):
        assert np.all(np.diff([row[name] for row in rows]) > 0.0)
    summary, other = (json.loads((x / "summary.json").read_text()) for x in (parts, whole))
    assert summary.pop("seconds") > rows[-1]["seconds"] > rows[-1]["training_seconds"]
    assert other.pop("seconds") > 0.0
    assert summary == other
    assert [path.name for path in parts.glob(".*")] == [".lock"]


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


def test_a_run_goes_on_by_the_same_optimizer_or_not_at_all(options, tmp_path, interrupt, capsys):
    folder = tmp_path / "run"
    interrupt(write=2)
    assert cli.main(["train", "--out", str(folder), *options, "adam"]) == 130
    settings = json.loads((folder / "optimizer.json").read_text())
    settings["config"]["beta_1"] = 0.8  # as if that had been the default then
    files.write_json(folder / "optimizer.json", settings)
    assert cli.main(["train", "--resume", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "by another optimizer: config.beta_1 is 0.8 there and 0.9 here" in error
    with files.Lock(folder):
        assert cli.main(["train", "--resume", str(folder)]) == 1
    assert "another process trains in" in capsys.readouterr().err


@pytest.fixture
def copy(whole_run, tmp_path):
    """A copy of the run as if it had been interrupted."""
    folder = shutil.copytree(whole_run, tmp_path / "copy")
    (folder / "summary.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "kept_bytes", "added"),
    [
        ("checkpoint.npz", 5000, b""),
        ("checkpoint.npz", 0, b""),
        ("checkpoint.npz", 0, b"garbage"),
        ("optimizer.json", 0, b"[]"),
        ("summary.json", 0, b"[1]"),
        ("config.json", 50, b""),
    ],
)
def test_a_file_that_is_damaged_is_named_in_one_line(name, kept_bytes, added, copy, capsys):
    path = copy / name
    content = path.read_bytes() if path.exists() else b""
    path.write_bytes(content[:kept_bytes] + added)
    commands = {
        "optimizer.json": [["train", "--resume", str(copy)]],
        "checkpoint.npz": [["train", "--resume", str(copy)], ["figures", str(copy)]],
    }
    for command in commands.get(name, [["figures", str(copy)]]):
        try:
            status = cli.main(command)
        except SystemExit as stopped:
            status = stopped.code
        (line,) = (x for x in capsys.readouterr().err.splitlines() if "Expected" in x)
        assert status in (1, 2)
        assert str(path) in line


def test_a_checkpoint_without_a_history_is_damaged(copy, capsys):
    path = copy / CHECKPOINT_FILE
    _, arrays = checkpoint(copy)
    np.savez(path, history="[]", **arrays)
    assert cli.main(["train", "--resume", str(copy)]) == 1
    assert "Expected a checkpoint" in capsys.readouterr().err


def begin(options):
    """Begins a run in a process of its own."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "tfhedge.cli", "train", *options], **quiet)


@pytest.mark.slow
def test_a_run_that_is_killed_many_times_ends_as_if_it_had_not_been(options, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    began = time.monotonic()
    assert begin(["--out", str(whole), *options, "dh-kfac"]).wait() == 0
    seconds = time.monotonic() - began

    rng = random.Random(0)
    for _ in range(20):
        begun = (parts / "config.json").exists()
        more = ["--resume", str(parts)] if begun else ["--out", str(parts), *options, "dh-kfac"]
        process = begin(more)
        time.sleep(rng.uniform(0.0, seconds))
        process.kill()
        process.wait()
        if (parts / "summary.json").exists():
            break
    else:
        assert begin(["--resume", str(parts)]).wait() == 0
    assert_same_run(parts, whole)


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


def test_a_checkpoint_of_another_optimizer_is_refused(whole_run):
    config = dataclasses.replace(read_settings(whole_run / CONFIG_FILE), optimizer="adam")
    with pytest.raises(ValueError, match=r"Expected a checkpoint with the \d+ variables of adam"):
        restore(whole_run / CHECKPOINT_FILE, make_hedger(config))
