"""Every claim against loops written from its definition; a new claim is one more row in CASES."""

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.hedging.claims import Cliquet


def cliquet_return(claim, x, t):
    """The sum of capped returns up to step t, of which the last period may be unfinished."""
    total = 0.0
    for j in range(claim.num_periods):
        start, end = j * claim.period, min((j + 1) * claim.period, t)
        if end > start:
            total += min(x[end] / x[start] - 1.0, claim.cap)
    return total


def cliquet_payoff(claim, x):
    return max(cliquet_return(claim, x, claim.num_steps), 0.0)


def cliquet_features(claim, x, t):
    gone, left = t % claim.period, claim.period - t % claim.period
    clock = [t / claim.num_steps, gone / claim.period, math.sqrt(left / claim.period)]
    clock.append(1.0 if gone == 0 else 0.0)
    growth = x[t] / x[t - gone]
    over_cap = math.log(growth / (1.0 + claim.cap)) / math.sqrt(left / claim.period)
    moneyness = [math.log(growth), math.asinh(over_cap / claim.cap)]
    ended = cliquet_return(claim, x, t - gone)
    return [*clock, *moneyness, ended, max(cliquet_return(claim, x, t), 0.0)]


@dataclasses.dataclass
class Case:
    claim: object
    payoff: Callable  # of claim and path
    features: Callable  # of claim, path and time
    bad: dict  # argument: values that are refused


NOT_A_COUNT = [0, -1, 2.5, True, "1", None]
NOT_POSITIVE = [0.0, -0.01, math.nan, math.inf, "0.01", None]
CASES = {
    name: Case(
        Cliquet(num_periods, period, cap),
        cliquet_payoff,
        cliquet_features,
        {"num_periods": NOT_A_COUNT, "period": NOT_A_COUNT, "cap": NOT_POSITIVE},
    )
    for name, num_periods, period, cap in [
        ("cliquet", 4, 5, 0.015),
        ("cliquet of one period", 1, 6, 0.02),
        ("cliquet with daily resets", 7, 1, 0.01),
        ("uncapped cliquet", 3, 2, 10.0),
    ]
}
BAD = [
    pytest.param(case.claim, name, value, id=f"{key}-{name}={value}")
    for key, case in CASES.items()
    for name, values in case.bad.items()
    for value in values
]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def paths(claim, num_paths, seed=0, volatility=0.02):
    steps = np.random.default_rng(seed).normal(0.0, volatility, [num_paths, claim.num_steps])
    return 100.0 * np.exp(np.cumsum(np.pad(steps, [(0, 0), (1, 0)]), axis=1))


def assert_equals_loops(case, claim, spot):
    expected = [case.payoff(claim, x) for x in spot]
    assert_allclose(claim.payoff(spot), expected, rtol=1e-12, atol=1e-14)
    times = range(claim.num_steps)
    expected = [[case.features(claim, x, t) for t in times] for x in spot]
    assert_allclose(claim.features(spot), expected, rtol=1e-12, atol=1e-13)


@every_case
def test_payoff_and_features_equal_loops_over_the_definition(case):
    spot = paths(case.claim, 200)
    assert 0.05 < np.mean(case.claim.payoff(spot) > 0.0) < 0.95  # both sides of the floor
    assert_equals_loops(case, case.claim, spot)


@settings(max_examples=40)
@given(
    num_periods=st.integers(1, 5),
    period=st.integers(1, 6),
    cap=st.floats(1e-3, 1.0),
    num_paths=st.integers(1, 3),
    volatility=st.sampled_from([1e-4, 0.02, 0.5]),
    seed=st.integers(0, 2**32),
)
def test_cliquets_of_any_shape_equal_loops(num_periods, period, cap, num_paths, volatility, seed):
    claim = Cliquet(num_periods, period, cap)
    assert_equals_loops(CASES["cliquet"], claim, paths(claim, num_paths, seed, volatility))


@every_case
def test_features_do_not_look_ahead(case):
    spot = paths(case.claim, 3)
    features = case.claim.features(spot)
    assert_array_equal(case.claim.features(spot[:, :-1]), features)
    for t in range(case.claim.num_steps):
        other = np.where(np.arange(spot.shape[1]) > t, paths(case.claim, 3, seed=1), spot)
        assert_array_equal(case.claim.features(other)[:, : t + 1], features[:, : t + 1])


@every_case
def test_a_graph_in_float32_serves_every_number_of_paths(case):
    traces = []

    @tf.function(reduce_retracing=True)
    def both(spot):
        traces.append(spot)
        return case.claim.payoff(spot), case.claim.features(spot)

    spec = tf.TensorSpec([None, case.claim.num_steps + 1], tf.float32)
    graph = both.get_concrete_function(spec)
    for num_paths in (1, 2, 5):
        spot = paths(case.claim, num_paths)
        for value, expected in zip(
            graph(tf.constant(spot, tf.float32)),
            (case.claim.payoff(spot), case.claim.features(spot)),
            strict=True,
        ):
            assert value.dtype == tf.float32
            assert value.shape == expected.shape
            assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1


@every_case
def test_payoffs_have_finite_gradients(case):
    spot = tf.constant(np.concatenate([paths(case.claim, 5), np.ones_like(paths(case.claim, 1))]))
    with tf.GradientTape() as tape:
        tape.watch(spot)
        payoff = case.claim.payoff(spot)
    assert np.all(np.isfinite(tape.gradient(payoff, spot)))


@pytest.mark.parametrize(("claim", "name", "value"), BAD)
def test_bad_arguments_are_refused(claim, name, value):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be a positive .*{name}={value!r}"):
        dataclasses.replace(claim, **{name: value})


def test_the_claim_of_the_paper():
    claim = Cliquet.from_paper()
    assert claim == Cliquet(num_periods=12, period=20, cap=0.015)
    assert claim.num_steps == 240


@pytest.mark.parametrize("shape", [(3, 8), (3, 10), (9,), (3, 9, 1)])
def test_a_path_of_another_length_pays_nothing(shape):
    with pytest.raises(ValueError, match=r"Expected `spot` to be of shape \[num_paths, 9\]"):
        Cliquet(num_periods=2, period=4, cap=0.015).payoff(np.ones(shape))


def test_numbers_of_numpy_become_those_of_python():
    cliquet = Cliquet(np.int64(2), np.int32(4), np.float32(0.5))
    assert json.dumps(dataclasses.astuple(cliquet)) == "[2, 4, 0.5]"
