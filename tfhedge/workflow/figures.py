"""The figures of the paper, of a run and of the optimizers, with their data, and its findings."""

import numpy as np
import scipy.stats
import tensorflow as tf

from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer
from tfhedge.evaluation import figures
from tfhedge.evaluation.report import LEARNED, WITHOUT_OPTIONS, histogram
from tfhedge.files import read_json, write_json
from tfhedge.market.fourier import vanilla_price
from tfhedge.market.implied import implied_volatility
from tfhedge.workflow.comparison import has_floating_options, option_near_cap
from tfhedge.workflow.experiment import LABELS, REFERENCE, read_bands
from tfhedge.workflow.machine import machine
from tfhedge.workflow.run import TEST, TEST_BATCH_SIZE, check_test_paths, load_run

# Levels of variance in figure 1, in units of the long-run variance.
_VARIANCE_LEVELS = (0.25, 1.0, 4.0)
# Levels of the quantiles in figure 6.
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Steps before and after a reset that count as near it.
_NEAR = 2
# How figure 2 names the layers of the package's policies.
_LAYERS = {
    "inlet": "input layer",
    "scale": "RMSNorm",
    "gates": "LSTM",
    "dense": "dense layer",
    "outlet": "output layer",
}


def make_figures(run, folder, experiment=None, num_paths=70_000, seed=0):
    """Draws the figures of the paper for a run, and checks the paper's findings.

    The folder receives each figure as PNG with its data as JSON, and `findings.json`. Figure 1,
    `floating_grid`, is there for runs with a floating grid; figure 2, `largest_eigenvalues`, for
    those by DH-KFAC; figures 3 and 4, `optimizers` and `along_paths`, with an experiment; figures 5
    and 6 are `pnl_histogram` and `hedges_over_time`.

    Args:
        run: The run's folder, a `pathlib.Path`.
        folder: Folder of the figures, a `pathlib.Path`.
        experiment: The `optimizers.json` of `tfhedge experiment optimizers`, or None.
        num_paths: Number of test paths, which no run has seen.
        seed: Their seed.

    Returns:
        The contents of `findings.json`.

    Raises:
        ValueError: If a folder or file holds something else, or a number is out of its range.
        OSError: If there is no such folder or file, or `folder` cannot be made.
    """
    check_test_paths(num_paths, seed)
    outcome = read_experiment(experiment) if experiment else None
    hedger, _ = load_run(run)
    problem = hedger.problem
    folder.mkdir(parents=True, exist_ok=True)

    if has_floating_options(problem.instruments):
        draw(folder, figures.floating_grid, smiles(problem))
    if isinstance(hedger.optimizer, KroneckerOptimizer):
        draw(folder, figures.largest_eigenvalues, eigenvalues(hedger))
    findings = []
    if outcome:
        bands = read_bands(outcome)
        draw(folder, figures.optimizers, {"bands": bands, "target": outcome["target"]})
        draw(folder, figures.along_paths, {"bands": bands})
        findings += findings_on_optimizers(outcome["comparison"] or {})

    report = hedger.evaluate_hedge(num_paths, (seed, TEST), min(num_paths, TEST_BATCH_SIZE))
    draw(folder, figures.pnl_histogram, histogram(report.pnl))
    trades = trades_along(hedger, num_paths, (seed, TEST))
    draw(folder, figures.hedges_over_time, over_time(problem, trades))
    if problem.num_instruments > 1:
        findings += findings_on_options(report)
    findings += findings_on_trades(problem, trades)
    result = {"num_paths": num_paths, "seed": seed, "findings": findings, "machine": machine()}
    write_json(folder / "findings.json", result)
    return result


def draw(folder, figure, data):
    """Writes a figure, by the name of the function that draws it, and its data."""
    write_json(folder / f"{figure.__name__}.json", data)
    axes = np.atleast_1d(figure(**data))[0]
    axes.figure.savefig(folder / f"{figure.__name__}.png", dpi=150)


def read_experiment(path):
    """The contents of `optimizers.json`.

    Raises:
        ValueError: If the file holds something else.
        OSError: If it cannot be read.
    """
    try:
        outcome = read_json(path)
        read_bands(outcome), findings_on_optimizers(outcome["comparison"] or {}), outcome["target"]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        expected = "Expected the optimizers.json of an experiment"
        raise ValueError(f"{expected}. Received: {path}, {error!r}") from error
    return outcome


def smiles(problem):
    """The data of figure 1."""
    market, grid = problem.market, problem.instruments
    variances = [market.theta * level for level in _VARIANCE_LEVELS]
    maturities = sorted(set(grid.maturities))
    strikes, traded = [], []
    for maturity in maturities:
        here = [
            k for life, k in zip(grid.maturities, grid.strikes, strict=True) if life == maturity
        ]
        margin = 0.25 * (max(here) - min(here)) + 0.005
        line = np.linspace(min(here) - margin, max(here) + margin, 41)
        strikes.append(np.union1d(line, here).tolist())
        traded.append([strikes[-1].index(k) for k in sorted(here)])
    volatilities = [
        [smile(problem, variance, *x) for x in zip(maturities, strikes, strict=True)]
        for variance in variances
    ]
    return {
        "variances": variances,
        "maturities": maturities,
        "strikes": strikes,
        "volatilities": volatilities,
        "traded": traded,
    }


