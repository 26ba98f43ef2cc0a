r"""Compares what the quadratic model promises with what the loss then does, step by step.

Run with `python benchmarks/promises.py "call, no cost" --rule unchecked --observes last_action`,
and with `--json benchmarks/results/promises.json` to keep the run beside those already there; a
figure of all runs goes beside the file. `docs/when_steps_fail.md` discusses the results.

DHKFAC chooses a step delta by the quadratic model

    M(delta) = g' delta + delta' B delta / 2,

with the gradient g of the batch, and with B on 128 of the paths of the batch. Each row holds, for a
step i, with the weights before the step unless said,

- `kind`: whether the step was taken, rejected, or took the step before back;
- `loss` of the batch, `length`, the share c of the update that the check left, `damping`, and
  `signal`, the share of the slope of the batch that other paths have, too;
- `promised`, M(delta); `promised_same`, M with the slope of the 128 paths;
- `same`, `batch` and `fresh`, the changes of the loss on the 128 paths, on the whole batch, and on
  fresh paths; `ratio_same` = same / promised_same, `ratio_batch` and `ratio_fresh` likewise to
  `promised`. A ratio of 1 is a promise that was kept;
- `outlet_alone` and `others_alone`, the changes of the loss on the 128 paths if only the output
  layer takes its part of the step, and if only the other layers do;
- `curved_same` and `curved_batch`, delta' B delta on the 128 paths and on the whole batch;
- `trades_linear` and `trades`, the root mean square of the change of the trades of the batch, by
  the linearization and in truth;
- `kink`, by how much the costs change more than their parabola says, if the trades change as the
  linearization has it: E[ w (c'(|u + du| - |u| - sign(u) du) - c~'du^2) ] over the batch, with the
  quadratic costs c~ of B;
- `layer` and `layer_share`, the layer with the largest share of delta' B delta,
  share_l = sum_k delta_l' B delta_k / delta' B delta;
- `top_pnl`, the share of the squared change of the P&L after costs that is due to the 1 % of the
  paths with the largest, `top_loss`, the same for the absolute change of the path losses, and
  `top_weight`, the share of these 1 % in the weights w of the objective;
- `finite_paths`, the share of paths whose P&L is finite after the step;
- `gate_norms`, the Frobenius norms of the gate kernels;
- `loop_gain`, the spectral radius of W W^u, by which the output layer multiplies what the input
  layer makes of the last action, the blocks aside.

In every tenth step, and where the loss is not finite, a row also has `gradients`: for each layer
the largest and the median norm of the gradients of single paths, on 256 paths; and `growth`: for
the path of the largest gradient and for a median one, the largest spectral radius of the Jacobian
J_t of the state at one time with respect to the state one time earlier (`radius`), the largest
Frobenius norm of J_t ... J_0, as a power of ten (`log10_product`), and the largest `action`, over
the number of `times` up to which all of this is finite.

Quantities that are not finite are kept as null.
"""

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from promise_rows import Recorder
from promise_rules import RULES, SAMPLES, make_hedger
from record import machine, write
from three_problems import CASES, Case, underlying

import tfhedge as th
from tfhedge.files import read_json
from tfhedge.workflow.run import FIXED_STRIKES

OBSERVES = "log_action", "last_action"
FIXED = th.FixedGrid.chain((60, 120, 180, 240), FIXED_STRIKES)
SHORT = th.HedgingProblem(
    th.Heston.from_paper(), th.Cliquet(2, 3, 0.015), underlying(0.0), th.MeanVariance(1000.0)
)
PROBLEMS = {
    **CASES,
    "fixed contracts": Case(
        dataclasses.replace(th.HedgingProblem.from_paper(), instruments=FIXED), 512, None
    ),
    "short cliquet": Case(SHORT, 64, None),
}


COLUMNS = (
    "loss promised promised_same same batch fresh ratio_same ratio_batch ratio_fresh outlet_alone "
    "others_alone curved_same curved_batch kink trades_linear trades layer layer_share top_pnl "
    "top_loss top_weight finite_paths length damping signal loop_gain"
).split()


