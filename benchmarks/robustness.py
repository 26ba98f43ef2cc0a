r"""Whether DHKFAC trains as it stands on 96 problems of many kinds, beside Adam at its best.

Run with

    python benchmarks/robustness.py --out DIR --json benchmarks/results/robustness.json \
        --figure benchmarks/results/robustness.png

The problems are a designed experiment: each two levels of any two factors meet in one of them. On
each problem, from each of two seeds, `DHKFAC()` and Adam at three learning rates train the same
policy for 100 steps on the same batches; every ten steps they are judged on the same fresh paths.
Each run leaves a file, so that the same command continues what was interrupted. `--share 1/2` and
`--share 2/2` divide the work between two processes; the command without `--share` then judges all.
To take DHKFAC alone again, remove the files `dhkfac-*.json` of DIR.

The command fails, with a list of faults, if a run of DHKFAC ends early, is stuck, rises by more
than 25 % above its lowest risk so far, or ends above 1.25 times Adam; or if DHKFAC ends at or below
Adam in less than 95 % of the problems. A night on two cores.

**Measures.** The loss of a policy is the problem's objective on the paths of validation. The risk
is the same of the P&L about its mean, which is not negative. Every trade is fair, as prices are the
model's, so that all policies have the same expected P&L, and the risk tells them apart without the
noise of its mean. For the mean-variance objective, both are the same number.
"""

import argparse
import math
import signal
import statistics
import sys
from pathlib import Path

from record import machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from robustness_design import ADAMS, DHKFAC, FACTORS, Trial, design, select
from robustness_runs import read_rows, run_apart

VALIDATION_PATHS = 8192

# What the issue allows: a last risk over Adam's, a rise above the best so far, and the share of
# problems that are at or below Adam. Numbers this close are equal.
LARGEST_RATIO, LARGEST_RISE, SMALLEST_SHARE, ROUNDING = 1.25, 0.25, 0.95, 1e-3
# A run is stuck if it rejects this share of its last 50 steps, or leaves the risk within the second
# of what it was before, while Adam takes at least the third from it.
LAST_STEPS, MOST_REJECTED, NO_PROGRESS, PROGRESS = 50, 0.5, 0.01, 0.1


def last(run, measure="val_risk"):
    """The last number of a run; infinite if there is none, or the run ended early."""
    if run is None or run["ended_by"] != "steps" or run[measure][-1] is None:
        return math.inf
    return run[measure][-1]


def best_adam(row, measure="val_risk"):
    """The lowest last number of Adam, of all learning rates."""
    return min(last(row["runs"][name], measure) for name in ADAMS)


def ratio(row):
    """Computes the last risk of DHKFAC over the best of Adam's."""
    ours, adams = last(row["runs"][DHKFAC]), best_adam(row)
    if ours == math.inf or adams == 0.0:
        return 1.0 if ours == adams == 0.0 else math.inf
    return ours / adams


def is_at_or_below_adam(row, measure="val_risk"):
    """Whether DHKFAC ends at or below the best of Adam, up to a thousandth of Adam's risk."""
    ours, adams = last(row["runs"][DHKFAC], measure), best_adam(row, measure)
    slack = ROUNDING * best_adam(row) if best_adam(row) < math.inf else 0.0
    return ours < math.inf and ours <= adams + slack


def largest_rise(row):
    """Computes by which share of it the risk of DHKFAC ever was above the lowest before."""
    run = row["runs"][DHKFAC]
    if run is None or None in run["val_risk"]:
        return math.inf
    risks = np.array(run["val_risk"])
    return float(np.max(risks / np.minimum.accumulate(risks))) - 1.0


def rejected_share(run):
    """Computes the share of the last 50 steps that was rejected."""
    steps = np.array(run["step"])
    before = np.searchsorted(steps, steps[-1] - LAST_STEPS, side="right") - 1
    before = max(int(before), 0)
    rejected = run["rejected_steps"]
    return (rejected[-1] - rejected[before]) / max(steps[-1] - steps[before], 1)


def faults(row):
    """Yields what is wrong with the run of DHKFAC of a problem and seed.

    Args:
        row: One of `read_rows`.
    """
    run = row["runs"][DHKFAC]
    abandoned = [name for name, other in row["runs"].items() if other is None]
    if abandoned:
        yield f"no result of {', '.join(abandoned)}"
    if run is None:
        return
    if run["ended_by"] != "steps":
        yield f"stopped: {run['ended_by']}"
    elif not run["step"] or run["step"][-1] != row["num_steps"]:
        yield f"ended before step {row['num_steps']}"
    if None in run["val_loss"] or None in run["val_risk"]:
        yield "not finite"
        return
    if not run["step"]:
        return
    if rejected_share(run) > MOST_REJECTED:
        yield f"stuck: {rejected_share(run):.0%} of the last steps were rejected"
    before = run["val_risk"][0]
    unmoved = abs(run["val_risk"][-1] - before) <= NO_PROGRESS * before
    if unmoved and best_adam(row) <= (1.0 - PROGRESS) * before:
        yield "stuck: its risk is that of the untrained policy"
    if largest_rise(row) > LARGEST_RISE:
        yield f"a risk {largest_rise(row):.0%} above the lowest before"
    if run["ended_by"] == "steps" and ratio(row) > LARGEST_RATIO:
        yield f"a last risk of {ratio(row):.2f} times that of Adam"


