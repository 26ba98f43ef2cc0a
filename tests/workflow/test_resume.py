"""A run that was interrupted and continued is the run that was not."""

import csv
import json

import numpy as np
import pytest

from tfhedge import cli
from tfhedge.training.callbacks import Stop

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
        ({"config.json": "{}"}, [], "no checkpoint"),
        ({"config.json": "{}", "summary.json": '{"stopped_by": "interrupted"}'}, [], "checkpoint"),
        ({"config.json": "{}", "summary.json": '{"stopped_by": "target"}'}, [], "has ended"),
        ({"config.json": "{}", "checkpoint.npz": ""}, ["--seed", "1"], "leave out"),
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


def test_a_run_at_its_target_goes_on_for_the_least_steps():
    stop = Stop(num_steps=40, target_loss=0.1, least_steps=20)
    assert stop.verdict(10, 0.1) is None
    assert stop.verdict(20, 0.2) == "target"
    assert stop.verdict(20, float("nan")) == "diverged"
    stop = Stop(num_steps=40, target_loss=0.1, least_steps=20)
    assert [stop.verdict(step, 0.2) for step in (10, 20, 40)] == [None, None, "steps"]
