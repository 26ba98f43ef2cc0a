"""How fast Heston paths are simulated: this library, QuantLib and PyFENG, in one run.

Run with `python benchmarks/simulation.py --json benchmarks/results/simulation.json`, after
`pip install -e .[benchmarks]`. All rows simulate the market of the paper on 240 daily steps; the
unit is the time of one path over one step. Rows are measured in turn, several rounds of them.
"""

import argparse
import contextlib
import importlib.metadata
import time
from pathlib import Path

from record import load, machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import numpy as np
import tensorflow as tf

import tfhedge as th
from tfhedge.market.simulation import simulate

MARKET, NUM_STEPS, DT, BATCH = th.Heston.from_paper(), 240, 1.0 / 250.0, 2048
# Batches of ours in a row, so that one measurement takes as long as one of QuantLib's.
NUM_BATCHES = 8


def ours(scheme):
    """A function of the round that simulates some batches."""
    batch = tf.function(
        lambda first: simulate(MARKET, BATCH, NUM_STEPS, DT, (1, 2), first, scheme),
        autograph=False,
    )
    return in_a_row(batch)


def in_a_row(batch):
    """The number of paths, and a function of the round that makes `NUM_BATCHES` of them."""

    def run(r):
        for i in range(NUM_BATCHES):
            batch(tf.constant((r * NUM_BATCHES + i) * BATCH, tf.int64))

    return NUM_BATCHES * BATCH, run


def quantlib(scheme, num_paths, num_factors, read=False):
    """QuantLib's paths; made only, or read into a NumPy array as well."""
    import QuantLib as ql

    today = ql.Date(2, 1, 2025)
    ql.Settings.instance().evaluationDate = today
    flat = ql.YieldTermStructureHandle(ql.FlatForward(today, 0.0, ql.Actual365Fixed()))
    process = ql.HestonProcess(
        *(flat, flat, ql.QuoteHandle(ql.SimpleQuote(MARKET.spot))),
        *(MARKET.v0, MARKET.kappa, MARKET.theta, MARKET.xi, MARKET.rho),
        getattr(ql.HestonProcess, scheme),
    )
    times = list(DT * np.arange(1, NUM_STEPS + 1))

    def run(r):
        dimension = num_factors * NUM_STEPS
        uniform = ql.UniformRandomSequenceGenerator(dimension, ql.UniformRandomGenerator(r + 1))
        normal = ql.GaussianRandomSequenceGenerator(uniform)
        paths = ql.GaussianMultiPathGenerator(process, times, normal, False)
        if read:
            return np.array([[list(x) for x in paths.next().value()] for _ in range(num_paths)])
        return [paths.next().value()[0].back() for _ in range(num_paths)]

    return num_paths, run


def pyfeng(name, **settings):
    """PyFENG's paths, step by step: variance, average variance, log-return."""
    import pyfeng

    parameters = {"vov": MARKET.xi, "mr": MARKET.kappa, "rho": MARKET.rho, "theta": MARKET.theta}

    def run(r):
        model = getattr(pyfeng, name)(MARKET.v0, **parameters)
        model.configure(n_path=BATCH, dt=DT, rn_seed=r + 1, antithetic=False, **settings)
        variance, log_spot = np.full(BATCH, MARKET.v0), np.zeros((NUM_STEPS + 1, BATCH))
        for step in range(NUM_STEPS):
            after, average, _ = model.cond_states_step(DT, variance)
            log_return = model.draw_log_return(DT, variance, after, average)
            log_spot[step + 1] = log_spot[step] + log_return
            variance = after
        return np.exp(log_spot)

    return BATCH, run


def training_batch():
    """Paths, 19 premiums at each step, returns, payoff and features of a training batch."""
    problem = th.HedgingProblem.from_paper()
    batch = tf.function(lambda first: problem.episodes(BATCH, 1, first), autograph=False)
    return in_a_row(batch)


def training_steps(rounds):
    """Seconds that DH-KFAC steps at the paper's size take, and wait for their batches.

    In each round two steps are fed by a dataset that simulates the next batch meanwhile, and one
    has its batch at hand and the machine to itself.
    """
    problem = th.HedgingProblem.from_paper()
    hedger = th.DeepHedger(problem, th.RecurrentPolicy())
    hedger.compile(optimizer=th.DHKFAC())
    batches = iter(problem.dataset(BATCH * (3 * rounds + 2), BATCH))
    at_hand = next(batches)
    hedger.train_on_batch(*at_hand)
    seconds = {"wait": [], "fed": [], "alone": []}

    def step(name, batch):
        start = time.perf_counter()
        hedger.train_on_batch(*batch)
        seconds[name].append(time.perf_counter() - start)

    for _ in range(rounds):
        hedger.train_on_batch(*next(batches))  # from here on, the next batch is being made
        for _ in range(2):
            start = time.perf_counter()
            batch = next(batches)
            seconds["wait"].append(time.perf_counter() - start)
            step("fed", batch)
        step("alone", at_hand)
    return {name: statistics(values) for name, values in seconds.items()}


