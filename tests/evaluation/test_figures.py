"""Figures say what they show, show it, and are drawn without a warning."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tfhedge.evaluation import figures
from tfhedge.evaluation.report import HedgeReport, HedgeStatistics, histogram
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


def drawn(axes, path):
    """The axes, or an array of them, whose figure can be written."""
    np.atleast_1d(axes)[0].figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    return axes


@pytest.mark.parametrize("steps", [[1], [10, 20, 25]])
def test_validation_loss(steps, tmp_path):
    losses = np.geomspace(0.4, 0.07, len(steps))
    axes = drawn(figures.validation_loss(steps, losses, 0.453), tmp_path / "figure.png")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimization step", "validation loss")
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    curve, level = axes.lines
    assert_allclose(curve.get_xydata(), np.column_stack([steps, losses]))
    assert_allclose(level.get_ydata(), 0.453)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["learned", "no hedge"]


@pytest.mark.parametrize("num_paths", [20, 5000])
def test_pnl_histogram(num_paths, tmp_path):
    data = report(num_paths)
    axes = drawn(figures.pnl_histogram(**histogram(data.pnl)), tmp_path / "figure.png")
    assert axes.get_xlabel().startswith("terminal P&L before costs")
    assert (axes.get_ylabel(), axes.get_yscale()) == ("density", "log")
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [
        f"{name}: standard deviation {row.std:.4f}" for name, row in data.statistics.items()
    ]
    histograms = histogram(data.pnl)
    for outline, density in zip(axes.patches[1::2], histograms["densities"].values(), strict=True):
        assert_allclose(outline.get_data().values, density)
        assert_allclose(outline.get_data().edges, histograms["edges"])


def test_there_are_colors_for_three_strategies():
    densities = {name: [1.0] for name in "abcd"}
    with pytest.raises(ValueError, match="shorter"):
        figures.pnl_histogram([0.0, 1.0], densities, dict.fromkeys("abcd", 0.1))


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
    panels = drawn(figures.smiles(calibration), tmp_path / "figure.png")
    assert len(panels) == num_expiries
    for years, axes in enumerate(panels, start=1):
        assert axes.get_title() == f"{365 * years} days, RMSE 1.00 %"
        model = axes.lines[-1]
        assert_allclose(model.get_xdata(), np.log([0.9, 1.0, 1.1]))
        assert_allclose(model.get_ydata(), 21.0)


def test_floating_grid(tmp_path):
    strikes = [[0.9, 1.0, 1.1], [0.8, 1.2]]
    volatilities = [[[0.3, 0.2, 0.25], [0.4, 0.1]], [[0.5, 0.4, 0.45], [0.6, 0.3]]]
    panels = figures.floating_grid([0.04, 0.09], [10, 20], strikes, volatilities, [[1, 2], [0]])
    assert [axes.get_title() for axes in panels] == [
        "spot volatility 20.0%",
        "spot volatility 30.0%",
    ]
    for axes, smiles in zip(drawn(panels, tmp_path / "figure.png"), volatilities, strict=True):
        for line, k, smile in zip(axes.lines, strikes, smiles, strict=False):
            assert_allclose(line.get_xydata(), np.column_stack([k, 100.0 * np.array(smile)]))
        puts, calls, *_ = (points.get_offsets() for points in axes.collections)
        assert_allclose(puts, [[1.0, 100.0 * smiles[0][1]]])
        assert_allclose(calls, [[1.1, 100.0 * smiles[0][2]]])


def test_largest_eigenvalues(tmp_path):
    axes = drawn(
        figures.largest_eigenvalues(["in/kernel", "out/kernel"], [1e2, 1e6], [0.1, 1e3]),
        tmp_path / "figure.png",
    )
    assert [text.get_text() for text in axes.get_yticklabels()] == ["in/kernel", "out/kernel"]
    assert_allclose(axes.lines[0].get_xdata(), [1e2, 1e6])
    assert_allclose(axes.lines[1].get_xdata(), [0.1, 1e3])
    assert axes.get_xscale() == "log"


BANDS = {
    "Adam": {
        "step": [10, 20],
        "step_seconds": 3.0,
        "val_loss": [[0.3, 0.1], [0.4, None], [0.5, 0.3]],
        "gradient_variance": [[1e5, 1e4], [2e5, 2e4], [3e5, 3e4]],
    },
    "DHKFAC()": {
        "step": [10],
        "step_seconds": 6.0,
        "val_loss": [[0.2], [0.2], [0.2]],
        "gradient_variance": [[1e6], [1e6], [1e6]],
        "largest_eigenvalue": [[1e7], [2e7], [3e7]],
    },
}


def heights(band):
    """The least and the most that a band reaches."""
    y = band.get_paths()[0].vertices[:, 1]
    return [y.min(), y.max()]


def test_optimizers(tmp_path):
    by_step, by_time = drawn(figures.optimizers(BANDS, target=0.2), tmp_path / "figure.png")
    adam, other, target = by_step.lines
    assert_allclose(adam.get_xydata(), [[10.0, 0.4], [20.0, np.nan]])
    assert_allclose(other.get_xydata(), [[10.0, 0.2]])
    assert_allclose(target.get_ydata(), 0.2)
    assert_allclose(heights(by_step.collections[0]), [0.1, 0.5])
    assert_allclose(heights(by_time.collections[1]), 0.2)
    assert_allclose(by_time.lines[0].get_xdata(), [0.5, 1.0])
    assert by_time.get_xlabel() == "minutes of training"
    assert [x.get_text() for x in by_step.get_legend().get_texts()] == [*BANDS, "target"]


def test_along_paths(tmp_path):
    variance, eigenvalue = drawn(figures.along_paths(BANDS), tmp_path / "figure.png")
    assert [x.get_text() for x in variance.get_legend().get_texts()] == [*BANDS]
    assert [x.get_text() for x in eigenvalue.get_legend().get_texts()] == ["DHKFAC()"]
    assert eigenvalue.lines[0].get_color() == variance.lines[1].get_color()
    assert_allclose(variance.lines[0].get_ydata(), [2e5, 2e4])
    assert_allclose(heights(variance.collections[0]), [1e4, 3e5])
    assert_allclose(eigenvalue.lines[0].get_ydata(), 2e7)
    assert_allclose(heights(eigenvalue.collections[0]), [1e7, 3e7])


def test_a_divergence_leaves_the_axis():
    curve = [[0.3, 0.1, None, 30.0]] * 3
    band = {"step": [1, 2, 3, 4], "step_seconds": 1.0, "val_loss": curve}
    for axes in figures.optimizers({"DHKFAC.paper()": band}, target=None):
        assert_allclose(axes.get_ylim(), [0.1 / 1.2, 0.3 * 1.2])


@pytest.mark.parametrize("resets", [[], [2, 4]])
def test_hedges_over_time(resets, tmp_path):
    rows = [[-1.0] * 5, [0.0] * 5, [1.0, 2.0, 3.0, 2.0, 1.0]]
    panels = figures.hedges_over_time([0.1, 0.5, 0.9], {"stock": rows, "call": rows}, resets)
    for axes, name in zip(drawn(panels, tmp_path / "figure.png"), ("stock", "call"), strict=True):
        assert axes.get_ylabel() == name
        assert_allclose(axes.lines[0].get_ydata(), 0.0)
        assert_allclose(heights(axes.collections[0]), [-1.0, 3.0])
        assert [line.get_xdata()[0] for line in axes.lines[1:]] == resets
