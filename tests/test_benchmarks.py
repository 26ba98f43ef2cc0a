"""The benchmarks that check what they measure."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_demo_hedges_with_every_seed():
    subprocess.run([sys.executable, BENCHMARKS / "demo_seeds.py"], check=True)
