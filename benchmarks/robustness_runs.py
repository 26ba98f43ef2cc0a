"""The runs of `robustness.py`: each trains a policy and leaves a file."""

import functools
import gc
import itertools
import math
import multiprocessing
import statistics
import sys
import time

from record import machine

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import keras
import tensorflow as tf
from robustness_design import OPTIMIZERS

from tfhedge.files import read_json, write_json

VALIDATE_EVERY = 10


class Validation(keras.callbacks.Callback):
    """Measures loss and risk before the first step, every ten steps, and after the last.

    Args:
        outcome: A function of a hedger: P&L and costs on the paths of validation.
        objective: The problem's objective.
        num_steps: Number of steps of the run.

    Attributes:
        curve: By name, the numbers of each validation.
        seconds: Seconds of each step.
    """

    def __init__(self, outcome, objective, num_steps):
        super().__init__()
        self.outcome, self.objective, self.num_steps = outcome, objective, num_steps
        self.curve = {x: [] for x in ("step", "val_loss", "val_risk", "val_cost", "rejected_steps")}
        self.seconds = []

    def on_train_begin(self, logs=None):
        """Measures the untrained policy."""
        self.measure(0)

    def on_train_batch_begin(self, batch, logs=None):
        """Starts the clock of a step."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stops it, and measures where it is time for that."""
        self.seconds.append(time.perf_counter() - self.began)
        step = batch + 1
        if step % VALIDATE_EVERY == 0 or step == self.num_steps:
            self.measure(step)

    def measure(self, step):
        """Adds a validation to the curve."""
        rejected = float(getattr(self.model.optimizer, "rejected_steps", 0.0))
        numbers = judged(self.objective, *self.outcome(self.model))
        for name, value in {"step": step, **numbers, "rejected_steps": rejected}.items():
            self.curve[name].append(value if math.isfinite(value) else None)


def judged(objective, pnl, cost):
    """Computes loss, risk and mean costs of a sample, in float64."""
    return {
        "val_loss": float(objective.loss(pnl, cost)),
        "val_risk": float(objective.loss(pnl - tf.reduce_mean(pnl), cost)),
        "val_cost": float(tf.reduce_mean(cost)),
    }


def outcome(problem, episodes, hedger=None):
    """Computes P&L and costs of given paths, by a hedger or without a hedge.

    Args:
        problem: The `HedgingProblem`.
        episodes: `(features, (returns, payoff))`.
        hedger: A `DeepHedger`, or None.

    Returns:
        P&L before costs and costs, each `[num_paths]`, float64.
    """
    features, (returns, payoff) = episodes
    actions = tf.zeros_like(returns)
    if hedger is not None:
        actions = hedger.predict(features, batch_size=len(features), verbose=0)
    actions, returns, payoff = (tf.cast(x, tf.float64) for x in (actions, returns, payoff))
    return problem.pnl(actions, returns, payoff), problem.cost(actions)


def run_trial(trial, folder, seeds, optimizers=OPTIMIZERS):
    """Runs the optimizers on a problem from all seeds, but for what is done.

    Args:
        trial: A `Trial`.
        folder: Where each run leaves its file.
        seeds: The seeds.
        optimizers: The optimizers' names.
    """
    problem = trial.problem()
    episodes = problem.episodes(trial.validation_paths, seed=(0, 1))
    unhedged = judged(problem.objective, *outcome(problem, episodes))
    for seed, name in itertools.product(seeds, optimizers):
        path = trial.path(folder, name, seed)
        if path.exists():
            continue
        run = train(trial, problem, episodes, name, seed)
        about = {"unhedged": unhedged, "settings": trial.settings(name, seed)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**run, **about, "machine": machine()})
        end = run["val_risk"][-1]
        print(
            f"{trial.name}, {name}, seed {seed}: {end and f'{end:.4g}'} "
            f"after {run['seconds']:.0f} s, {run['ended_by']}",
            flush=True,
        )
        gc.collect()


def train(trial, problem, episodes, name, seed):
    """Trains a policy.

    An optimizer that gives up ends the run; any other error is one of this program, and is raised.

    Returns:
        The run, JSON-ready: its curve, times, and what ended it, `"steps"` if nothing else.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    hedger = trial.hedger(problem, trial.optimizer(name, seed), seed)
    batch_size = trial.level("batch")
    batches = problem.dataset(batch_size * trial.steps, batch_size, seed=(seed, 0))
    validation = Validation(
        functools.partial(outcome, problem, episodes), problem.objective, trial.steps
    )
    ended_by = "steps"
    try:
        hedger.fit(batches, callbacks=[validation], verbose=0)
    except (RuntimeError, tf.errors.OpError) as error:
        first_line = next(iter(str(error).splitlines()), "")
        ended_by = f"{type(error).__name__}: {first_line}"
    steps = validation.seconds
    return {
        **validation.curve,
        "ended_by": ended_by,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began,
        "first_step_seconds": steps[0] if steps else None,
        "step_seconds": statistics.median(steps[1:]) if steps[1:] else None,
    }


def run_apart(trial, folder, seeds):
    """Runs `run_trial` in a process of its own, whose memory goes with it.

    A process that dies leaves runs without a file, which `faults` names.
    """
    runs = itertools.product(OPTIMIZERS, seeds)
    if all(trial.path(folder, name, seed).exists() for name, seed in runs):
        return
    process = multiprocessing.get_context("spawn").Process(
        target=run_trial, args=(trial, folder, seeds)
    )
    process.start()
    try:
        process.join()
    finally:
        process.terminate()  # if this process is interrupted
    if process.exitcode:
        print(f"{trial.name}: the process ended with {process.exitcode}", file=sys.stderr)


def read_rows(trials, folder, seeds):
    """Reads the runs of each problem and seed.

    Args:
        trials: The problems.
        folder: The folder of the runs.
        seeds: The seeds.

    Returns:
        A list of rows, each with `problem`, `levels`, `seed`, and `runs` by optimizer; the run is
        None where there is no file.

    Raises:
        ValueError: If a file is of a run with other settings.
    """
    rows = []
    for trial, seed in itertools.product(trials, seeds):
        runs = {}
        for name in OPTIMIZERS:
            path = trial.path(folder, name, seed)
            runs[name] = run = read_json(path) if path.exists() else None
            if run and run.pop("settings") != trial.settings(name, seed):
                raise ValueError(f"Expected a run with the settings of today. Received: {path}")
            if run:
                run["commit"] = run.pop("machine")["commit"]
        about = {"problem": trial.number, "levels": trial.levels, "seed": seed}
        rows.append({**about, "num_steps": trial.steps, "runs": runs})
    return rows
