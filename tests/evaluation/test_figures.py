"""Figures say what they show, show it, and are drawn without a warning."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from tfhedge.evaluation import figures
from tfhedge.evaluation.report import HedgeReport, HedgeStatistics
from tfhedge.hedging.objectives import MeanVariance

STDS = {"no hedge": 0.02, "learned, without its options": 0.012, "learned": 0.006}


def report(num_paths):
    rng, zero = np.random.default_rng(0), np.zeros(num_paths)
    pnl = {name: rng.normal(0.0, std, num_paths).astype(np.float32) for name, std in STDS.items()}
    objective = MeanVariance(risk_aversion=1000.0)
    statistics = {name: HedgeStatistics.of(x, zero, objective) for name, x in pnl.items()}
    return HedgeReport(pnl, statistics)


def axes_of(figure, path):
    assert isinstance(figure, Figure)
    figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    return axes


@pytest.mark.parametrize("steps", [[1], [10, 20, 25]])
def test_validation_loss(steps, tmp_path):
    losses = np.geomspace(0.4, 0.07, len(steps))
    axes = axes_of(figures.validation_loss(steps, losses, 0.453), tmp_path / "figure.png")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimization step", "validation loss")
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    curve, level = axes.lines
    assert_allclose(curve.get_xydata(), np.column_stack([steps, losses]))
    assert_allclose(level.get_ydata(), 0.453)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["learned", "no hedge"]


@pytest.mark.parametrize("num_paths", [20, 5000])
def test_pnl_histogram(num_paths, tmp_path):
    data = report(num_paths)
    axes = axes_of(figures.pnl_histogram(data), tmp_path / "figure.png")
    assert axes.get_xlabel().startswith("terminal P&L before costs")
    assert (axes.get_ylabel(), axes.get_yscale()) == ("density", "log")
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [
        f"{name}: standard deviation {row.std:.4f}" for name, row in data.statistics.items()
    ]
