"""Statistics as figures."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

_COLORS = ("tab:gray", "tab:orange", "tab:blue")


def validation_loss(steps, losses, unhedged_loss):
    """Validation loss over the training, on a logarithmic scale, as figure 3 of the paper.

    Args:
        steps: Steps after which the loss was measured.
        losses: The losses.
        unhedged_loss: The loss of no hedge, for comparison.

    Returns:
        A matplotlib `Figure`.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(
        xlabel="optimization step", ylabel="validation loss", yscale="log", xlim=(0, max(steps))
    )
    axes.plot(steps, losses, marker=".", color=_COLORS[2], label="learned")
    axes.axhline(unhedged_loss, linestyle="--", color=_COLORS[0], label="no hedge")
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    return figure


def optimizers(histories, target):
    """Validation losses of several optimizers against steps and seconds, as figure 3 of the paper.

    Args:
        histories: For each optimizer a list of runs, each with the columns `step`,
            `training_seconds` and `val_loss`.
        target: The loss to reach.

    Returns:
        A matplotlib `Figure`.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    labels = {"step": "optimization step", "training_seconds": "seconds of training"}
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        axes.set(xlabel=label, yscale="log")
        for number, (name, runs) in enumerate(histories.items()):
            for run in runs:
                losses = [math.nan if loss is None else loss for loss in run["val_loss"]]
                axes.plot(run[column], losses, color=f"C{number}", linewidth=1.0, label=name)
                name = None  # one entry in the legend
        axes.axhline(target, linestyle="--", linewidth=1.0, color=_COLORS[0], label="target")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.grid(which="both", alpha=0.3)
    panels[0].set_ylabel("validation loss")
    panels[0].legend()
    return figure


def search(outcome):
    """The trials of a search: their losses by steps, and the best of each against each setting.

    Args:
        outcome: What `sweep` returns.

    Returns:
        A matplotlib `Figure`.
    """
    grid, trials = outcome["grid"], outcome["trials"]
    figure = Figure(figsize=(3.2 * (1 + len(grid)), 3.6), layout="constrained")
    courses, *panels = figure.subplots(1, 1 + len(grid), sharey=True)
    courses.set(xlabel="optimization step", ylabel="best validation loss", yscale="log")
    styles = {
        "complete": {"color": _COLORS[2], "marker": "o"},
        "pruned": {"color": _COLORS[0], "marker": "x"},
        "diverged": {"color": _COLORS[1], "marker": "^"},
    }
    for state, style in styles.items():
        chosen = [x for x in trials if x["state"] == state and x["best_val_loss"] is not None]
        for trial in chosen:
            course = trial["course"]
            courses.plot(course["step"], course["best_val_loss"], color=style["color"], lw=1.0)
        for axes, name in zip(panels, grid, strict=True):
            values = [trial["settings"][name] for trial in chosen]
            losses = [trial["best_val_loss"] for trial in chosen]
            axes.scatter(values, losses, label=state if chosen else None, **style)
    for axes, name in zip(panels, grid, strict=True):
        axes.scatter(
            outcome["best"]["settings"][name],
            outcome["best"]["best_val_loss"],
            s=160.0,
            facecolors="none",
            edgecolors="black",
            label="winner",
        )
        axes.set(xlabel=name.replace("_", " "), xscale="log")
        axes.set_xticks(grid[name], [f"{value:g}" for value in grid[name]])
        axes.set_xticks([], minor=True)
        for value in grid[name]:  # the range that was searched
            axes.axvline(value, linestyle=":", linewidth=1.0, color=_COLORS[0])
        axes.margins(x=0.1)
    for axes in (courses, *panels):
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.grid(which="both", alpha=0.3)
    panels[-1].legend(fontsize="small")
    return figure


def pnl_histogram(report):
    """Distribution of the terminal P&L by strategy, in logarithmic counts, as figure 5.

    Args:
        report: A `HedgeReport`.

    Returns:
        A matplotlib `Figure`.
    """
    everything = np.concatenate(list(report.pnl.values()))
    bins = np.linspace(*np.quantile(everything, [1e-4, 1.0 - 1e-4]), 121)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(
        xlabel="terminal P&L before costs, fraction of notional",
        ylabel="density",
        yscale="log",
    )
    for (name, pnl), color in zip(report.pnl.items(), _COLORS, strict=True):
        std = report.statistics[name].std
        label = f"{name}: standard deviation {std:.4f}"
        axes.hist(
            pnl, bins, density=True, histtype="stepfilled", alpha=0.25, color=color, label=label
        )
        axes.hist(pnl, bins, density=True, histtype="step", color=color)
    axes.set_ylim(bottom=0.5 / (len(pnl) * (bins[1] - bins[0])))
    axes.legend(fontsize="small")
    return figure


def smiles(calibration):
    """Implied volatilities of market and model by log-moneyness, a panel for each expiry.

    Args:
        calibration: A `Calibration`.

    Returns:
        A matplotlib `Figure`.
    """
    chain = calibration.chain
    maturities = np.unique(chain.maturity)
    num_columns = math.ceil(math.sqrt(len(maturities)))
    num_rows = math.ceil(len(maturities) / num_columns)
    figure = Figure(figsize=(1.6 + 3.0 * num_columns, 1.0 + 2.2 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes, maturity in zip(panels, maturities, strict=False):
        (here,) = np.nonzero(chain.maturity == maturity)
        here = here[np.argsort(chain.strike[here], kind="stable")]
        k, percent = chain.log_moneyness[here], 100.0 * chain.volatility[here]
        axes.errorbar(
            k,
            percent,
            yerr=50.0 * chain.spread[here],
            fmt=".",
            markersize=3,
            elinewidth=0.8,
            color=_COLORS[0],
            label="market, bid to ask",
        )
        axes.plot(k, 100.0 * calibration.volatility[here], color=_COLORS[2], label="model")
        rmse = 100.0 * calibration.rmse_by_expiry[float(maturity)]
        axes.set_title(f"{365 * maturity:.0f} days, RMSE {rmse:.2f} %", fontsize="small")
        axes.grid(alpha=0.3)
    for axes in panels[len(maturities) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize="small")
    figure.supxlabel("log of strike over forward", fontsize="small")
    figure.supylabel("implied volatility, %", fontsize="small")
    return figure
