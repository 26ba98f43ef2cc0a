"""A claim of another notional is hedged in the same way, in other units."""

import dataclasses

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

import tfhedge as th
from tfhedge.serving.signatures import Signatures


@dataclasses.dataclass(frozen=True)
class LargeCliquet(th.Cliquet):
    notional: float = 1.0

    def payoff(self, spot):
        return self.notional * super().payoff(spot)


def new_problem(notional, objective):
    return th.HedgingProblem(
        th.Heston.from_paper(),
        LargeCliquet(2, 3, 0.015, notional),
        th.FloatingGrid(maturities=(3,), strikes=(1.0,)),
        objective,
    )


def trained(problem, controls):
    keras.utils.set_random_seed(0)
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(4, 1, dtype="float64"), controls)
    hedger.compile(th.DHKFAC())
    history = hedger.fit(problem.dataset(640, 64, seed=1), verbose=0).history
    return hedger, history["loss"][-1]


@pytest.mark.parametrize("controls", ["positions", "trades"])
@pytest.mark.parametrize("objective", [th.MeanVariance, th.EntropicRisk])
def test_training_is_the_same_in_other_units(objective, controls):
    """With a risk aversion per unit of P&L: variance and costs then grow alike."""
    (one, loss), (many, large_loss) = (
        trained(new_problem(notional, objective(50.0 / notional)), controls)
        for notional in (1.0, 64.0)
    )
    assert large_loss == pytest.approx(64.0 * loss, rel=1e-4)
    for x, y in zip(many.get_weights(), one.get_weights(), strict=True):
        assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    features, _ = one.problem.episodes(8, seed=2)
    assert_allclose(many.predict(features, verbose=0), 64.0 * one(features), rtol=2e-3, atol=1e-4)


def test_trades_are_served_for_the_whole_notional():
    problem = new_problem(64.0, th.MeanVariance(1.0))
    hedger = th.DeepHedger(problem, th.RecurrentPolicy(4, 1))
    rng = np.random.default_rng(0)
    hedger.set_weights([w + rng.normal(0.0, 0.3, w.shape) for w in hedger.get_weights()])
    spot, variance = problem.simulate(3, seed=1)
    served = Signatures(hedger).rollout(spot=spot[:, :-1], variance=variance[:, :-1])
    features, _ = problem.episodes(3, seed=1)
    assert_allclose(served["action"], hedger(features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("notional", [0.0, -1.0, float("nan"), "1"])
def test_a_notional_that_is_not_positive_is_refused(notional):
    with pytest.raises(ValueError, match="Expected `notional` to be a positive number"):
        th.DeepHedger(new_problem(notional, th.MeanVariance(1.0)), th.RecurrentPolicy(4, 1))
