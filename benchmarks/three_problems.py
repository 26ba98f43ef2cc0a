"""Whether `DHKFAC()` as it stands holds on three problems unlike the paper's.

Run with `python benchmarks/three_problems.py --out DIR`, and to keep the results with
`--json benchmarks/results/three_problems.json`. Each run has 100 steps, and a validation of 16,384
fresh paths at every tenth:

- a European call of 60 days, hedged with the underlying alone, at a cost of 0 and of 1e-4, in
  batches of 1024. In continuous time no such hedge has a standard deviation below 0.01058; hedging
  daily adds about 0.0056 in quadrature;
- a capped cliquet of 240 steps in another Heston market, hedged with the underlying alone, free of
  cost, in batches of 2048;
- the call hedged with four options, under an entropic risk, beside Adam at three learning rates.

Policies have two and four blocks, and five seeds each. The command leaves out what is done, prints
a table, and fails if a limit is missed. About two hours on two cores; `--share I/N` runs a part.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from pathlib import Path

from record import machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import keras
import numpy as np
from claims import Call

import tfhedge as th
from tfhedge.files import read_json, write_json
from tfhedge.training.schedules import WarmUpExponentialDecay

STEPS, EVERY, VALIDATION_PATHS = 100, 10, 16_384
ADAM_RATES = (1e-3, 3e-3, 1e-2)
PAPER = th.Heston.from_paper()


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, and what its runs have to reach.

    Attributes:
        problem: The `HedgingProblem`.
        batch_size: Paths in a step.
        largest_std: Standard deviation of the P&L that a validation has to reach, or None where
            each validation has to be below Adam's.
    """

    problem: th.HedgingProblem
    batch_size: int
    largest_std: float | None


def underlying(cost):
    """Makes the grid of the underlying alone."""
    return th.FloatingGrid(maturities=(), strikes=(), spot_cost=cost)


VARIANCE = th.MeanVariance(1000.0)
CASES = {
    "call, no cost": Case(
        th.HedgingProblem(PAPER, Call(60, 1.0), underlying(0.0), VARIANCE), 1024, 0.0126
    ),
    "call, cost 1e-4": Case(
        th.HedgingProblem(PAPER, Call(60, 1.0), underlying(1e-4), VARIANCE), 1024, 0.0126
    ),
    "frictionless cliquet": Case(
        th.HedgingProblem(
            th.Heston(spot=1.0, v0=0.025, kappa=2.5, theta=0.02, xi=0.6, rho=-0.5),
            th.Cliquet(12, 20, 0.035),
            underlying(0.0),
            VARIANCE,
            dt=1 / 240,
        ),
        2048,
        0.0084,
    ),
    "entropic call": Case(
        th.HedgingProblem(
            PAPER, Call(60, 1.0), th.FloatingGrid((10, 20), (1.0, 1.01)), th.EntropicRisk(100.0)
        ),
        1024,
        None,
    ),
}


def runs_of(case):
    """Yields the names of the optimizers of a case."""
    yield "dh-kfac"
    if CASES[case].largest_std is None:
        yield from (f"adam-{rate:g}" for rate in ADAM_RATES)


def make_optimizer(name):
    """Makes an optimizer from its name."""
    if name == "dh-kfac":
        return th.DHKFAC()
    rate = float(name.removeprefix("adam-"))
    schedule = WarmUpExponentialDecay(rate, STEPS // 5, 0.99)
    return keras.optimizers.Adam(schedule, global_clipnorm=1.0)


def run(case, num_blocks, seed, name):
    """Trains a policy.

    Returns:
        The run, JSON-ready: its validations, and how many steps were rejected.
    """
    problem, batch_size = CASES[case].problem, CASES[case].batch_size
    keras.utils.set_random_seed(seed)
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(32, num_blocks))
    hedger.compile(optimizer=make_optimizer(name))
    began = time.perf_counter()
    history = hedger.fit(
        problem.dataset(batch_size * STEPS, batch_size, (seed, 0)).repeat(),
        steps_per_epoch=EVERY,
        epochs=STEPS // EVERY,
        validation_data=problem.dataset(VALIDATION_PATHS, 2048, (0, 1)).cache(),
        verbose=0,
    ).history
    return {
        "val_loss": history["val_loss"],
        "val_pnl_std": history["val_pnl_std"],
        "rejected_steps": history.get("rejected_steps", [0.0])[-1],
        "seconds": time.perf_counter() - began,
        "machine": machine(),
    }


def faults(case, runs):
    """Yields what is wrong with the runs of a case, size and seed.

    Args:
        case: The case's name.
        runs: The runs by optimizer.
    """
    ours, limit = runs["dh-kfac"], CASES[case].largest_std
    if not np.all(np.isfinite(ours["val_loss"])):
        yield "not finite"
    if limit is not None and not min(ours["val_pnl_std"]) <= limit:
        yield f"a standard deviation of {min(ours['val_pnl_std']):.5f} at best, above {limit}"
    for name, other in runs.items():
        pairs = zip(ours["val_loss"], other["val_loss"], strict=True)
        above = [EVERY * i for i, (x, y) in enumerate(pairs, 1) if x > y]
        if name != "dh-kfac" and above:
            yield f"above {name} at steps {above}"


def table(rows):
    """Lists the runs; a text."""
    lines = [
        f"{'P&L standard deviation':24}{'blocks':>7}{'seed':>5}{'best':>9}{'step':>6}{'last':>9}"
    ]
    for row in rows:
        stds = row["runs"]["dh-kfac"]["val_pnl_std"]
        step = EVERY * (1 + int(np.argmin(stds)))
        lines.append(
            f"{row['case']:24}{row['num_blocks']:7}{row['seed']:5}{min(stds):9.5f}{step:6}"
            f"{stds[-1]:9.5f}"
        )
    return "\n".join(lines)


def main():
    """Runs the cases, prints, perhaps writes, and judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the runs' files")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=5, help="runs of each size of a policy")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here")
    parser.add_argument("--share", default="1/1", metavar="I/N", help="run a part of it")
    options = parser.parse_args()
    part, parts = map(int, options.share.split("/"))
    sizes = list(itertools.product(options.cases, (2, 4), range(options.seeds)))
    rows, wrong = [], []
    for case, num_blocks, seed in sizes[part - 1 :: parts]:
        runs = {}
        for name in runs_of(case):
            path = options.out / f"{case}-{num_blocks}-{seed}-{name}.json".replace(" ", "-")
            if not path.exists():
                keras.utils.clear_session()
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, run(case, num_blocks, seed, name))
                print(f"{path.stem}: {read_json(path)['val_pnl_std'][-1]:.5f}", flush=True)
            runs[name] = read_json(path)
        rows.append({"case": case, "num_blocks": num_blocks, "seed": seed, "runs": runs})
        wrong += [f"{case}, {num_blocks} blocks, seed {seed}: {x}" for x in faults(case, runs)]
    print("\n" + table(rows))
    if options.json:
        write(options.json, {"machine": machine(), "rows": rows})
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
