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
import dataclasses
import functools
import gc
import itertools
import json
import math
import multiprocessing
import signal
import statistics
import sys
import time
from pathlib import Path

from record import machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import claims
import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import tfhedge as th
from tfhedge.files import read_json, write_json
from tfhedge.training.schedules import WarmUpExponentialDecay

NUM_PROBLEMS, NUM_STEPS, DT = 96, 24, 1.0 / 250.0
VALIDATE_EVERY, VALIDATION_PATHS = 10, 8192
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
DHKFAC = "dhkfac"
ADAMS = tuple(f"adam-{rate:g}" for rate in LEARNING_RATES)
OPTIMIZERS = DHKFAC, *ADAMS

# What the issue allows: a last risk over Adam's, a rise above the best so far, and the share of
# problems that are at or below Adam. Numbers this close are equal.
LARGEST_RATIO, LARGEST_RISE, SMALLEST_SHARE, ROUNDING = 1.25, 0.25, 0.95, 1e-3
# A run is stuck if it rejects this share of its last 50 steps, or leaves the risk within the second
# of what it was before, while Adam takes at least the third from it.
LAST_STEPS, MOST_REJECTED, NO_PROGRESS, PROGRESS = 50, 0.5, 0.01, 0.1


def grid(make, *arguments):
    """Makes a grid of options, given the factor that its costs are multiplied by."""
    return lambda factor: make(*arguments, spot_cost=1e-4 * factor, option_cost=1e-2 * factor)


def market(**changes):
    """Makes the market of the paper, with changes."""
    return dataclasses.replace(th.Heston.from_paper(), **changes)


def claim(make, *arguments):
    """Makes a claim, given its notional."""
    return lambda notional: make(*arguments, notional=notional)