def line(row):
    """Formats a row."""
    cells = [f"{row['step']:4}", f"{row['kind']:>10}"]
    cells += [f"{cell(row[name]):>{max(len(name), 9)}}" for name in COLUMNS]
    return " ".join([*cells, f"{max(row['gate_norms']):9.3g}"])


def cell(value):
    """Formats a value."""
    return value if isinstance(value, str) else "nan" if value is None else f"{value:.3g}"


def of_paths(row):
    """Formats what a row says of the gradients of single paths and of growth."""
    ratios = [
        f"{name} {cell(largest)}/{cell(median)}"
        for name, (largest, median) in row["gradients"].items()
    ]
    growths = [
        f"{name} {' '.join(map(cell, np.atleast_1d(values)))}"
        for name, values in row["growth"].items()
    ]
    return f"     gradients, largest/median: {', '.join(ratios)}; {'; '.join(growths)}"


def draw(runs):
    """Draws promises and outcomes of each run; a figure."""
    rows = math.ceil(len(runs) / 2)
    figure = Figure(figsize=(11, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flat
    styles = {"promised": "k.-", "same": "C0o", "batch": "C1x", "fresh": "C2+"}
    labels = {"promised": "promise of M", "same": "paths of M", "batch": "batch", "fresh": "fresh"}
    for ax, (name, run) in zip(axes, runs.items(), strict=False):
        for key, style in styles.items():
            values = [math.nan if row[key] is None else row[key] for row in run["rows"]]
            ax.plot([row["step"] for row in run["rows"]], values, style, ms=4, label=labels[key])
        lost = [row["step"] for row in run["rows"] if row["batch"] is None]
        for step in lost:
            ax.axvline(
                step, color="r", linewidth=1.0, label="not finite" if step == lost[0] else None
            )
        ax.set_yscale("symlog", linthresh=1e-3)
        ax.set_title(name, fontsize=9)
        ax.set_ylabel("change of the loss", fontsize=8)
        ax.legend(fontsize=7, ncols=2)
    for ax in figure.axes[len(runs) :]:
        ax.remove()
    return figure


def main():
    """Trains, prints, and perhaps keeps the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--blocks", type=int, default=2, help="blocks of the policy")
    parser.add_argument("--rule", choices=RULES, default="checked")
    parser.add_argument("--observes", choices=OBSERVES, default=OBSERVES[0])
    parser.add_argument("--sample", choices=SAMPLES, default="weighted", help="paths of M")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="measure every so many steps")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights of a checkpoint.npz")
    parser.add_argument("--batch", type=int, help="paths in a step, in place of the problem's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the rows here")
    options = parser.parse_args()
    case = PROBLEMS[options.problem]
    problem, size = case.problem, options.batch or case.batch_size
    hedger = make_hedger(
        problem, options.blocks, options.rule, options.observes, options.sample, options.seed
    )
    if options.start:
        kept = np.load(options.start)
        hedger.set_weights([kept[f"weight_{i}"] for i in range(len(hedger.weights))])
    recorder = Recorder(hedger, problem.episodes(size, seed=(1, 2)))
    print(f"{'step':4} {'kind':>10}", *(f"{x:>9}" for x in COLUMNS), f"{'gates':>9}")
    rows, batches = [], problem.dataset(size * options.steps, size, seed=(1, 1))
    about = machine()
    for number, batch in enumerate(batches):
        if number % options.every:
            hedger.train_function(iter([batch]))
            continue
        rows.append(recorder.step(number, batch))
        print(line(rows[-1]), flush=True)
        if "growth" in rows[-1]:
            print(of_paths(rows[-1]), flush=True)
        if options.json:
            keep(options, about, rows)
        if rows[-1]["loss"] is None:
            break


def keep(options, about, rows):
    """Adds a run to the file, in place of one of the same name, and draws the figure."""
    runs = read_json(options.json)["runs"] if options.json.exists() else {}
    name = f"{options.problem}, {options.blocks} blocks, {options.rule}, {options.observes}"
    name += ", first paths" if options.sample == "first" else ""
    name += f", from {options.start.parent.name}" if options.start else ""
    settings = {x: y for x, y in vars(options).items() if x not in ("json", "start")}
    runs[name] = {"settings": settings, "machine": about, "rows": rows}
    write(options.json, {"runs": runs})
    draw(runs).savefig(options.json.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
