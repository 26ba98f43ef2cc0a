"""How long one decision takes: a call of the exported `step`, beside the Keras cell in Python.

Run with `python benchmarks/serving_latency.py --json benchmarks/results/serving_latency.json`. The
paper's policy, exported and loaded by TensorFlow alone, as a server does without its network, and
the same computation by a call of the Keras layers on the same inputs: features, cell, all by eager
operations. The calls alternate; the median and the 99th percentile of each are printed. About two
minutes.
"""

import argparse
import tempfile
import time
from pathlib import Path

from record import load, machine, write

from tfhedge.cli import set_up_tensorflow

set_up_tensorflow()

import numpy as np
import tensorflow as tf

import tfhedge as th

BATCH_SIZES = (1, 64, 1024)


def main():
    """Measures, prints and perhaps writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1000, help="of each at each batch size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here")
    options = parser.parse_args()
    hedger = th.DeepHedger(th.HedgingProblem.from_paper(), th.RecurrentPolicy())
    with tempfile.TemporaryDirectory() as folder:
        path = th.export(hedger, folder)
        signatures = tf.saved_model.load(path).signatures
        before = load()
        rows = [compare(hedger, signatures, size, options.calls) for size in BATCH_SIZES]
    print(f"\n{'paths':>6}{'':10}{'step, ms':>10}{'Keras, ms':>11}{'ratio':>7}")
    for row in rows:
        for statistic in ("median", "p99"):
            served, python = (row[f"{name}_{statistic}_ms"] for name in ("step", "keras"))
            print(
                f"{row['batch']:>6} {statistic:9}{served:>10.3f}{python:>11.3f}"
                f"{python / served:>7.1f}"
            )
    if options.json:
        write(options.json, {"machine": machine(), "load": before, "rows": rows})


def compare(hedger, signatures, batch, num_calls):
    """Times of both at one batch size, in milliseconds."""
    problem, cell = hedger.problem, hedger.policy.cell
    path = [x[:, 0] for x in problem.simulate(batch, seed=1)]
    observed = dict(zip(("spot", "variance"), path, strict=True))
    observables = {
        name: x[:, 0]
        for name, x in problem.claim.observables(tf.fill([batch, problem.num_steps], 1.0)).items()
    }
    states = signatures["initial_state"](batch_size=tf.constant(batch))
    step = signatures["step"]
    t = tf.zeros([batch], tf.int32)

    def served():
        return step(t=t, **observed, **observables, **states)["action"].numpy()

    def by_keras():
        features = problem.features_at(t, **observed, **observables)
        inputs = tf.concat([tf.gather(problem.availability, t), features], axis=-1)
        return cell(inputs, [states[name] for name in cell.state_names])[0].numpy()

    np.testing.assert_allclose(served(), by_keras(), rtol=1e-5, atol=1e-7)
    seconds = {"step": [], "keras": []}
    for _ in range(num_calls):
        for name, call in (("step", served), ("keras", by_keras)):
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    row = {"batch": batch, "calls": num_calls}
    for name, values in seconds.items():
        row[f"{name}_median_ms"] = 1e3 * float(np.median(values))
        row[f"{name}_p99_ms"] = 1e3 * float(np.quantile(values, 0.99))
    return row


if __name__ == "__main__":
    main()
