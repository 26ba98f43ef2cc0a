"""How long a training step takes: this library, Keras, PyTorch, JAX, and the floor, in one run.

Run with `python benchmarks/training_step.py --json benchmarks/results/training_step.json`, after
`pip install -e .[benchmarks]`. The step is the value and the gradient of the loss through 240
recurrent steps of 2048 paths at the sizes of the paper; see `training_step_rows/task.py`.

| row | what |
|---|---|
| `keras`, `keras-xla` | one `keras.layers.RNN` over the cell, without and with `jit_compile` |
| `torch-eager`, `torch-compile` | a loop of LSTMCells; the time step by `torch.compile` |
| `jax` | `lax.scan` |
| `ours` | the policy as `DeepHedger` trains it |
| `ours-adam`, `ours-dhkfac` | the whole step with that optimizer, a mean of 25 |
| `floor`, `floor-sgemm` | the step's matrix products and transcendentals; the products alone |

Each row has a process of its own, as threads and flags are set before a library is imported, and
memory is at its peak once. Rows run in turn, several rounds of them, and are checked to agree on
the loss and on the norm of the gradient.

`--table` measures `ours` over batches and horizons instead.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from record import load, machine, write

RUN = Path(__file__).parent / "training_step_rows" / "run.py"
BATCHES, HORIZONS = (512, 1024, 2048, 4096, 8192), (60, 120, 240, 500, 1000)
PACKAGES = "tensorflow", "keras", "torch", "jax", "numpy"
TOLERANCE = 1e-3  # relative, between rows
# What would change the number of threads or the compiler of a row.
VARIABLES = ("XLA_FLAGS", "TF_XLA_FLAGS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
VARIABLES += ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Row(NamedTuple):
    """Where a row is, the package it needs, and how many steps make one time."""

    module: str
    package: str
    cycle: int = 1


ROWS = {
    "keras": Row("tensorflow_rows", "tensorflow"),
    "keras-xla": Row("tensorflow_rows", "tensorflow"),
    "torch-eager": Row("torch_rows", "torch"),
    "torch-compile": Row("torch_rows", "torch"),
    "jax": Row("jax_rows", "jax"),
    "floor": Row("floor_rows", "tensorflow"),  # beside ours, as the machine's speed drifts
    "ours": Row("tensorflow_rows", "tensorflow"),
    "ours-adam": Row("tensorflow_rows", "tensorflow", cycle=25),
    "ours-dhkfac": Row("tensorflow_rows", "tensorflow", cycle=25),
    "floor-sgemm": Row("floor_rows", "tensorflow"),
}


class Job(NamedTuple):
    """A row at a size."""

    row: str
    batch: int
    steps: int

    def __str__(self):
        return f"{self.row}, {self.batch} paths, {self.steps} steps"


def main():
    """Measures, prints and perhaps writes the results."""
    options = parse()
    pythons = {name: sys.executable for name in PACKAGES}
    pythons |= {"torch": options.peer_python, "jax": options.peer_python}
    versions = {name: version(python, name) for name, python in pythons.items()}
    jobs = []
    for job in wanted_jobs(options):
        package = ROWS[job.row].package
        if versions[package]:
            jobs.append(job)
        else:
            print(f"{job.row}: left out, {pythons[package]} has no {package}")

    before = machine()
    runs = {job: [] for job in jobs}
    for number, job in itertools.product(range(options.rounds), jobs):
        print(f"round {number + 1} of {options.rounds}: {job}", file=sys.stderr)
        runs[job].append(run(job, pythons[ROWS[job.row].package], options.repeats))
    failed = [str(job) for job, results in runs.items() if None in results]
    rows = [summary(job, results) for job, results in runs.items() if str(job) not in failed]
    add_ratios(rows)

    about = before | {"load_after": load(), "versions": versions}
    print(f"{about['processor']}, {about['cores']} cores, Python {about['python']}")
    print(", ".join(f"{name} {number}" for name, number in versions.items() if number))
    print(f"load before {about['load']}, after {about['load_after']}\n")
    print_growth(rows) if options.table else print_rows(rows)
    if options.json:
        write(options.json, {"machine": about, "rows": rows})
    wrong = disagreements(rows)
    if failed or wrong:
        sys.exit("\n".join(["", *(f"failed: {job}" for job in failed), *wrong]))


def parse():
    """The arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--batch", type=int, default=2048, help="number of paths")
    parser.add_argument("--steps", type=int, default=240, help="number of time steps")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each row")
    parser.add_argument("--repeats", type=int, default=5, help="times taken in each process")
    parser.add_argument("--table", action="store_true", help="measure the growth of `ours`")
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        metavar="PATH",
        help="the Python that has PyTorch and JAX (default: this one)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    return parser.parse_args()


