"""Small hedgers, and what they were exported to."""

import dataclasses

import numpy as np
import pytest

import tfhedge as th

PROBLEM = th.HedgingProblem(
    market=th.Heston(spot=80.0, v0=0.0625, kappa=8.0, theta=0.0625, xi=1.0, rho=-0.7),
    claim=th.Cliquet(num_periods=2, period=3, cap=0.015),
    instruments=th.FloatingGrid(maturities=(3, 2), strikes=(1.01, 1.0)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)
CONTRACTS = th.FixedGrid(expiries=(3, 6), strikes=(1.01, 1.0), is_call=(True, False))
FIXED = dataclasses.replace(PROBLEM, instruments=CONTRACTS)
CASES = {
    "floating grid": (PROBLEM, lambda: th.RecurrentPolicy(3, num_blocks=2)),
    "fixed grid": (FIXED, lambda: th.RecurrentPolicy(3, num_blocks=1)),
    "feed-forward": (PROBLEM, lambda: th.DensePolicy(3, num_blocks=1)),
    "blind to its actions": (PROBLEM, lambda: th.RecurrentPolicy(3, 1, observes="nothing")),
}


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    """Hedgers with large weights, and the folders with their version 1, by name."""
    known = {}

    def make(name):
        if name not in known:
            problem, policy = CASES[name]
            hedger = th.DeepHedger(problem, policy())
            rng = np.random.default_rng(0)
            hedger.set_weights([rng.normal(0.0, 0.25, w.shape) for w in hedger.weights])
            base = tmp_path_factory.mktemp("saved") / "models" / "cliquet"
            assert th.export(hedger, base, training={"seed": 3}) == base / "1"
            known[name] = hedger, base
        return known[name]

    return make


@pytest.fixture(scope="module", params=CASES)
def case(request, cases):
    """A hedger and its folder, each in turn."""
    return cases(request.param)


@pytest.fixture(scope="module")
def hedger(case):
    """The hedger."""
    return case[0]


@pytest.fixture(scope="module")
def base(case):
    """The folder with its version 1."""
    return case[1]


@pytest.fixture(scope="module")
def paths(hedger):
    """A function that makes paths as they are observed at the trading times."""
    return lambda num_paths: [x[:, :-1].numpy() for x in hedger.problem.simulate(num_paths, seed=3)]