ROWS = {
    "tfhedge QE-M": lambda: ours("qe"),
    "tfhedge exact": lambda: ours("exact"),
    "tfhedge training batch": training_batch,
    "QuantLib QE-M": lambda: quantlib("QuadraticExponentialMartingale", 1024, 2),
    "QuantLib QE-M, read into NumPy": lambda: quantlib(
        "QuadraticExponentialMartingale", 1024, 2, read=True
    ),
    "QuantLib Broadie-Kaya, Lobatto": lambda: quantlib("BroadieKayaExactSchemeLobatto", 4, 3),
    "QuantLib Broadie-Kaya, Laguerre": lambda: quantlib("BroadieKayaExactSchemeLaguerre", 1, 3),
    "PyFENG QE-M": lambda: pyfeng("HestonMcAndersen2008"),
    "PyFENG Glasserman-Kim, 1 term": lambda: pyfeng("HestonMcGlassermanKim2011", kk=1),
    "PyFENG Poisson gamma, 1 term": lambda: pyfeng("HestonMcChoiKwok2023PoisGe", kk=1),
}
RATIOS = {
    "QuantLib QE-M / tfhedge QE-M": ("QuantLib QE-M", "tfhedge QE-M"),
    "QuantLib QE-M, read into NumPy / tfhedge QE-M": (
        "QuantLib QE-M, read into NumPy",
        "tfhedge QE-M",
    ),
    "PyFENG QE-M / tfhedge QE-M": ("PyFENG QE-M", "tfhedge QE-M"),
    "QuantLib Broadie-Kaya, best / tfhedge exact": ("QuantLib Broadie-Kaya", "tfhedge exact"),
    "PyFENG Glasserman-Kim / tfhedge exact": ("PyFENG Glasserman-Kim", "tfhedge exact"),
    "PyFENG Poisson gamma / tfhedge exact": ("PyFENG Poisson gamma", "tfhedge exact"),
    "tfhedge exact / tfhedge QE-M": ("tfhedge exact", "tfhedge QE-M"),
}


def measure(rounds):
    """Times of all rows and rounds: seconds on the clock and of the processor."""
    runs = {}
    for name, make in ROWS.items():
        try:
            num_paths, run = make()
            start = time.perf_counter()
            run(0)  # compiles, and tabulates
        except ImportError as error:
            print(f"{name}: left out, {error}")
        else:
            runs[name] = num_paths, run, time.perf_counter() - start, []
    for r in range(1, rounds + 1):
        for _, run, _, seconds in runs.values():
            start = time.perf_counter(), time.process_time()
            run(r)
            seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    rows = {}
    for name, (num_paths, _, first, seconds) in runs.items():
        clock, processor = 1e9 / (num_paths * NUM_STEPS) * np.transpose(seconds)
        rows[name] = {
            "num_paths": num_paths,
            "first_call_seconds": round(first, 3),
            "clock_ns": statistics(clock),
            "processor_ns": statistics(processor),
        }
    return rows


def statistics(values):
    """Median, extremes and number of the values."""
    numbers = {"median": np.median(values), "min": np.min(values), "max": np.max(values)}
    return {key: round(float(x), 4) for key, x in numbers.items()} | {"rounds": len(values)}


def ratios(rows, key):
    """Quotients of medians, of the fastest row if several match."""

    def fastest(start):
        return min(row[key]["median"] for name, row in rows.items() if name.startswith(start))

    present = {
        name: pair
        for name, pair in RATIOS.items()
        if all(any(row.startswith(start) for row in rows) for start in pair)
    }
    return {name: round(fastest(a) / fastest(b), 2) for name, (a, b) in present.items()}


def versions():
    """The versions of what is measured; None for what is not there."""
    found = dict.fromkeys(("tensorflow", "numpy", "scipy", "QuantLib", "pyfeng"))
    for name in found:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main():
    """Measures, prints and perhaps writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    arguments = parser.parse_args()

    before = machine() | {"versions": versions()}
    rows = measure(arguments.rounds)
    after = load()
    print(f"{before['processor']}, {before['cores']} cores, Python {before['python']}")
    print(", ".join(f"{name} {version}" for name, version in before["versions"].items()))
    print(f"load before {before['load']}, after {after}\n")
    print(f"{'ns per path and step':36} {'clock: median (min .. max)':>32} {'processor':>12}")
    for name, row in rows.items():
        clock, processor = row["clock_ns"], row["processor_ns"]
        spread = f"{clock['median']:.0f} ({clock['min']:.0f} .. {clock['max']:.0f})"
        print(f"{name:36} {spread:>32} {processor['median']:12.0f}")
    result = {"machine": before | {"load_after": after}, "rows": rows}
    for key, title in (("clock_ns", "clock"), ("processor_ns", "processor")):
        result[f"ratios_{title}"] = ratios(rows, key)
        print(f"\nratios by {title} time")
        for name, value in result[f"ratios_{title}"].items():
            print(f"{name:46} {value:10.1f}")
    steps = training_steps(arguments.rounds)
    per_batch = 1e-9 * BATCH * NUM_STEPS * rows["tfhedge training batch"]["clock_ns"]["median"]
    share = per_batch / steps["alone"]["median"]
    print(f"\na training batch of {BATCH} paths: {per_batch:.3f} s, {share:.1%} of a training step")
    print("a training step, with its batch at hand; beside the making of the next; waiting for it:")
    print(", ".join(f"{steps[name]['median']:.3f} s" for name in ("alone", "fed", "wait")))
    result["training"] = {"batch_seconds": round(per_batch, 4), "share": round(share, 4)}
    result["training"]["step_seconds"] = steps
    if arguments.json:
        write(arguments.json, result)


if __name__ == "__main__":
    main()
