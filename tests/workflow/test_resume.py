"""A run that was interrupted and continued is the run that was not."""

import csv
import json
import os

import numpy as np
import pytest

from tfhedge import cli
from tfhedge.training import callbacks

# An epoch of ten batches, the last one of 24 paths: the fifteenth step is in the second.
SMALL = (
    "--num-steps 20 --period 10 --units 4 --num-blocks 1 --batch-size 64 --num-paths 600 "
    "--validate-every 2 --validation-paths 100 --test-paths 100 --steps 15"
).split()
TIMES = {"seconds", "training_seconds", "step_seconds"}


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]


def arrays(folder):
    with np.load(folder / "checkpoint.npz") as file:
        return {name: file[name] for name in file if name != "history"}


@pytest.fixture
def interrupt(monkeypatch):
    """Ends the process, as it were, when a checkpoint is about to replace the one before."""

    def set_up(write):
        replace, count = os.replace, 0

        def interrupted(source, target):
            nonlocal count
            count += target.name == "checkpoint.npz"
            if count == write:
                monkeypatch.setattr(callbacks.os, "replace", replace)
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(callbacks.os, "replace", interrupted)

    return set_up


@pytest.mark.parametrize("optimizer", ["dh-kfac", "adam"])
def test_a_run_goes_on_bit_for_bit(optimizer, tmp_path, interrupt):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*SMALL, "--optimizer", optimizer, "--seed", "5"]
    assert cli.main(["train", "--out", str(whole), *options]) == 0
    interrupt(write=6)
    assert cli.main(["train", "--out", str(parts), *options]) == 130
    assert json.loads(np.load(parts / "checkpoint.npz")["history"].item())[-1]["step"] == 10
    assert not (parts / "summary.json").exists()
    assert cli.main(["train", "--resume", str(parts)]) == 0
    assert history(parts) == history(whole)
    expected = arrays(whole)
    assert arrays(parts).keys() == expected.keys()
    for name, value in arrays(parts).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    summaries = [json.loads((x / "summary.json").read_text()) for x in (whole, parts)]
    assert summaries[0].pop("seconds") > 0.0 < summaries[1].pop("seconds")
    assert summaries[0] == summaries[1]
    assert {x.name for x in parts.iterdir()} - {x.name for x in whole.iterdir()} <= {
        ".checkpoint.npz.tmp"
    }