def wanted_jobs(options):
    """The rows asked for; or `ours` at several batches, and at several horizons."""
    if not options.table:
        return [Job(row, options.batch, options.steps) for row in options.rows]
    sizes = [(batch, options.steps) for batch in BATCHES]
    sizes += [(options.batch, steps) for steps in HORIZONS]
    return [Job("ours", *size) for size in dict.fromkeys(sizes)]


def version(python, package):
    """The version of a package of that Python, or None."""
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    done = subprocess.run([python, "-c", code, package], capture_output=True, text=True)
    return done.stdout.strip() or None


def run(job, python, repeats):
    """The result of one process, or None if it failed, with its last words printed."""
    row = ROWS[job.row]
    command = [python, RUN, row.module, job.row, "--batch", job.batch, "--steps", job.steps]
    command += ["--repeats", repeats, "--cycle", row.cycle]
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    done = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        print(f"{job}: exit status {done.returncode}\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def summary(job, results):
    """Medians and extremes over all rounds; the highest of their peaks of memory."""
    seconds = [time for result in results for time in result["seconds"]]
    return {
        **job._asdict(),
        "seconds_median": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "seconds": seconds,
        "first_call_seconds": statistics.median(r["first_call_seconds"] for r in results),
        "memory_before_gb": max(result["memory_before_gb"] for result in results),
        "peak_memory_gb": max(result["peak_memory_gb"] for result in results),
        **{key: results[0][key] for key in ("loss", "gradient_norm") if key in results[0]},
    }


def add_ratios(rows):
    """Adds to each row its time as a multiple of those of `ours` and of the floor, if measured."""
    medians = {(row["row"], row["batch"], row["steps"]): row["seconds_median"] for row in rows}
    for row, unit in itertools.product(rows, ("ours", "floor")):
        if (unit, row["batch"], row["steps"]) in medians:
            time = medians[unit, row["batch"], row["steps"]]
            row[f"ratio_to_{unit}"] = row["seconds_median"] / time


def disagreements(rows):
    """A line for each row whose loss or gradient is not that of the first row of its size."""
    lines, first = [], {}
    for row, key in itertools.product(rows, ("loss", "gradient_norm")):
        if key in row:
            name, value = first.setdefault(
                (key, row["batch"], row["steps"]), (row["row"], row[key])
            )
            if not abs(row[key] / value - 1.0) <= TOLERANCE:  # not if it is no number either
                lines.append(f"{row['row']}: {key} {row[key]}, but {value} of {name}")
    return lines


def print_rows(rows):
    """The table of rows."""
    print(
        f"{'':14}{'seconds: median (min .. max)':>30}{'/ ours':>8}{'/ floor':>8}{'first s':>9}"
        f"{'peak GB':>9}{'before':>8}{'loss':>12}{'gradient':>12}"
    )
    for row in rows:
        ratios = (row.get(f"ratio_to_{unit}") for unit in ("ours", "floor"))
        print(
            f"{row['row']:14}{spread(row):>30}"
            + "".join(f"{'' if ratio is None else f'{ratio:.2f}':>8}" for ratio in ratios)
            + f"{row['first_call_seconds']:9.1f}{row['peak_memory_gb']:9.2f}"
            f"{row['memory_before_gb']:8.2f}"
            + "".join(
                f"{f'{row[key]:.6g}' if key in row else '':>12}"
                for key in ("loss", "gradient_norm")
            )
        )


def print_growth(rows):
    """The table of sizes, with time and memory also for one path and step."""
    print(
        f"{'batch':>6}{'steps':>7}{'seconds: median (min .. max)':>32}{'peak GB':>9}{'before':>8}"
        f"{'ns a path and step':>20}{'bytes':>8}"
    )
    for row in rows:
        size = row["batch"] * row["steps"]
        used = row["peak_memory_gb"] - row["memory_before_gb"]
        print(
            f"{row['batch']:6}{row['steps']:7}{spread(row):>32}{row['peak_memory_gb']:9.2f}"
            f"{row['memory_before_gb']:8.2f}{1e9 * row['seconds_median'] / size:20.0f}"
            f"{1e9 * used / size:8.0f}"
        )


def spread(row):
    """Median and extremes of the seconds."""
    median, low, high = (row[f"seconds_{key}"] for key in ("median", "min", "max"))
    return f"{median:.3f} ({low:.3f} .. {high:.3f})"


if __name__ == "__main__":
    main()