def smile(problem, variance, maturity, strikes):
    """Implied volatilities of one maturity, in steps, at strikes relative to the spot."""
    strikes, years = np.array(strikes), maturity * problem.dt
    is_call, market = strikes >= 1.0, problem.market
    price = vanilla_price(market, variance, np.log(strikes), years, is_call)
    rates = {"rate": market.rate, "dividend_yield": market.dividend_yield}
    return implied_volatility(price, 1.0, strikes, years, is_call, **rates).numpy().tolist()


def eigenvalues(hedger):
    """The data of figure 2."""
    blocks = hedger.curvature_report().blocks
    return {
        "blocks": [layer_name(block.weights[0]) for block in blocks],
        "largest": [block.largest for block in blocks],
        "mean": [block.mean for block in blocks],
    }


def layer_name(path):
    """What a reader calls the layer of a weight.

    >>> layer_name("hedger/policy/rnn/cell/gates_0/kernel")
    'LSTM 1'
    """
    kind, _, number = path.split("/")[-2].partition("_")
    return " ".join([_LAYERS.get(kind, kind), *([str(int(number) + 1)] if number else [])])


def trades_along(hedger, num_paths, seed):
    """Trades in the underlying, and in the option of one period next to the cap, if there is one.

    Returns:
        By name float32 NumPy arrays `[num_paths, num_steps]`.
    """
    problem = hedger.problem
    instruments = {"underlying": 0}
    option = option_near_cap(problem, problem.claim.period)
    if option is not None:
        what = problem.instruments.describe()[option - 1]
        name = f"{what['maturity']}-step {what['strike_over_spot']:g} {what['type']}"
        instruments[name] = option
    dataset = problem.dataset(num_paths, min(num_paths, TEST_BATCH_SIZE), seed)
    chosen = list(instruments.values())
    parts = [
        tf.gather(hedger.actions(features, differentiable=False), chosen, axis=-1).numpy()
        for features, _ in dataset
    ]
    return dict(zip(instruments, np.moveaxis(np.concatenate(parts), -1, 0), strict=True))


def over_time(problem, trades):
    """The data of figure 6: the position in the underlying, and the trades."""
    dividends = problem.market.dividend_yield * problem.dt * np.arange(problem.num_steps)
    shares = np.exp(dividends)  # that one share has become, its dividends invested in it
    position = shares * np.cumsum(trades["underlying"] / shares, axis=1)
    quantities = {"position in the\nunderlying": position}
    quantities |= {f"trades in the\n{name}": x for name, x in trades.items()}
    return {
        "levels": _QUANTILES,
        "quantiles": {
            name: np.quantile(x, _QUANTILES, axis=0).tolist() for name, x in quantities.items()
        },
        "resets": resets(problem).tolist(),
    }


def resets(problem):
    """The steps at which a period ends, before maturity."""
    return np.arange(problem.claim.period, problem.num_steps, problem.claim.period)


def finding(statement, paper, ours, low, high):
    """A number of the paper, ours, and whether it lies in the range that the statement allows."""
    ours = None if ours is None else float(ours)
    holds = ours is not None and low <= ours <= high
    return {"statement": statement, "paper": paper, "ours": ours, "holds": holds}


def findings_on_optimizers(comparison):
    """The steps that DH-KFAC needs, from the comparison of an experiment."""
    return [
        finding(f"steps of {LABELS[name]} / Adam's", "about 0.25", row["steps_ratio"], 0.0, 0.3)
        for name, row in comparison.items()
        if name != REFERENCE
    ]


def findings_on_options(report):
    """What the options do, from a `HedgeReport`."""
    learned, without = (report.statistics[name] for name in (LEARNED, WITHOUT_OPTIONS))
    skewness, before = (scipy.stats.skew(report.pnl[name]) for name in (LEARNED, WITHOUT_OPTIONS))
    return [
        finding(
            "standard deviation of the P&L, with option trades / without",
            "about 0.5",
            learned.std / without.std,
            0.0,
            0.6,
        ),
        finding(
            "skewness of the P&L, with option trades - without",
            "positive",
            skewness - before,
            0.0,
            1e9,
        ),
        finding("costs / loss", "about 0.2", learned.cost / learned.loss, 0.1, 0.3),
    ]


def findings_on_trades(problem, trades):
    """Where the trades are: their mean size next to resets, over that at other times."""
    steps = np.arange(problem.num_steps)[:, np.newaxis]
    near = (abs(steps - resets(problem)) <= _NEAR).any(axis=1)
    rows = []
    for name, x in trades.items():
        size, possible = abs(x).mean(axis=0), x.any(axis=0)
        here, elsewhere = near & possible, ~near & possible
        if here.any() and elsewhere.any():
            ratio = size[here].mean() / size[elsewhere].mean()
            statement = f"mean trade in the {name}, within {_NEAR} steps of a reset / elsewhere"
            rows.append(finding(statement, "above 1", ratio, 1.0, 1e9))
    return rows
