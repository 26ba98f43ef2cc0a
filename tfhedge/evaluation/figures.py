"""Statistics as figures."""

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
