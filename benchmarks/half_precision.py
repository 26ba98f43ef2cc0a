"""Whether training through float16 goes as training through float32, over 300 steps.

Run with `python benchmarks/half_precision.py --json benchmarks/results/half_precision.json`; the
figure goes beside the JSON. The backward pass reads what the forward pass kept, and that is rounded
to float16 where there is much of it (`tfhedge/policy/compiled.py`). Here the demo is trained for
longer, with three seeds, through either. The script fails if the two curves of a seed lie further
apart than those of two seeds, in the mean over the validations.
"""

import argparse
import dataclasses
import itertools
import math
import sys
import tempfile
from pathlib import Path

from record import machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import numpy as np
from matplotlib.figure import Figure

from tfhedge.policy import compiled
from tfhedge.workflow import run
from tfhedge.workflow.config import PRESETS

SEEDS = range(3)
# Up to how many bytes the values are kept as they are: what the package does, and always.
LIMITS = {"float16": compiled._MAX_EXACT_BYTES, "float32": math.inf}


def main():
    """Trains, compares and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the curves here")
    options = parser.parse_args()
    about = machine()
    curves = {
        kept: [validation_losses(kept, seed, options.steps) for seed in SEEDS] for kept in LIMITS
    }
    logs = {kept: np.log(losses) for kept, losses in curves.items()}
    between_kinds = np.abs(logs["float16"] - logs["float32"]).mean()
    between_seeds = np.mean(
        [np.abs(a - b).mean() for x in logs.values() for a, b in itertools.combinations(x, 2)]
    )
    print(f"mean distance of two curves: one seed, float16 and float32 {between_kinds:.2%}")
    print(f"                             two seeds                     {between_seeds:.2%}")
    for kept, losses in curves.items():
        print(f"{kept}: last validation losses", *(f"{x[-1]:.5f}" for x in losses))
    if options.json:
        result = {"between_kinds": between_kinds, "between_seeds": between_seeds}
        write(options.json, {"machine": about, **result, "validation_losses": curves})
        draw(curves).savefig(options.json.with_suffix(".png"), dpi=150)
    if not between_kinds <= between_seeds:
        sys.exit("float16 changes the training by more than the seed does")


def validation_losses(kept, seed, steps):
    """The validation loss at every tenth step of a run."""
    compiled._MAX_EXACT_BYTES = LIMITS[kept]
    print(f"{kept}, seed {seed}", flush=True)
    config = dataclasses.replace(PRESETS["demo"], steps=steps, seed=seed)
    hedger = run.make_hedger(config)
    with tempfile.TemporaryDirectory() as folder:
        history, _ = run.fit(hedger, config, Path(folder))
    (lanes,) = hedger.policy.compiled._lanes.values()
    assert lanes[0].kept[-1].dtype == kept  # or the comparison would be with itself
    return [row["val_loss"] for row in history.rows]


def draw(curves):
    """The curves of all seeds, one style for what is kept."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (kept, losses), style in zip(curves.items(), ("-", "--"), strict=True):
        for seed, curve in enumerate(losses):
            steps = 10 * np.arange(1, len(curve) + 1)
            axes.plot(steps, curve, style, color=f"C{seed}", lw=1, label=f"{kept}, seed {seed}")
    axes.set(xlabel="step", ylabel="validation loss", yscale="log")
    axes.legend(ncols=2)
    return figure


if __name__ == "__main__":
    main()
