"""The robustness experiment: its claims, its design, and how it judges."""

import itertools

import claims
import numpy as np
import pytest

NUM_STEPS = 24
DATES = range(6, 25, 6)
CLAIMS = {
    claims.Call(NUM_STEPS, 1.0): lambda x: max(x[-1] - 1.0, 0.0),
    claims.CallSpread(NUM_STEPS, 0.98, 1.04): lambda x: (
        max(x[-1] - 0.98, 0.0) - max(x[-1] - 1.04, 0.0)
    ),
    claims.Digital(NUM_STEPS, 1.02): lambda x: float(x[-1] >= 1.02),
    claims.AsianCall(NUM_STEPS, 1.0): lambda x: max(sum(x[1:]) / NUM_STEPS - 1.0, 0.0),
    claims.UpAndOutCall(NUM_STEPS, 1.0, 1.1): lambda x: (
        0.0 if max(x) >= 1.1 else max(x[-1] - 1.0, 0.0)
    ),
    claims.LookbackCall(NUM_STEPS, 1.01): lambda x: max(max(x) - 1.01, 0.0),
    claims.VarianceSwap(NUM_STEPS, 0.06): lambda x: (
        250.0 / NUM_STEPS * sum(np.log(b / a) ** 2 for a, b in itertools.pairwise(x)) - 0.06
    ),
    claims.Autocallable(4, 6, 1.01, 0.95, 0.02): lambda x: next(
        (0.02 * j for j, t in enumerate(DATES, start=1) if x[t] >= 1.01),
        x[-1] - 1.0 if x[-1] < 0.95 else 0.0,
    ),
    claims.NotionalCliquet(3, 8, 0.02): lambda x: max(
        sum(min(x[t] / x[t - 8] - 1.0, 0.02) for t in (8, 16, 24)), 0.0
    ),
}


@pytest.fixture(scope="module")
def paths():
    returns = np.random.default_rng(0).normal(0.0, 0.02, [200, NUM_STEPS])
    return np.exp(np.pad(np.cumsum(returns, axis=1), [(0, 0), (1, 0)]))


def features(claim, spot):
    return claim.features_at(np.arange(NUM_STEPS), spot, **claim.observables(spot)).numpy()


def of_claims(test):
    return pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: type(claim).__name__)(test)


@of_claims
def test_payoff_is_that_of_a_loop_over_paths(claim, paths):
    expected = [CLAIMS[claim](list(path)) for path in paths]
    assert np.mean(np.array(expected) != 0.0) > 0.05
    np.testing.assert_allclose(claim.payoff(paths), expected, rtol=1e-10, atol=1e-12)


@of_claims
def test_payoff_is_proportional_to_the_notional(claim, paths):
    arguments = claim.get_config() | {"notional": 100.0}
    large = type(claim).from_config(arguments).payoff(paths)
    np.testing.assert_allclose(large, 100.0 * claim.payoff(paths), rtol=1e-10)


@of_claims
def test_features_know_nothing_of_later_prices(claim, paths):
    before = features(claim, paths[:, :-1])
    for step in range(NUM_STEPS - 1):
        changed = paths[:, :-1].copy()
        changed[:, step + 1 :] = paths[::-1, step + 1 : -1]
        after = features(claim, changed)
        np.testing.assert_array_equal(after[:, : step + 1], before[:, : step + 1])
        assert np.any(after[:, step + 1] != before[:, step + 1])


@of_claims
def test_features_are_finite_on_a_path_that_stays(claim):
    assert np.isfinite(features(claim, np.ones([3, NUM_STEPS]))).all()


@of_claims
def test_features_of_one_time_are_those_of_the_path(claim, paths):
    spot, step = paths[:, :-1], 13
    now = {name: x[:, step] for name, x in claim.observables(spot).items()}
    one = claim.features_at(step, spot[:, step], **now)
    np.testing.assert_allclose(one, features(claim, spot)[:, step], rtol=1e-12)


def test_invalid_numbers_of_a_claim_are_refused():
    with pytest.raises(ValueError, match="Expected `strike` to be a positive number"):
        claims.Call(NUM_STEPS, -1.0)
    with pytest.raises(ValueError, match="Expected `num_steps` to be a positive integer"):
        claims.Call(24.0, 1.0)
    with pytest.raises(ValueError, match="Expected `notional` to be a positive number"):
        claims.NotionalCliquet(3, 8, 0.02, notional=0.0)
