"""What the tests of long runs have in common: a small problem, and an interruption."""

import os

import pytest

from tfhedge import files
from tfhedge.workflow import config


@pytest.fixture(scope="session")
def small():
    """Options of a small problem; the last of the ten batches of an epoch has 24 paths."""
    return (
        "--num-steps 20 --period 10 --units 4 --num-blocks 1 --batch-size 64 --num-paths 600 "
        "--validate-every 2 --validation-paths 64"
    ).split()


@pytest.fixture
def interrupt(monkeypatch):
    """Ends the process, as it were, when a checkpoint is about to replace the one before."""

    def set_up(write):
        replace, count = os.replace, 0

        def interrupted(source, target):
            nonlocal count
            count += target.name == config.CHECKPOINT_FILE
            if count == write:
                monkeypatch.setattr(files.os, "replace", replace)
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", interrupted)

    return set_up