# The factors and their levels by name. No two levels have the same name.
FACTORS = {
    "claim": {
        "call": claim(claims.Call, NUM_STEPS, 1.0),
        "call spread": claim(claims.CallSpread, NUM_STEPS, 1.0, 1.05),
        "digital": claim(claims.Digital, NUM_STEPS, 1.0),
        "Asian call": claim(claims.AsianCall, NUM_STEPS, 1.0),
        "up-and-out call": claim(claims.UpAndOutCall, NUM_STEPS, 1.0, 1.1),
        "lookback": claim(claims.LookbackCall, NUM_STEPS, 1.0),
        "variance swap": claim(claims.VarianceSwap, NUM_STEPS, 0.0625, 1.0 / DT),
        "autocallable": claim(claims.Autocallable, 4, NUM_STEPS // 4, 1.0, 0.95, 0.01),
        "cliquet of 3": claim(claims.NotionalCliquet, 3, NUM_STEPS // 3, 0.02),
        "cliquet of 12": claim(claims.NotionalCliquet, 12, NUM_STEPS // 12, 0.01),
    },
    "instruments": {
        "underlying": grid(th.FloatingGrid, (), ()),
        "floating": grid(
            th.FloatingGrid, (6, 6, 6, 12, 12, 12), (0.98, 1.0, 1.02, 0.96, 1.0, 1.04)
        ),
        "fixed": grid(th.FixedGrid.chain, (12, 24), (0.95, 1.0, 1.05)),
    },
    "objective": {
        "variance x 10": th.MeanVariance(1e1),
        "variance x 1000": th.MeanVariance(1e3),
        "variance x 100000": th.MeanVariance(1e5),
        "entropic 0.1": th.EntropicRisk(0.1),
        "entropic 10": th.EntropicRisk(10.0),
        "entropic 1000": th.EntropicRisk(1000.0),
    },
    "cost": {"no cost": 0.0, "cost": 1.0, "cost x 10": 10.0},
    "batch": {"batch 64": 64, "batch 512": 512, "batch 2048": 2048},
    "controls": {"positions": "positions", "trades": "trades"},
    "network": {"1 block of 8": (8, 1), "2 blocks of 32": (32, 2), "4 blocks of 32": (32, 4)},
    "notional": {"notional 1": 1.0, "notional 100": 100.0},
    "market": {
        "paper": market(),
        "Feller violated": market(kappa=1.5, theta=0.04, v0=0.04),  # 2 kappa theta = 0.12 xi^2
        "nearly Black-Scholes": market(xi=0.01),
        "v0 = 0": market(v0=0.0),
    },
}


def design(num_problems=NUM_PROBLEMS):
    """Chooses levels so that each two of any two factors meet in a problem.

    Problems are chosen one after the other. Each starts at some factor and takes of one factor
    after the other the level that meets most of the levels so far for the first time, in pairs, and
    then in triples; else the one that was used least. Of the problems that start at the different
    factors the best is taken, by the same count. No random numbers: the design is always the same.

    Args:
        num_problems: Number of problems.

    Returns:
        A list of problems, by factor the name of the level.

    Raises:
        ValueError: If so few problems cannot have all pairs.
    """
    levels = [list(names) for names in FACTORS.values()]
    seen, uses, rows = set(), {}, []
    while len(rows) < num_problems:
        candidates = [choose(levels, first, seen, uses) for first in range(len(levels))]
        _, row = max(candidates, key=lambda candidate: candidate[0])
        rows.append(dict(zip(FACTORS, (row[i][1] for i in sorted(row)), strict=True)))
        seen.update(meetings(row.values(), 2), meetings(row.values(), 3))
        for level in row.values():
            uses[level] = uses.get(level, 0) + 1
    pairs = itertools.combinations(range(len(levels)), 2)
    num_pairs = sum(len(levels[i]) * len(levels[j]) for i, j in pairs)
    if sum(len(meeting) == 2 for meeting in seen) < num_pairs:
        raise ValueError(f"Expected enough problems for all pairs. Received: {num_problems}")
    return rows


def choose(levels, first, seen, uses):
    """Chooses the level of each factor, from the factor `first` on.

    Returns:
        How many pairs and triples are new, and by factor its number and its level.
    """
    row, score = {}, (0, 0)
    for i in (*range(first, len(levels)), *range(first)):
        best = None
        for level in levels[i]:
            others = list(row.values())
            new = [
                sum(frozenset([(i, level), *group]) not in seen for group in groups)
                for groups in (
                    itertools.combinations(others, 1),
                    itertools.combinations(others, 2),
                )
            ]
            value = (*new, -uses.get((i, level), 0))
            if best is None or value > best[0]:
                best = value, level
        (pairs, triples, _), level = best
        row[i], score = (i, level), (score[0] + pairs, score[1] + triples)
    return score, row


def meetings(row, size):
    """The sets of so many levels that meet in a problem."""
    return map(frozenset, itertools.combinations(row, size))


@dataclasses.dataclass(frozen=True)
class Trial:
    """A problem of the design, and how long it is trained.

    Attributes:
        number: Its number in the design.
        levels: By factor the name of the level.
        steps: Number of steps.
        validation_paths: Number of paths of validation.
    """

    number: int
    levels: dict
    steps: int
    validation_paths: int

    def level(self, factor):
        """What the level of a factor stands for."""
        return FACTORS[factor][self.levels[factor]]

    @property
    def name(self):
        """Number and levels."""
        return f"{self.number:03} ({', '.join(self.levels.values())})"

    def problem(self):
        """The `HedgingProblem`."""
        return th.HedgingProblem(
            market=self.level("market"),
            claim=self.level("claim")(self.level("notional")),
            instruments=self.level("instruments")(self.level("cost")),
            objective=self.level("objective"),
            dt=DT,
        )

    def hedger(self, problem, optimizer, seed):
        """The hedger of a run, its weights drawn with the seed."""
        keras.utils.set_random_seed(seed)
        units, num_blocks = self.level("network")
        policy = th.RecurrentPolicy(units, num_blocks)
        hedger = th.DeepHedger(problem, policy, self.level("controls"))
        hedger.compile(optimizer=optimizer)
        return hedger

    def optimizer(self, name, seed):
        """The optimizer of a run: `DHKFAC()`, or Adam with a warm-up and its gradients clipped."""
        if name == DHKFAC:
            return th.DHKFAC(seed=seed)
        rate = LEARNING_RATES[ADAMS.index(name)]
        schedule = WarmUpExponentialDecay(rate, math.ceil(self.steps / 10), 0.99)
        return keras.optimizers.Adam(schedule, global_clipnorm=1.0)

    def path(self, folder, name, seed):
        """The file of a run."""
        return folder / f"{self.number:03}" / f"{name}-{seed}.json"

    def settings(self, name, seed):
        """What determines a run, JSON-ready."""
        optimizer = keras.optimizers.serialize(self.optimizer(name, seed))
        del optimizer["config"]["name"]  # Keras counts them
        about = {"optimizer": optimizer, "seed": seed, **dataclasses.asdict(self)}
        return json.loads(json.dumps(about))


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
    began = time.perf_counter()
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


def select(trials, words):
    """Selects problems by their number, or by the name of a level.

    Raises:
        ValueError: If a word is neither.
    """
    known = {str(x.number) for x in trials} | {x for levels in FACTORS.values() for x in levels}
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"Expected numbers of problems or names of levels. Received: {unknown}")
    return [trial for trial in trials if {str(trial.number), *trial.levels.values()} & set(words)]


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
