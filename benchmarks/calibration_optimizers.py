"""Levenberg-Marquardt beside TensorFlow Probability's optimizers, on the search of `calibrate`.

Run with `python benchmarks/calibration_optimizers.py`; needs the test dependencies, writes
`benchmarks/results/calibration_optimizers.json`. Each follows the same six starts in one graph, on
the same residuals; times are medians without the first run, which compiles. TensorFlow
Probability's know no bounds, so that they work in the logit of the place between them, and get
the gradient of the sum of squares by reverse mode. They stop at a gradient of 1e-8: with 1e-7, a
truth is missed; or after 1000 iterations.

- Truths: noise-free quotes of 20 random markets, and how far the parameters found are from theirs.
- SPY and DAX, as in `calibration.py`: how far the sum of squares is above the least that any found.
"""

import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from stochvolmodels.data.sample_option_chains import get_spy_test_chain_data

from tfhedge.market import coordinates
from tfhedge.market.calibration import NUM_FOLLOWED, starting_points
from tfhedge.market.chain import OptionChain
from tfhedge.market.chain_prices import ChainPrices
from tfhedge.market.heston import Heston
from tfhedge.market.implied import implied_volatility
from tfhedge.market.least_squares import levenberg_marquardt
from tfhedge.market.reading import read_chain

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "calibration_optimizers.json"
NUM_TRUTHS, NUM_RUNS = 20, 3
MATURITIES = np.array([1 / 12, 0.25, 0.5, 1.0, 1.5, 2.0])
LOW, HIGH = coordinates.coordinate_bounds()


def main():
    """Runs all optimizers on all chains, prints and writes what they did."""
    truths = [random_market(seed) for seed in range(NUM_TRUTHS)]
    real = {
        "spy": OptionChain.from_stochvolmodels(get_spy_test_chain_data()),
        "dax": read_chain(HERE / "data" / "dax_2002-07-05.csv"),
    }
    results = {}
    for name, optimizer in OPTIMIZERS.items():
        runs = [run(optimizer, chain_of(market)) for market in truths]
        errors = [
            max(abs(found[p] / getattr(market, p) - 1.0) for p in coordinates.PARAMETERS)
            for market, (found, *_) in zip(truths, runs, strict=True)
        ]
        results[name] = {
            "truths_recovered_to_1e-4": int(np.sum(np.array(errors) < 1e-4)),
            "median_error": statistics.median(errors),
            "largest_error": max(errors),
            "seconds": statistics.median(seconds for *_, seconds in runs),
        }
        for chain_name, chain in real.items():
            _, cost, seconds = run(optimizer, chain)
            results[name][chain_name] = {"cost": cost, "seconds": seconds}
    for chain_name in real:
        least = min(row[chain_name]["cost"] for row in results.values())
        for row in results.values():
            row[chain_name]["above_least"] = row[chain_name]["cost"] / least - 1.0
    print(f"{'truths':>37}{'error':>20}{'':>10}{'SPY':>12}{'':>10}{'DAX':>12}")
    print(
        f"{'recovered':>37}{'median':>10}{'largest':>10}{'seconds':>10}"
        + 2 * (f"{'above':>12}{'seconds':>10}")
    )
    for name, row in results.items():
        print(
            f"{name:<22}{row['truths_recovered_to_1e-4']:>9} of {NUM_TRUTHS}"
            f"{row['median_error']:>10.0e}{row['largest_error']:>10.0e}{row['seconds']:>10.3f}"
            + "".join(f"{row[x]['above_least']:>12.0e}{row[x]['seconds']:>10.3f}" for x in real)
        )
    machine = {
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "runs": NUM_RUNS,
    }
    RESULTS.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")


