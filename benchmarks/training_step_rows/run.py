"""Measures one row of `training_step.py` in this process, and prints the result as JSON.

Run by it as `python run.py MODULE ROW --batch ...`. Each module of rows imports only what its rows
need. Its `ROWS` are functions of the task that return a function without arguments, which takes
one training step and returns the loss and the gradients, or None for what the row has not.
"""

import argparse
import importlib
import json
import os
import resource
import sys
import time


def main():
    """Compiles, takes the time of the steps, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("row")
    for name in ("batch", "steps", "repeats", "cycle"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    set_environment(options.row)
    module = importlib.import_module(options.module)
    task = importlib.import_module("task").Task(options.batch, options.steps)
    take_step = module.ROWS[options.row](task)
    result = {"memory_before_gb": peak_memory()}
    start = time.perf_counter()
    loss, gradients = take_step()
    result["first_call_seconds"] = time.perf_counter() - start
    if loss is not None:
        result["loss"] = float(loss)
    if gradients is not None:
        result["gradient_norm"] = norm(gradients)
    del gradients
    result["seconds"] = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        for _ in range(options.cycle):
            take_step()
        result["seconds"].append((time.perf_counter() - start) / options.cycle)
    result["peak_memory_gb"] = peak_memory()
    print(json.dumps(result))


def set_environment(row):
    """Sets what the libraries read when they are imported.

    Our rows run as our command line does, all others by the defaults of their libraries.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # or it would compile only once
    if row.startswith("floor"):
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # it has threads of its own
    if row.startswith(("ours", "floor")):
        from tfhedge.cli import set_up_tensorflow

        set_up_tensorflow()


def norm(gradients):
    """The Euclidean norm of all gradients together."""
    import numpy as np

    squares = [np.sum(np.asarray(gradient, np.float64) ** 2) for gradient in gradients]
    return float(np.sqrt(np.sum(squares)))


def peak_memory():
    """The most memory that this process ever had, in gigabytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9


if __name__ == "__main__":
    main()
