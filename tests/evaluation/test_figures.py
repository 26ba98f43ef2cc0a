"""Figures say what they show, show it, and are drawn without a warning."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from tfhedge.evaluation import figures
from tfhedge.evaluation.report import HedgeReport, HedgeStatistics
from tfhedge.hedging.objectives import MeanVariance
from tfhedge.market.calibration import Calibration
from tfhedge.market.chain import OptionChain
from tfhedge.market.heston import Heston

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


@pytest.mark.parametrize("num_expiries", [1, 3])
def test_smiles(num_expiries, tmp_path):
    maturity = np.repeat(np.arange(1.0, num_expiries + 1.0), 3)
    ones = np.ones(3 * num_expiries)
    chain = OptionChain(
        spot=1.0,
        maturity=maturity,
        strike=np.tile([1.1, 0.9, 1.0], num_expiries),
        forward=ones,
        discount=ones,
        volatility=0.2 * ones,
        spread=0.01 * ones,
    )
    market = Heston(1.0, 0.04, 1.0, 0.04, 0.1, -0.5)
    calibration = Calibration(market=market, chain=chain, volatility=0.21 * ones, at_bound=())
    figure = figures.smiles(calibration)
    figure.savefig(tmp_path / "figure.png")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == num_expiries
    for years, axes in enumerate(panels, start=1):
        assert axes.get_title() == f"{365 * years} days, RMSE 1.00 %"
        model = axes.lines[-1]
        assert_allclose(model.get_xdata(), np.log([0.9, 1.0, 1.1]))
        assert_allclose(model.get_ydata(), 21.0)
