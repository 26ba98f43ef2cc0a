"""The comparison of the optimizers: searches, runs, and how many steps and seconds each needs."""

import csv
import dataclasses
import json
import math
import statistics

import keras

from tfhedge.evaluation import figures
from tfhedge.files import write_json, write_text
from tfhedge.training.path_statistics import PathStatistics
from tfhedge.workflow.config import OPTIMIZERS
from tfhedge.workflow.machine import machine
from tfhedge.workflow.run import VALIDATION, fit, make_hedger, open_folder
from tfhedge.workflow.sweep import sweep

# The optimizer that the others are compared with, and what its best loss is multiplied by.
REFERENCE = "adam"
TOLERANCE = 1.01

# The optimizers as figures and tables name them.
LABELS = {"adam": "Adam", "dh-kfac-paper": "DHKFAC.paper()", "dh-kfac": "DHKFAC()"}


def compare_optimizers(config, folder, only=None):
    """Searches the settings of each optimizer, runs it at the winner, and compares them.

    The search has the same number of trials and steps for each optimizer, and a seed of its own,
    whose training paths and initial weights the runs do not see. Adam goes first: the target is
    1.01 times the median of its runs' best validation losses, and the others stop there. What is
    finished already is not done again, and what was interrupted goes on where it was. The folder
    receives `optimizers.json` and `optimizers.png`; each run's folder `checkpoint.npz` with the
    weights at its end.

    Args:
        config: An `ExperimentConfig`.
        folder: The experiment's folder, a `pathlib.Path`, as `open_folder` made or found it.
        only: The one optimizer to search and run now, or None for all.

    Returns:
        The contents of `optimizers.json`, with all optimizers that are finished.

    Raises:
        RuntimeError: If every trial of an optimizer diverged, or Adam is to come first.
    """
    names = [REFERENCE, *sorted(OPTIMIZERS.keys() - {REFERENCE})]
    for optimizer in [only] if only else names:
        run_optimizer(config, optimizer, folder)
    results = {name: read_optimizer(config, name, folder) for name in names}
    results = {name: result for name, result in results.items() if result}
    target = target_loss(config, folder)
    outcome = {
        "config": dataclasses.asdict(config),
        "target": target,
        "comparison": comparison(results, target),
        "optimizers": results,
    }
    write_text(folder / "optimizers.json", json.dumps(outcome) + "\n")
    panels = figures.optimizers(read_bands(outcome), target)
    panels[0].figure.savefig(folder / "optimizers.png", dpi=150)
    return outcome


def run_optimizer(config, optimizer, folder):
    """The search of one optimizer, and its runs at the winner."""
    target = None if optimizer == REFERENCE else target_loss(config, folder)
    search, search_folder = config.sweep(optimizer), folder / optimizer / "sweep"
    open_folder(search_folder, search)
    outcome = sweep(search, search_folder)
    for seed in seeds(config):
        run = dataclasses.replace(
            config.run,
            optimizer=optimizer,
            seed=seed,
            target_loss=target,
            **outcome["best"]["settings"],
        )
        run_seed(run, folder / optimizer / f"seed-{seed}", least_steps=config.search_steps)


def run_seed(config, folder, make=make_hedger, **stop_options):
    """One run, with the statistics along its path in its history, unless it is there already.

    Args:
        config: A `RunConfig`.
        folder: The run's folder, a `pathlib.Path`.
        make: What makes the hedger from the configuration.
        **stop_options: Further arguments of `Stop`.
    """
    open_folder(folder, config)
    if (folder / "summary.json").exists():
        return
    print(f"\n{config.optimizer}, seed {config.seed}, folder {folder}\n", flush=True)
    keras.utils.clear_session()
    hedger = make(config)
    episodes = hedger.problem.episodes(config.batch_size, (0, VALIDATION))
    history, stop = fit(hedger, config, folder, [PathStatistics(episodes)], **stop_options)
    summary = {
        "seed": config.seed,
        "stopped_by": stop.reason,
        "best_val_loss": min((row["val_loss"] for row in history.rows), key=finite_first),
        **{name: history.rows[-1][name] for name in ("step", "seconds", "training_seconds")},
        "machine": machine(),
    }
    write_json(folder / "summary.json", summary)


def seeds(config):
    """The seeds of the runs, none of which is that of the search."""
    return range(config.run.seed + 1, config.run.seed + 1 + config.seeds)


