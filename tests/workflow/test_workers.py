"""Processes that share each batch of `tfhedge train`."""

import csv
import json
import socket
import subprocess
import sys
import time

import pytest
from numpy.testing import assert_allclose

from tfhedge import cli

COMMAND = [sys.executable, "-m", "tfhedge.cli", "train"]


def addresses(count):
    """Addresses that are free."""
    sockets = [socket.socket() for _ in range(count)]
    for x in sockets:
        x.bind(("localhost", 0))
    found = [f"localhost:{x.getsockname()[1]}" for x in sockets]
    for x in sockets:
        x.close()
    return ",".join(found)


def begin(options, count=2):
    where = addresses(count)
    return [
        subprocess.Popen(
            [*COMMAND, *options, "--workers", where, "--worker", str(worker)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(count)
    ]


def losses(folder):
    with open(folder / "history.csv", newline="") as file:
        return [[float(row[x]) for x in ("loss", "val_loss")] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_workers_go_on_with_a_run_as_one_process_would_have(small, tmp_path, interrupt):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    options = [*small, *"--test-paths 64 --optimizer adam --steps 8".split()]
    assert cli.main(["train", "--out", str(whole), *options]) == 0
    interrupt(write=2)
    assert cli.main(["train", "--out", str(parts), *options]) == 130
    assert len(losses(parts)) == 2  # the second of them is in no checkpoint
    for process in begin(["--resume", str(parts)]):
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert len(losses(parts)) == 4
    assert_allclose(losses(parts), losses(whole), rtol=1e-5)
    summaries = [json.loads((x / "summary.json").read_text()) for x in (parts, whole)]
    assert_allclose(*(summary["loss"] for summary in summaries), rtol=1e-5)


@pytest.mark.slow
def test_a_worker_that_is_lost_ends_the_others_with_one_line(small, tmp_path):
    options = [*small, *"--test-paths 64 --steps 100000".split()]
    first, second = begin(["--out", str(tmp_path / "run"), *options])
    while not (tmp_path / "run" / "checkpoint.npz").exists():
        time.sleep(1.0)
        assert first.poll() is None
    second.kill()
    second.communicate()
    _, error = first.communicate()
    assert first.returncode == 1
    assert "a worker was lost" in error
    assert f"--resume {tmp_path / 'run'} goes on" in error


@pytest.mark.parametrize(
    ("workers", "worker", "complaint"),
    [
        ("localhost:1", "0", "two different"),
        ("localhost:1,localhost:1", "0", "two different"),
        ("localhost,other:1", "0", "host:port"),
        ("localhost:0,other:1", "0", "host:port"),
        (":1,other:1", "0", "host:port"),
        ("a:1,b:1", "2", "`worker` to be an integer from 0 to 1"),
        ("a:1,b:1", "-1", "`worker` to be an integer"),
        ("a:1,b:1", None, "`worker` to be an integer"),
        (None, "0", "two different"),
        (",".join(f"a:{port}" for port in range(1, 26)), "0", "a path of each batch for each"),
    ],
)
def test_what_is_no_group_of_workers_is_refused(
    workers, worker, complaint, small, tmp_path, refusal
):
    options = [
        *(["--workers", workers] if workers else []),
        *(["--worker", worker] if worker else []),
    ]
    folder = tmp_path / "run"
    assert complaint in refusal(["train", "--out", str(folder), *small, *options])
    assert not folder.exists()
