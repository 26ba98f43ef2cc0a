"""The curvature report: every weight in it, and numbers that are those of the blocks."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import tfhedge as th


@pytest.fixture(scope="module")
def hedger():
    problem = th.HedgingProblem(
        market=th.Heston.from_paper(),
        claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
        instruments=th.FloatingGrid(maturities=(2,), strikes=(1.01,)),
        objective=th.MeanVariance(risk_aversion=1000.0),
    )
    return th.DeepHedger(problem, th.RecurrentPolicy(units=3, num_blocks=2))


def test_each_weight_is_in_one_block_and_its_treatment_is_said(hedger):
    hedger.compile(optimizer=th.DHKFAC(shrinkage=0.1))
    hedger.fit(hedger.problem.dataset(64, 32), verbose=0)
    hedger.optimizer.damping.assign(2.0)  # as after a rejected step
    report = hedger.curvature_report()
    paths = [path for block in report.blocks for path in block.weights]
    assert paths == [weight.path for weight in hedger.trainable_variables]
    kinds = {block.treatment for block in report.blocks if "scale" in block.weights[0]}
    assert kinds == {"diagonal"}
    assert sum(block.treatment.startswith("Kronecker") for block in report.blocks) == 4
    assert sum(block.size for block in report.blocks) == hedger.count_params()
    all_D = np.concatenate([block.diagonal.numpy().ravel() for block in hedger.optimizer.blocks])
    for row, block in zip(report.blocks, hedger.optimizer.blocks, strict=True):
        D = block.diagonal.numpy()
        assert_allclose([row.largest, row.mean, row.smallest], [D.max(), D.mean(), D.min()], 1e-6)
        shrunk = 0.8 * D + 0.2 * (D.mean() + 0.9**2 * all_D.mean())  # after two steps
        assert_allclose(row.condition, shrunk.max() / shrunk.min(), rtol=1e-5)
        assert np.isfinite(row.condition)
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(paths)
    assert all(path in line for path, line in zip(paths, lines[1:], strict=True))


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam(), th.DHKFAC()], ids=["adam", "new"])
def test_there_is_none_without_curvature(hedger, optimizer):
    hedger.compile(optimizer=optimizer)
    with pytest.raises(ValueError, match=r"trained by `DHKFAC`\. Received: optimizer="):
        hedger.curvature_report()
