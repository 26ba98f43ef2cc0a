"""Statistics as figures: arrays in, matplotlib axes out.

The figure of the axes is `axes.figure`, and `axes.figure.savefig` writes it. The colors are Okabe's
and Ito's, which the color-blind can tell apart.
"""

import math

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

_GRAY, _ORANGE, _BLUE, _GREEN = "#777777", "#d55e00", "#0072b2", "#009e73"
_COLORS = (_GRAY, _ORANGE, _BLUE)


_OF_BANDS = "median and range of the seeds"


def _panels(width, height, *shape, **options):
    """The axes of a new figure, one alone or an array of `shape`, of a size in inches."""
    return Figure(figsize=(width, height), layout="constrained").subplots(*shape, **options)


def _numbers(axis):
    """Plain numbers at the ticks of a logarithmic axis."""
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_formatter(ScalarFormatter())


def _legend_beside(panels):
    """The legend of the last of the panels, at the right of them all."""
    panels[-1].figure.legend(
        *panels[-1].get_legend_handles_labels(), loc="outside right upper", fontsize="small"
    )


def floating_grid(variances, maturities, strikes, volatilities, traded):
    """Smiles at several levels of variance, and the options that are traded, figure 1 of the paper.

    Args:
        variances: Instantaneous variances, one for each panel.
        maturities: Times to maturity in time steps, one for each smile.
        strikes: For each maturity strikes relative to the spot, in rising order.
        volatilities: For each variance and maturity the implied volatilities at these strikes.
        traded: For each maturity the positions among its strikes of the options that are traded.

    Returns:
        Array of matplotlib `Axes`, one for each variance.
    """
    panels = _panels(1.2 + 3.2 * len(variances), 3.6, 1, len(variances), squeeze=False)[0]
    colors = colormaps["cividis"](np.linspace(0.0, 0.9, len(maturities)))
    for axes, variance, smiles in zip(panels, variances, volatilities, strict=True):
        for maturity, k, smile, chosen, color in zip(
            maturities, strikes, smiles, traded, colors, strict=True
        ):
            k, percent = np.asarray(k), 100.0 * np.asarray(smile)
            axes.plot(k, percent, color=color, label=f"{maturity} steps")
            at = k[chosen]
            for kind, fill in ((at <= 1.0, "white"), (at > 1.0, color)):
                axes.scatter(
                    at[kind], percent[chosen][kind], 22, [fill], edgecolors=color, zorder=3
                )
        axes.axvline(1.0, linestyle=":", linewidth=1.0, color=_GRAY)
        axes.set(xlabel="strike / spot", title=f"spot volatility {math.sqrt(variance):.1%}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("implied volatility, %")
    for fill, label in (("white", "put traded"), ("black", "call traded")):
        panels[-1].scatter([], [], 22, fill, edgecolors="black", label=label)
    _legend_beside(panels)
    return panels


def largest_eigenvalues(blocks, largest, mean):
    """Largest and mean eigenvalue of each block of a preconditioner, figure 2 of the paper.

    Args:
        blocks: Their names, in the order of the network.
        largest: Their largest eigenvalues.
        mean: Their mean eigenvalues.

    Returns:
        Matplotlib `Axes`.
    """
    axes = _panels(6.4, 1.0 + 0.28 * len(blocks))
    rows = np.arange(len(blocks))
    axes.hlines(rows, mean, largest, color=_GRAY, linewidth=1.0)
    axes.plot(largest, rows, "o", color=_ORANGE, label="largest eigenvalue")
    axes.plot(mean, rows, "|", color=_BLUE, markersize=10.0, label="mean eigenvalue")
    axes.set(xscale="log", xlabel="eigenvalue of the block")
    axes.set_yticks(rows, blocks)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small", ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return axes


def validation_loss(steps, losses, unhedged_loss):
    """Validation loss over the training, on a logarithmic scale.

    Args:
        steps: Steps after which the loss was measured.
        losses: The losses.
        unhedged_loss: The loss of no hedge, for comparison.

    Returns:
        Matplotlib `Axes`.
    """
    axes = _panels(6.4, 4.0)
    axes.set(xlabel="optimization step", ylabel="validation loss", yscale="log")
    axes.set_xlim(0, max(steps))
    axes.plot(steps, losses, marker=".", color=_BLUE, label="learned")
    axes.axhline(unhedged_loss, linestyle="--", color=_GRAY, label="no hedge")
    _numbers(axes.yaxis)
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    return axes


def _draw_bands(axes, bands, x, name, scale=lambda band: 1.0):
    """Draws for each optimizer the median of its runs, and the range from the least to the most.

    The axis ends above what was met until the best loss of each: a later divergence leaves it.
    """
    bottom, top = math.inf, 0.0
    styles = zip((_ORANGE, _GREEN, _BLUE), ("-", "--", "-."), strict=True)
    for (optimizer, band), (color, line) in zip(bands.items(), styles, strict=False):
        if name in band:
            low, median, high = np.array(band[name], np.float64)  # None is not a number
            at = np.asarray(band[x]) * scale(band)
            axes.plot(at, median, color=color, linestyle=line, linewidth=1.4, label=optimizer)
            axes.fill_between(at, low, high, color=color, alpha=0.25, linewidth=0.0)
            best = np.nanargmin(np.array(band["val_loss"][1], np.float64))
            bottom, top = min(bottom, np.nanmin(low)), max(top, np.nanmax(high[: best + 1]))
    axes.set(yscale="log")
    axes.set_ylim(bottom / 1.2, 1.2 * top)
    axes.grid(which="both", alpha=0.3)


def optimizers(bands, target):
    """Validation losses of several optimizers against steps and seconds, figure 3 of the paper.

    Args:
        bands: For each optimizer `step`, the steps after which the loss was measured;
            `step_seconds`, the time of a step; and `val_loss`, of the runs' losses the
            least, the median and the most, each `[num_steps]`.
        target: The loss to reach, or None.

    Returns:
        Array of two matplotlib `Axes`.
    """
    panels = _panels(9.6, 4.0, 1, 2, sharey=True)
    _draw_bands(panels[0], bands, "step", "val_loss")
    _draw_bands(panels[1], bands, "step", "val_loss", lambda band: band["step_seconds"] / 60.0)
    labels = "optimization step", "minutes of training"
    for axes, label in zip(panels, labels, strict=True):
        if target is not None:
            axes.axhline(target, linestyle=":", linewidth=1.2, color="black", label="target")
        axes.set(xlabel=label)
        _numbers(axes.yaxis)
    panels[0].set_ylabel("validation loss")
    panels[0].legend(title=_OF_BANDS, title_fontsize="small", fontsize="small")
    return panels


def along_paths(bands):
    """Gradient variance and largest eigenvalue along the optimizers' paths, figure 4 of the paper.

    Args:
        bands: For each optimizer `step`, the steps after which it was measured, and the least, the
            median and the most of the runs: of `val_loss`; of `gradient_variance`, the trace of the
            covariance of the gradients of single paths; and, where there is a preconditioner, of
            `largest_eigenvalue`, the largest of its eigenvalues. Each `[num_steps]`.

    Returns:
        Array of two matplotlib `Axes`.
    """
    panels = _panels(6.4, 5.6, 2, 1, sharex=True)
    names = {
        "gradient_variance": "trace of the covariance\nof single-path gradients",
        "largest_eigenvalue": "largest eigenvalue\nof the preconditioner",
    }
    for axes, (name, label) in zip(panels, names.items(), strict=True):
        _draw_bands(axes, bands, "step", name)
        axes.set_ylabel(label)
        axes.legend(title=_OF_BANDS, title_fontsize="small", fontsize="small")
    panels[-1].set_xlabel("optimization step")
    return panels


def search(outcome):
    """The trials of a search: their losses by steps, and the best of each against each setting.

    Args:
        outcome: What `sweep` returns.

    Returns:
        Array of matplotlib `Axes`.
    """
    grid, trials = outcome["grid"], outcome["trials"]
    everything = _panels(3.2 * (1 + len(grid)), 3.6, 1, 1 + len(grid), sharey=True)
    courses, *panels = everything
    courses.set(xlabel="optimization step", ylabel="best validation loss", yscale="log")
    styles = {
        "complete": {"color": _BLUE, "marker": "o"},
        "pruned": {"color": _GRAY, "marker": "x"},
        "diverged": {"color": _ORANGE, "marker": "^"},
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
            axes.axvline(value, linestyle=":", linewidth=1.0, color=_GRAY)
        axes.margins(x=0.1)
    for axes in everything:
        _numbers(axes.yaxis)
        axes.grid(which="both", alpha=0.3)
    panels[-1].legend(fontsize="small")
    return everything


def pnl_histogram(edges, densities, stds):
    """Distribution of the terminal P&L by strategy, in logarithmic counts, figure 5 of the paper.

    Args:
        edges: The edges of the bins.
        densities: For each strategy, at most three, the density in each bin.
        stds: For each strategy the standard deviation.

    Returns:
        Matplotlib `Axes`.

    Raises:
        ValueError: If there are more strategies.
    """
    axes = _panels(6.4, 4.0)
    colors = _COLORS[: len(densities)]
    for (name, density), color in zip(densities.items(), colors, strict=True):
        label = f"{name}: standard deviation {stds[name]:.4f}"
        axes.stairs(density, edges, fill=True, alpha=0.25, color=color)
        axes.stairs(density, edges, color=color, label=label)
    axes.set(
        xlabel="terminal P&L before costs and premium, fraction of notional",
        ylabel="density",
        yscale="log",
    )
    lowest = min(x for density in densities.values() for x in density if x > 0.0)
    highest = max(max(density) for density in densities.values())
    axes.set_ylim(0.5 * lowest, 20.0 * highest)  # leaves room for the legend
    axes.legend(fontsize="small", loc="upper left")
    return axes


def hedges_over_time(levels, quantiles, resets):
    """Distribution over time of a hedge's positions and trades, figure 6 of the paper.

    Args:
        levels: Levels of the quantiles, rising, symmetric about the median, which is one of them.
        quantiles: For each quantity, by its name, `[num_levels, num_steps]`.
        resets: The steps at which a period of the claim ends.

    Returns:
        Array of matplotlib `Axes`, one for each quantity.
    """
    panels = _panels(8.4, 2.2 * len(quantiles), len(quantiles), 1, sharex=True, squeeze=False)[:, 0]
    half = len(levels) // 2
    shades = colormaps["Blues"](np.linspace(0.25, 0.75, half))
    for axes, (name, rows) in zip(panels, quantiles.items(), strict=True):
        steps = np.arange(len(rows[0]))
        for i, color in enumerate(shades):
            label = f"{levels[i]:.0%} to {levels[-1 - i]:.0%}"
            axes.fill_between(steps, rows[i], rows[-1 - i], color=color, linewidth=0, label=label)
        axes.plot(steps, rows[half], color="black", linewidth=1.0, label="median")
        for reset in resets:
            label = "reset" if reset == resets[0] else None
            axes.axvline(reset, linestyle=":", linewidth=1.0, color=_ORANGE, label=label, zorder=0)
        axes.set(ylabel=name, xlim=(0, len(steps)))
    _legend_beside(panels)
    panels[0].figure.align_ylabels(panels)
    panels[0].figure.supylabel("units for each unit of the notional", fontsize="medium")
    panels[-1].set_xlabel("time step")
    return panels


def smiles(calibration):
    """Implied volatilities of market and model by log-moneyness, a panel for each expiry.

    Args:
        calibration: A `Calibration`.

    Returns:
        Array of matplotlib `Axes`.
    """
    chain = calibration.chain
    maturities = np.unique(chain.maturity)
    num_columns = math.ceil(math.sqrt(len(maturities)))
    num_rows = math.ceil(len(maturities) / num_columns)
    size = 1.6 + 3.0 * num_columns, 1.0 + 2.2 * num_rows
    panels = _panels(*size, num_rows, num_columns, squeeze=False).ravel()
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
            color=_GRAY,
            label="market, bid to ask",
        )
        axes.plot(k, 100.0 * calibration.volatility[here], color=_BLUE, label="model")
        rmse = 100.0 * calibration.rmse_by_expiry[float(maturity)]
        axes.set_title(f"{365 * maturity:.0f} days, RMSE {rmse:.2f} %", fontsize="small")
        axes.grid(alpha=0.3)
    for axes in panels[len(maturities) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize="small")
    panels[0].figure.supxlabel("log of strike over forward", fontsize="small")
    panels[0].figure.supylabel("implied volatility, %", fontsize="small")
    return panels[: len(maturities)]
