"""The comparison of the optimizers: searches, runs, and how many steps and seconds each needs."""

import csv
import dataclasses
import json
import math
import statistics
import time

import keras

from tfhedge.evaluation import figures
from tfhedge.files import read_json, write_json, write_text
from tfhedge.training.path_statistics import PathStatistics
from tfhedge.workflow.machine import machine
from tfhedge.workflow.run import (
    VALIDATION,
    fit,
    locked,
    make_hedger,
    open_folder,
    training_batches,
)

# The optimizers as figures and tables name them.
LABELS = {"dh-kfac": "DHKFAC()", "dh-kfac-paper": "DHKFAC.paper()", "adam": "Adam"}

# The one that the others are compared with, and what its best loss is multiplied by.
REFERENCE = "adam"
TOLERANCE = 1.01

# And by what it is multiplied for earlier targets.
_EARLIER = (2.0, 1.5, 1.25, 1.1)

# Those whose settings are searched; `DHKFAC()` is taken as it stands.
SEARCHED = ("dh-kfac-paper", "adam")

# Steps of each optimizer that make one time: after as many all have done all that they ever do.
# The step before them, which starts a dataset, does not count, nor what `fit` does after the last.
_CYCLE, _ROUNDS = 25, 3


def compare_optimizers(config, folder, only=None):
    """Searches settings of the optimizers, runs each, and compares them.

    The searches have the same number of trials and steps, and a seed of their own, whose training
    paths and initial weights the runs do not see. Then each optimizer takes its steps from each
    seed, and the times of a step are measured, all in one process. What is finished already is not
    done again, and what was interrupted goes on where it was. The folder receives `optimizers.json`
    and `optimizers.png`; each run's folder `checkpoint.npz` with the weights at its end.

    Args:
        config: An `ExperimentConfig`.
        folder: The experiment's folder, a `pathlib.Path`, as `open_folder` made or found it.
        only: The one optimizer to search and run now, or None for all.

    Returns:
        The contents of `optimizers.json`, with all runs that are finished; until there is one of
        Adam, `target` and `comparison` are None.

    Raises:
        RuntimeError: If every trial of an optimizer diverged, or another process is at one of the
            runs, or a run began with another optimizer.
    """
    names = [only] if only else list(LABELS)
    runs = {name: search(config, name, folder) for name in names}
    for seed in seeds(config):
        for name, run in runs.items():
            run = dataclasses.replace(run, seed=seed)
            run_seed(run, folder / name / f"seed-{seed}", with_statistics=True)
    times = folder / "step_seconds.json"
    if not times.exists():
        seconds = time_steps({name: config.run_of(name) for name in LABELS})
        write_json(times, {"seconds": seconds, "machine": machine()})
    outcome = collect(config, folder)
    write_text(folder / "optimizers.json", json.dumps(outcome) + "\n")
    panels = figures.optimizers(read_bands(outcome), outcome["target"])
    panels[0].figure.savefig(folder / "optimizers.png", dpi=150)
    return outcome


def search(config, optimizer, folder):
    """The configuration of an optimizer's runs, with the winner of its search if it has one."""
    run = config.run_of(optimizer)
    if optimizer not in SEARCHED:
        return run
    search_config, search_folder = config.sweep(optimizer), folder / optimizer / "sweep"
    open_folder(search_folder, search_config)
    from tfhedge.workflow.sweep import sweep  # only now, as Optuna writes into notebooks

    return dataclasses.replace(run, **sweep(search_config, search_folder)["best"]["settings"])


class _Clock(keras.callbacks.Callback):
    """Notes when each step ends, in seconds."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def time_steps(runs):
    """Seconds of a training step of each run: medians of stretches of steps, taken in turn."""
    hedgers = {name: make_hedger(run) for name, run in runs.items()}
    seconds = {name: [] for name in runs}
    for _ in range(1 + _ROUNDS):
        for name, hedger in hedgers.items():
            batches = training_batches(hedger.problem, runs[name], first_step=0)
            clock = _Clock()
            hedger.fit(batches, steps_per_epoch=1 + _CYCLE, callbacks=[clock], verbose=0)
            seconds[name].append((clock.ends[-1] - clock.ends[0]) / _CYCLE)
    return {name: statistics.median(x[1:]) for name, x in seconds.items()}  # the first compiles


def collect(config, folder):
    """The contents of `optimizers.json`."""
    results = {name: read_optimizer(config, name, folder) for name in LABELS}
    results = {name: result for name, result in results.items() if result["runs"]}
    times = read_json(folder / "step_seconds.json")
    target = None
    if REFERENCE in results:
        best = [run["best_val_loss"] for run in results[REFERENCE]["runs"]]
        target = TOLERANCE * statistics.median(best)
    return {
        "config": dataclasses.asdict(config),
        "target": target,
        "comparison": target and comparison(results, target, times["seconds"]),
        "step_seconds": times,
        "optimizers": results,
    }


def run_seed(config, folder, make=make_hedger, with_statistics=False):
    """One run, unless it is there already.

    Args:
        config: A `RunConfig`.
        folder: The run's folder, a `pathlib.Path`.
        make: What makes the hedger from the configuration.
        with_statistics: Whether the history has the `PathStatistics`.
    """
    open_folder(folder, config)
    if (folder / "summary.json").exists():
        return
    print(f"\n{config.optimizer}, seed {config.seed}, folder {folder}\n", flush=True)
    keras.utils.clear_session()
    hedger = make(config)
    callbacks = []
    if with_statistics:
        episodes = hedger.problem.episodes(config.batch_size, (0, VALIDATION))
        callbacks.append(PathStatistics(episodes))
    with locked(folder):
        history, stop = fit(hedger, config, folder, callbacks)
    last = history.rows[-1]
    summary = {
        "seed": config.seed,
        "steps": last["step"],
        "stopped_by": stop.reason,
        "best_val_loss": min((row["val_loss"] for row in history.rows), key=finite_first),
        **{name: last[name] for name in ("seconds", "training_seconds")},
        "machine": machine(),
    }
    write_json(folder / "summary.json", summary)


def seeds(config):
    """The seeds of the runs, none of which is that of the search."""
    return range(config.run.seed + 1, config.run.seed + 1 + config.seeds)


def read_optimizer(config, optimizer, folder):
    """The search of an optimizer, None if it has none, and its runs that are finished."""
    folder = folder / optimizer
    path, runs = folder / "sweep" / "sweep.json", [folder / f"seed-{x}" for x in seeds(config)]
    return {
        "search": read_json(path) if path.exists() else None,
        "runs": [read_run(run) for run in runs if (run / "summary.json").exists()],
    }


def read_run(folder):
    """The contents of a finished run's `summary.json`, and its `history`."""
    return {**read_json(folder / "summary.json"), "history": read_history(folder)}