def run(optimizer, chain):
    """The parameters of the best of the minima, its sum of squares, and the median time."""
    starts = tf.clip_by_value(coordinates.coordinates_of(starting_points(chain)), LOW, HIGH)
    prices, vega = ChainPrices.of(chain), np.maximum(chain.vega, 1e-7)
    scale = tf.constant(np.sqrt(vega) / np.linalg.norm(np.sqrt(vega)) / vega)
    costs = tf.reduce_sum((scale * prices.errors(coordinates.parameters_at(starts))) ** 2, axis=-1)
    costs = tf.where(tf.math.is_finite(costs), costs, np.inf)
    starts = tf.gather(starts, tf.math.top_k(-costs, NUM_FOLLOWED).indices)
    times = []
    for _ in range(1 + NUM_RUNS):
        begun = time.perf_counter()
        x, cost = optimizer(prices, scale, starts)
        cost = np.where(np.isfinite(cost.numpy()), cost.numpy(), np.inf)
        times.append(time.perf_counter() - begun)
    parameters = coordinates.parameters_at(x)[np.argmin(cost)].numpy().tolist()
    found = dict(zip(coordinates.PARAMETERS, parameters, strict=True))
    return found, float(cost.min()), statistics.median(times[1:])


@tf.function(autograph=False, reduce_retracing=True)
def least_squares(prices, scale, starts):
    """Ours."""

    def residuals(x):
        parameters = coordinates.parameters_at(x)
        error, jacobian = prices.errors_and_jacobian(parameters)
        jacobian = coordinates.by_coordinates(jacobian, parameters)
        return scale * error, scale[:, tf.newaxis] * jacobian

    minima = levenberg_marquardt(residuals, tf.size(scale), starts, LOW, HIGH, step_tolerance=1e-9)
    return minima.x, minima.cost


def quasi_newton(minimize, **options):
    """One of TensorFlow Probability's, on the sum of squares."""

    @tf.function(autograph=False, reduce_retracing=True)
    def optimize(prices, scale, starts):
        def inside(y):
            return LOW + (HIGH - LOW) * tf.sigmoid(y)

        def cost(y):
            error = scale * prices.errors(coordinates.parameters_at(inside(y)))
            return tf.reduce_sum(error**2, axis=-1)

        place = tf.clip_by_value((starts - LOW) / (HIGH - LOW), 1e-6, 1.0 - 1e-6)
        result = minimize(
            lambda y: tfp.math.value_and_gradient(cost, y, auto_unpack_single_arg=False),
            tf.math.log(place / (1.0 - place)),
            tolerance=1e-8,
            max_iterations=1000,
            **options,
        )
        return inside(result.position), result.objective_value

    return optimize


OPTIMIZERS = {
    "levenberg_marquardt": least_squares,
    "tfp bfgs_minimize": quasi_newton(tfp.optimizer.bfgs_minimize),
    "tfp lbfgs_minimize": quasi_newton(tfp.optimizer.lbfgs_minimize),
}


def random_market(seed):
    """A market of the ranges that index options show."""
    low, high = (0.01, 0.5, 0.01, 0.2, -0.9), (0.2, 10.0, 0.2, 1.5, 0.0)
    return Heston(1.0, *np.random.default_rng(seed).uniform(low, high).tolist())


def chain_of(market):
    """Its quotes within two standard deviations at expiries of a month to two years."""
    maturity = np.repeat(MATURITIES, 11)
    decay = -np.expm1(-market.kappa * maturity) / market.kappa
    deviation = np.sqrt(market.theta * maturity + (market.v0 - market.theta) * decay)
    k = deviation * np.tile(np.linspace(-2.0, 2.0, 11), len(MATURITIES))
    price = market.vanilla_price(np.exp(k), maturity, k >= 0)
    ones = np.ones(len(k))
    return OptionChain(
        spot=1.0,
        maturity=maturity,
        strike=np.exp(k),
        forward=ones,
        discount=ones,
        volatility=implied_volatility(price, 1.0, np.exp(k), maturity, k >= 0),
        spread=0.0 * ones,
    )


if __name__ == "__main__":
    main()
