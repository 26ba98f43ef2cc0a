"""Whether DH-KFAC as it stands trains in 100 steps, over many seeds and on other problems.

Run with
`python benchmarks/robustness_paper.py --out DIR --json benchmarks/results/robustness_paper.json`.
The paper's problem with 20 seeds, then each other case with three seeds beside Adam, at the rate
that its search found for the paper's problem, with the warm-up of a run of 100 steps; the policy
decides on trades, as the paper's. The same command continues what was interrupted, and leaves out
what is done. It fails if a run of DH-KFAC diverges, if its loss is ever 10 % above the lowest
before, if a seed of the paper's problem ends above 0.085, or if another case is ever above Adam at
the same step. Hours on two cores.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

from record import machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import numpy as np

import tfhedge as th
from tfhedge.workflow.config import RunConfig
from tfhedge.workflow.experiment import read_run, run_seed
from tfhedge.workflow.run import make_hedger, make_problem

LARGEST_LOSS, LARGEST_RISE = 0.085, 0.1
PAPER = "paper"


@dataclasses.dataclass(frozen=True)
class ScaledFeatures(th.HedgingProblem):
    """A hedging problem whose policy sees its features times a factor."""

    factor: float = 1.0

    def features_at(self, *arguments, **observables):
        """The features, scaled."""
        return self.factor * super().features_at(*arguments, **observables)


def with_features_times(factor):
    """Makes a hedger whose features are scaled."""

    def make(config):
        fields = vars(make_problem(config))
        return make_hedger(config, ScaledFeatures(**fields, factor=factor))

    return make


# What differs from the paper's problem: settings, and what makes the hedger.
CASES = {
    PAPER: ({}, make_hedger),
    "features times 0.1": ({}, with_features_times(0.1)),
    "features times 10": ({}, with_features_times(10.0)),
    "batch 512": ({"batch_size": 512}, make_hedger),
    "batch 8192": ({"batch_size": 8192}, make_hedger),
    "gamma 100": ({"risk_aversion": 100.0}, make_hedger),
    "gamma 10000": ({"risk_aversion": 10_000.0}, make_hedger),
    "T = 60": ({"num_steps": 60}, make_hedger),
    # On more paths, as the tails of its P&L are heavy: the losses of 8192 are noisy, and rise by
    # 10.2 % in a run where those of these paths rise by 8.8 %.
    "T = 480": ({"num_steps": 480, "validation_paths": 32_768}, make_hedger),
}


def main():
    """Runs the cases, prints, perhaps writes, and judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the runs' folders")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--paper-seeds", type=int, default=20, help="runs of the paper's problem")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each other case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here")
    options = parser.parse_args()
    base = RunConfig(steps=options.steps, validation_paths=8192, controls="trades")
    rows, wrong = [], []
    for case in options.cases:
        settings, make = CASES[case]
        optimizers = ("dh-kfac",) if case == PAPER else ("dh-kfac", "adam")
        num_seeds = options.paper_seeds if case == PAPER else options.seeds
        for seed in range(1, num_seeds + 1):
            runs = {}
            for optimizer in optimizers:
                config = dataclasses.replace(base, optimizer=optimizer, seed=seed, **settings)
                folder = options.out / case.replace(" ", "-") / f"{optimizer}-{seed}"
                run_seed(config, folder, make)
                runs[optimizer] = read_run(folder)
            curves = {name: run["history"]["val_loss"] for name, run in runs.items()}
            ends = {name: run["stopped_by"] for name, run in runs.items()}
            commits = {name: run["machine"]["commit"] for name, run in runs.items()}
            rows.append(
                {
                    "case": case,
                    "seed": seed,
                    "val_loss": curves,
                    "stopped_by": ends,
                    "commits": commits,
                }
            )
            wrong += [f"{case}, seed {seed}: {fault}" for fault in faults(case, curves, ends)]
    print("\n" + table(rows))
    if options.json:
        write(options.json, {"machine": machine(), "runs": rows})
    if wrong:
        sys.exit("\n".join(wrong))


def faults(case, curves, ends):
    """What is wrong with the run of DH-KFAC of a case and seed.

    Args:
        case: The case's name.
        curves: The validation losses by optimizer.
        ends: By optimizer, what ended the run.
    """
    if ends["dh-kfac"] != "steps" or None in curves["dh-kfac"]:
        yield f"ended by {ends['dh-kfac']}"
    rise = largest_rise(curves["dh-kfac"])
    if rise > LARGEST_RISE:
        yield f"a loss {rise:.0%} above the lowest before"
    if case == PAPER and not last(curves["dh-kfac"]) < LARGEST_LOSS:
        yield f"a loss of {last(curves['dh-kfac']):.4f} at the end is not below {LARGEST_LOSS}"
    pairs = zip(finite(curves["dh-kfac"]), finite(curves.get("adam", [])), strict=False)
    above = [str(i) for i, (ours, adams) in enumerate(pairs, start=1) if not ours < adams]
    if above:
        yield f"not below Adam at validation {', '.join(above)}"


def table(rows):
    """By case what DH-KFAC and Adam end with: median and extremes of the seeds; a text."""
    lines = [f"{'loss at the end':20}{'seeds':>5}{'DH-KFAC':>28}{'rise':>7}{'Adam':>28}"]
    for case, seeds in itertools.groupby(rows, lambda row: row["case"]):
        curves = [row["val_loss"] for row in seeds]
        ours = [curve["dh-kfac"] for curve in curves]
        rise = max(map(largest_rise, ours))
        adam = spread([curve["adam"] for curve in curves]) if case != PAPER else ""
        lines.append(f"{case:20}{len(curves):5}{spread(ours):>28}{rise:>7.1%}{adam:>28}".rstrip())
    return "\n".join(lines)


def spread(curves):
    """The last losses of some seeds, as a text."""
    ends = [last(curve) for curve in curves]
    return f"{np.median(ends):.4f} ({min(ends):.4f} to {max(ends):.4f})"


def finite(curve):
    """The losses, infinite where they are no numbers."""
    return np.array([float("inf") if loss is None else loss for loss in curve])


def last(curve):
    """The last loss, infinite if it is no number."""
    return finite(curve)[-1]


def largest_rise(curve):
    """By how much of it a loss was ever above the lowest before."""
    losses = finite(curve)
    return np.max(losses / np.minimum.accumulate(losses)) - 1.0


if __name__ == "__main__":
    main()