def share_at_or_below(rows, measure="val_risk"):
    """Counts the problems in which every seed ends at or below Adam.

    Returns:
        How many, and of how many.
    """
    problems = {row["problem"] for row in rows}
    above = {row["problem"] for row in rows if not is_at_or_below_adam(row, measure)}
    return len(problems) - len(above), len(problems)


def table(rows):
    """Lists by level the ratios of the risks, the rises and the faults; a text."""
    titles = "".join(f"{x:>9}" for x in ("runs", "ratio", "worst", "rise", "above", "faulty"))
    lines = [f"{'DHKFAC / Adam':24}{titles}", summary("all", rows)]
    for factor, levels in FACTORS.items():
        for level in levels:
            if here := [row for row in rows if row["levels"][factor] == level]:
                lines.append(summary(level, here))
    for measure, name in {"val_risk": "risk", "val_loss": "loss"}.items():
        count, total = share_at_or_below(rows, measure)
        lines.append(f"{name} at or below Adam in {count} of {total} problems, from every seed")
    return "\n".join(lines)


def summary(name, rows):
    """Sums up some rows: median and worst ratio, largest rise, rows above Adam, rows at fault."""
    ratios, rise = [ratio(row) for row in rows], max(map(largest_rise, rows))
    above = sum(not is_at_or_below_adam(row) for row in rows)
    faulty = sum(any(True for _ in faults(row)) for row in rows)
    numbers = f"{statistics.median(ratios):9.3f}{max(ratios):9.3f}{rise:9.1%}{above:9}{faulty:9}"
    return f"{name:24}{len(rows):9}{numbers}"


def draw(rows):
    """Draws the ratios of the risks in order, and the largest rises; both on a logarithmic scale.

    Returns:
        The matplotlib `Figure`.
    """
    figure = Figure(figsize=(8.0, 7.0), layout="constrained")
    panels = figure.subplots(2, 1)
    series = {
        "last risk of DHKFAC / best of Adam": ([ratio(row) for row in rows], (1.0, LARGEST_RATIO)),
        "largest risk / lowest before": (
            [1.0 + largest_rise(row) for row in rows],
            (1.0, 1.0 + LARGEST_RISE),
        ),
    }
    for axes, (label, (values, marks)) in zip(panels, series.items(), strict=True):
        values = np.sort(values)
        finite = np.isfinite(values) & (values > 0.0)
        (at,) = np.nonzero(finite)
        axes.plot(at, values[at], ".", color="#0072b2", label="problem and seed")
        (at,) = np.nonzero(values == np.inf)
        top = 1.1 * max([*values[finite], *marks])
        axes.plot(at, np.full(len(at), top), "x", color="#d55e00", label="not finite")
        for mark, style in zip(marks, ("-", "--"), strict=True):
            axes.axhline(mark, linestyle=style, linewidth=1.0, color="#777777", label=f"{mark:g}")
        axes.set(yscale="log", ylabel=label)
        low, high = axes.get_ylim()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if high < 10.0 * low else "")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(which="both", alpha=0.3)
        axes.legend(fontsize="small")
    panels[-1].set_xlabel("problems and seeds, in the order of their values")
    return figure


def share(text):
    """Reads the I and N of `--share I/N`."""
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError(text)
    return part, parts


def main():
    """Runs the problems, prints, perhaps writes and draws, and judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the runs' files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw them here")
    parser.add_argument("--problems", nargs="+", help="numbers of problems, or names of levels")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each optimizer and problem")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--validation-paths", type=int, default=VALIDATION_PATHS)
    parser.add_argument("--share", type=share, default=(1, 1), metavar="I/N", help="a part of it")
    options = parser.parse_args()
    trials = [
        Trial(number, levels, options.steps, options.validation_paths)
        for number, levels in enumerate(design())
    ]
    (part, parts), seeds = options.share, range(1, options.seeds + 1)
    try:
        if options.problems:
            trials = select(trials, options.problems)
        trials = trials[part - 1 :: parts]
        read_rows(trials, options.out, seeds)
    except ValueError as error:
        parser.error(str(error))
    for trial in trials:
        run_apart(trial, options.out, seeds)
    rows = read_rows(trials, options.out, seeds)
    print("\n" + table(rows))
    if options.json:
        write(options.json, {"machine": machine(), "rows": rows})
    if options.figure:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(rows).savefig(options.figure, dpi=150)
    names = {trial.number: trial.name for trial in trials}
    wrong = [
        f"{names[x['problem']]}, seed {x['seed']}: {fault}" for x in rows for fault in faults(x)
    ]
    count, total = share_at_or_below(rows)
    if count < SMALLEST_SHARE * total:
        wrong.append(f"at or below Adam in {count} of {total} problems only")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # `finally` is then heeded
    main()
