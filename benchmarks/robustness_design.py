"""The problems of `robustness.py`: factors, their levels, and a design in which all pairs meet."""

import dataclasses
import itertools
import json
import math

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import claims
import keras

import tfhedge as th
from tfhedge.training.schedules import WarmUpExponentialDecay

NUM_PROBLEMS, NUM_STEPS, DT = 96, 24, 1.0 / 250.0
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
DHKFAC = "dhkfac"
ADAMS = tuple(f"adam-{rate:g}" for rate in LEARNING_RATES)
OPTIMIZERS = DHKFAC, *ADAMS


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


def select(trials, words):
    """Selects problems by their number, or by the name of a level.

    Raises:
        ValueError: If a word is neither.
    """
    known = {str(x.number) for x in trials} | {x for levels in FACTORS.values() for x in levels}
    if unknown := [word for word in words if word not in known]:
        raise ValueError(f"Expected numbers of problems or names of levels. Received: {unknown}")
    return [trial for trial in trials if {str(trial.number), *trial.levels.values()} & set(words)]