def read_history(folder):
    """The columns of a run's `history.csv`; what is not finite is None."""
    with open(folder / "history.csv", newline="") as file:
        rows = [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]
    return {
        name: [row[name] if math.isfinite(row[name]) else None for row in rows] for name in rows[0]
    }


def comparison(results, target, step_seconds):
    """What each optimizer needs to reach the target, and its share of what Adam needs.

    Args:
        results: What `read_optimizer` returns, by optimizer.
        target: The validation loss to reach.
        step_seconds: Seconds of a step, by optimizer.

    Returns:
        For each optimizer the steps until the target, one number for each run, None for those that
        did not reach it; their median, and the seconds that it takes; the medians of the best and
        of the last losses; the ratios of these to those of Adam; and `earlier_steps_ratio`, the
        ratios of the median steps to some multiples of the median of Adam's best losses.
    """
    rows = {}
    for name, result in results.items():
        steps = steps_until(result, target)
        rows[name] = {
            "steps": steps,
            "median_steps": median(steps),
            "median_seconds": median([x and x * step_seconds[name] for x in steps]),
            "best_val_loss": median([run["best_val_loss"] for run in result["runs"]]),
            "last_val_loss": median([run["history"]["val_loss"][-1] for run in result["runs"]]),
        }
    reference = rows[REFERENCE]
    for row in rows.values():
        for name in ("median_steps", "median_seconds", "best_val_loss", "last_val_loss"):
            row[f"{name.removeprefix('median_')}_ratio"] = ratio(row[name], reference[name])
        row["earlier_steps_ratio"] = {}
    for multiple in _EARLIER:
        loss = multiple * reference["best_val_loss"]
        steps = {name: median(steps_until(result, loss)) for name, result in results.items()}
        for name, row in rows.items():
            row["earlier_steps_ratio"][f"{multiple:g}"] = ratio(steps[name], steps[REFERENCE])
    return rows


def ratio(number, reference):
    """The ratio of two numbers, None if one of them is."""
    return None if number is None or reference is None else number / reference


def steps_until(result, target):
    """Steps of each run of an optimizer until the validation loss is on target, or None."""
    return [until(run["history"], target) for run in result["runs"]]


def until(history, target):
    """Steps until the validation loss is on target, or None."""
    for step, loss in zip(history["step"], history["val_loss"], strict=True):
        if loss is not None and loss <= target:
            return int(step)
    return None


def read_bands(outcome):
    """By an optimizer's label what `bands` makes of its runs in `optimizers.json`."""
    times = outcome["step_seconds"]["seconds"]
    return {
        LABELS[name]: bands([run["history"] for run in result["runs"]], times[name])
        for name, result in outcome["optimizers"].items()
    }


def bands(histories, step_seconds):
    """What runs of one optimizer have in common, for the figures.

    Args:
        histories: For each run its history, as `read_history` returns it.
        step_seconds: Seconds of a step.

    Returns:
        A JSON-ready dictionary with `step`, those of the longest run; `step_seconds`; and for
        `val_loss`, `gradient_variance` and, where there is a preconditioner, `largest_eigenvalue`,
        the least, the median and the most of the runs that went so far, or diverged before. What is
        no number counts as the largest in the median, and is left out otherwise; None if there is
        no number.
    """
    longest = max(histories, key=lambda history: len(history["step"]))
    result = {"step": longest["step"], "step_seconds": step_seconds}
    eigenvalues = [name for name in longest if name.startswith("largest_eigenvalue")]
    names = {"val_loss": ["val_loss"], "gradient_variance": ["gradient_variance"]}
    names |= {"largest_eigenvalue": eigenvalues} if eigenvalues else {}
    length = len(longest["step"])
    # A run counts until it ends, and for ever if it diverged.
    histories = [
        {x: column + [None] * (length - len(column)) for x, column in run.items()}
        if run["val_loss"][-1] is None
        else run
        for run in histories
    ]
    for name, columns in names.items():
        ranges = []
        for i in range(length):
            here = [[run[x][i] for x in columns] for run in histories if i < len(run["step"])]
            values = [None if None in row else max(row) for row in here]
            finite = [x for x in values if x is not None]
            ranges.append((min(finite, default=None), median(values), max(finite, default=None)))
        result[name] = [list(x) for x in zip(*ranges, strict=True)]
    return result


def median(values):
    """The median of numbers, of which None is the largest."""
    result = statistics.median(math.inf if x is None else x for x in values)
    return result if math.isfinite(result) else None


def finite_first(loss):
    """A key by which losses that are no finite numbers come last."""
    return loss if math.isfinite(loss) else math.inf