def target_loss(config, folder):
    """1.01 times the median of the best losses of Adam's runs."""
    summaries = [folder / REFERENCE / f"seed-{seed}" / "summary.json" for seed in seeds(config)]
    if not all(path.exists() for path in summaries):
        raise RuntimeError(f"{folder} holds no finished runs of {REFERENCE}: they come first")
    losses = [json.loads(path.read_text())["best_val_loss"] for path in summaries]
    return TOLERANCE * statistics.median(losses)


def read_optimizer(config, optimizer, folder):
    """Search, winner and runs of an optimizer, or None if they are not finished."""
    folder = folder / optimizer
    runs = [folder / f"seed-{seed}" for seed in seeds(config)]
    if not all((run / "summary.json").exists() for run in runs):
        return None
    return {
        "search": json.loads((folder / "sweep" / "sweep.json").read_text()),
        "runs": [read_run(run) for run in runs],
    }


def read_run(folder):
    """The contents of a finished run's `summary.json`, and its `history`."""
    return {**json.loads((folder / "summary.json").read_text()), "history": read_history(folder)}


def read_history(folder):
    """The columns of a run's `history.csv`; what is not finite is None."""
    with open(folder / "history.csv", newline="") as file:
        rows = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    return {
        name: [row[name] if math.isfinite(row[name]) else None for row in rows] for name in rows[0]
    }


def comparison(results, target):
    """What each optimizer needs to reach the target, and its share of what Adam needs.

    Args:
        results: What `read_optimizer` returns, by optimizer.
        target: The validation loss to reach.

    Returns:
        For each optimizer the steps and the seconds of training until the target, one number for
        each run, None for those that did not reach it; their medians; the median of the best
        losses; and the ratios of the medians to those of Adam.
    """
    rows = {}
    for name, result in results.items():
        reached = [until(run["history"], target) for run in result["runs"]]
        steps, seconds = ([point and point[i] for point in reached] for i in (0, 1))
        rows[name] = {
            "steps": steps,
            "seconds": seconds,
            "median_steps": median(steps),
            "median_seconds": median(seconds),
            "best_val_loss": median([run["best_val_loss"] for run in result["runs"]]),
        }
    reference = rows[REFERENCE]
    for row in rows.values():
        for name in ("median_steps", "median_seconds", "best_val_loss"):
            both = row[name] is not None and reference[name] is not None
            ratio = row[name] / reference[name] if both else None
            row[f"{name.removeprefix('median_')}_ratio"] = ratio
    return rows


def until(history, target):
    """Steps and seconds of training until the validation loss is on target, or None.

    A step takes the median of the run's steps, so that what else the machine did does not count.
    """
    for step, loss in zip(history["step"], history["val_loss"], strict=True):
        if loss is not None and loss <= target:
            return int(step), step * statistics.median(history["step_seconds"])
    return None


def read_bands(outcome):
    """By an optimizer's label what `bands` makes of its runs in `optimizers.json`."""
    runs = {LABELS[name]: result["runs"] for name, result in outcome["optimizers"].items()}
    return {label: bands([run["history"] for run in x]) for label, x in runs.items()}


def bands(histories):
    """What runs of one optimizer have in common, for the figures.

    Args:
        histories: For each run its history, as `read_history` returns it.

    Returns:
        A JSON-ready dictionary with `step`, those of the longest run; `step_seconds`, the median
        time of a step; and for `val_loss`, `gradient_variance` and, where there is a
        preconditioner, `largest_eigenvalue`, the least, the median and the most of the runs that
        went so far, None where none of them is a number.
    """
    longest = max(histories, key=lambda history: len(history["step"]))
    result = {
        "step": longest["step"],
        "step_seconds": statistics.median(x for run in histories for x in run["step_seconds"]),
    }
    eigenvalues = [name for name in longest if name.startswith("largest_eigenvalue")]
    names = {"val_loss": ["val_loss"], "gradient_variance": ["gradient_variance"]}
    names |= {"largest_eigenvalue": eigenvalues} if eigenvalues else {}
    for name, columns in names.items():
        ranges = []
        for i in range(len(longest["step"])):
            here = [[run[x][i] for x in columns] for run in histories if i < len(run["step"])]
            values = [max(row) for row in here if None not in row]
            middle = statistics.median(values) if values else None
            ranges.append((min(values, default=None), middle, max(values, default=None)))
        result[name] = [list(x) for x in zip(*ranges, strict=True)]
    return result


def median(values):
    """The median of numbers, of which None is the largest."""
    result = statistics.median(math.inf if x is None else x for x in values)
    return result if math.isfinite(result) else None


def finite_first(loss):
    """A key by which losses that are no finite numbers come last."""
    return loss if math.isfinite(loss) else math.inf
