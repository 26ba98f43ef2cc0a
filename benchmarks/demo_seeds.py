"""The demo with seeds 0 to 4: how well it hedges, and how long it takes.

Run with `python benchmarks/demo_seeds.py --json benchmarks/results/demo_seeds.json`. It fails if a
policy leaves more than LARGEST_STD of the P&L's standard deviation.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

SEEDS = range(5)
LARGEST_STD = 0.0060


def main():
    """Runs the seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the runs' summaries here")
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            out = Path(folder, str(seed))
            command = [sys.executable, "-m", "tfhedge.cli", "train", "--preset", "demo"]
            subprocess.run([*command, "--seed", str(seed), "--out", out], check=True)
            runs.append(json.loads((out / "summary.json").read_text()))
    for run in runs:
        print(
            f"seed {run['seed']}: P&L std {run['pnl_std']:.5f} "
            f"(no hedge {run['unhedged_std']:.5f}), loss {run['loss']:.4f}, {run['seconds']:.0f} s"
        )
    if options.json:
        machine = {"cores": os.cpu_count(), "platform": platform.platform()}
        options.json.write_text(json.dumps({"machine": machine, "runs": runs}, indent=2) + "\n")
    worst = max(run["pnl_std"] for run in runs)
    if not worst <= LARGEST_STD:
        sys.exit(f"a P&L standard deviation of {worst:.5f} is above {LARGEST_STD}")


if __name__ == "__main__":
    main()
