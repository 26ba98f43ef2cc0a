"""Trained policies beside the hedges that a desk would use, on the same fresh paths."""

import dataclasses
import functools

import numpy as np

from tfhedge.evaluation.comparison import compare_hedges, run_hedges
from tfhedge.evaluation.report import NO_HEDGE
from tfhedge.files import write_json
from tfhedge.hedging.cliquet_greeks import CliquetGreeks
from tfhedge.hedging.instruments import FloatingGrid
from tfhedge.hedging.strategies import DeltaHedge, DeltaVegaHedge, MinimumVarianceHedge
from tfhedge.workflow.machine import machine
from tfhedge.workflow.run import (
    TEST,
    TEST_BATCH_SIZE,
    VALIDATION,
    check_test_paths,
    load_run,
)

# Steps between trades in the option that hedges the vega, and shares of the vega that they hedge:
# validation chooses.
INTERVALS, SHARES = (5, 10, 20, 40), (0.25, 0.5, 1.0)
# A volatility of variance so small that the market is that of Black and Scholes, with the
# variance that is expected today.
_XI_OF_BLACK_SCHOLES = 0.02


def compare_runs(runs, folder, num_paths, seed=0):
    """Compares runs with each other and with a desk's hedges, and leaves `comparison.json`.

    The desk's hedges are none; the deltas of Black and Scholes and of the market's own model; what
    leaves the least variance in that model by the underlying alone; and delta and vega by one
    option, of which the life is one period or two and the strike next to the cap, at the interval
    and for the share of the vega with the least loss on at most 10,000 validation paths.

    Args:
        runs: The runs' folders, `pathlib.Path`, by whose names they go if these differ; their
            problems differ in their instruments alone. The desk trades in those of the first run
            with a floating grid, or else of the first.
        folder: Folder of the results, a `pathlib.Path`.
        num_paths: Number of test paths, which no run has seen.
        seed: Their seed.

    Returns:
        The contents of `comparison.json`: statistics by hedge, the first run first, with intervals.

    Raises:
        ValueError: If a folder holds no run, or the problems differ, or a number is out of its
            range.
        OSError: If there is no such folder, or no checkpoint in it, or `folder` cannot be made.
    """
    check_test_paths(num_paths, seed)
    names = [run.resolve().name for run in runs]
    names = names if len(set(names)) == len(runs) else list(map(str, runs))
    policies = {}
    for name, run in zip(names, runs, strict=True):
        hedger, _ = load_run(run)
        policies[name] = hedger.problem, functools.partial(learned, hedger)
    first, actions_of = policies[names[0]]
    floating = (x for x, _ in policies.values() if has_floating_options(x.instruments))
    problem = next(floating, first)
    stock_only = np.eye(1, first.num_instruments, dtype=np.float32)
    policies[f"{names[0]}, without its options"] = (
        first,
        lambda spot, variance: actions_of(spot, variance) * stock_only,
    )
    run_hedges(policies, num_paths=2, seed=seed)  # refuses what cannot be compared, at once
    folder.mkdir(parents=True, exist_ok=True)
    size = min(num_paths, TEST_BATCH_SIZE)
    desk, candidates = desk_hedges(problem)
    for name, hedges in candidates.items():
        outcomes = run_hedges(hedges, size, (seed, VALIDATION), size)
        losses = {x: problem.objective.loss(*map(np.float64, y)) for x, y in outcomes.items()}
        best = min(losses, key=losses.get)
        desk[f"{name}, {best}"] = hedges[best]
    outcomes = run_hedges(policies | desk, num_paths, (seed, TEST), size)
    rows = compare_hedges(outcomes, problem.objective)
    outcome = {
        "num_paths": num_paths,
        "seed": seed,
        "hedges": {name: dataclasses.asdict(row) for name, row in rows.items()},
        "machine": machine(),
    }
    write_json(folder / "comparison.json", outcome)
    return outcome


def learned(hedger, spot, variance):
    """The trades of a policy along paths."""
    features = hedger.problem.features(spot, variance)
    return hedger.actions(features, differentiable=False)


def desk_hedges(problem):
    """The hedges that a desk would use.

    Args:
        problem: A `HedgingProblem`.

    Returns:
        As `run_hedges` takes them, hedges by name, and by name the candidates for one more hedge,
        which go by the share of the vega and the steps between trades.
    """
    claim, dt = problem.claim, problem.dt
    greeks = CliquetGreeks(problem.market, claim, dt)
    lognormal = dataclasses.replace(problem.market, xi=_XI_OF_BLACK_SCHOLES)
    desk = {
        NO_HEDGE: (problem, functools.partial(idle, problem)),
        "Black-Scholes delta": (problem, DeltaHedge(problem, CliquetGreeks(lognormal, claim, dt))),
        "Heston delta": (problem, DeltaHedge(problem, greeks)),
        "Heston, minimum variance": (problem, MinimumVarianceHedge(problem, greeks)),
    }
    candidates = {}
    for life in (claim.period, 2 * claim.period):
        option = option_near_cap(problem, life)
        if option is not None:
            strike = problem.instruments.strikes[option - 1]
            candidates[f"delta and vega by {life}-step options, strike {strike:g}"] = {
                f"{share:.0%} every {interval} steps": (
                    problem,
                    DeltaVegaHedge(problem, greeks, option, interval, share),
                )
                for interval in INTERVALS
                if interval <= life
                for share in SHARES
            }
    return desk, candidates


def option_near_cap(problem, life):
    """The instrument with this life, in steps, whose strike is next to the cap of a period.

    Returns:
        Its number, from 1 on, or None if there is none, or the grid does not float.
    """
    grid = problem.instruments
    if not has_floating_options(grid) or life > problem.num_steps:
        return None
    distances = [abs(strike - 1.0 - problem.claim.cap) for strike in grid.strikes]
    options = [i for i, maturity in enumerate(grid.maturities) if maturity == life]
    return 1 + min(options, key=distances.__getitem__) if options else None


def has_floating_options(instruments):
    """Whether there are options among them whose lives and relative strikes stay the same."""
    return isinstance(instruments, FloatingGrid) and bool(instruments.strikes)


def idle(problem, spot, variance):
    """No trades."""
    return np.zeros([len(spot), problem.num_steps, problem.num_instruments], np.float32)
