"""A hedging problem: its episodes in batches of any size, its accounts, its market's fairness."""

import dataclasses
import itertools
import math
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.hedging.claims import Cliquet
from tfhedge.hedging.instruments import FixedGrid, FloatingGrid
from tfhedge.hedging.objectives import MeanVariance
from tfhedge.hedging.problem import HedgingProblem
from tfhedge.market.heston import Heston


def small_problem(num_periods=3, period=3, **options):
    return HedgingProblem(
        market=Heston.from_paper(),
        claim=Cliquet(num_periods, period, cap=0.015),
        instruments=FloatingGrid((3, 1, 20), (1.01, 1.0, 0.97)),
        objective=MeanVariance(risk_aversion=1000.0),
        **options,
    )


CONTRACTS = FixedGrid((4, 9, 15), (1.0, 1.02, 0.97), (True, True, False))
SMALL, PAPER = small_problem(), HedgingProblem.from_paper()
NOT_A_COUNT = st.integers(max_value=0) | st.floats() | st.booleans() | st.none() | st.text()


def concatenated(dataset):
    batches = [tf.nest.flatten(batch) for batch in dataset]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize(("num_paths", "batch_size"), [(6, 3), (7, 3), (2, 5), (300, 128)])
def test_batches_are_the_parts_of_one_big_episode(num_paths, batch_size):
    """Path i is path i of the seed, in whatever batch; the last batch may be smaller."""
    dataset = SMALL.dataset(num_paths, batch_size, seed=(3, 4))
    sizes = [len(payoff) for _, (_, payoff) in dataset]
    rest = num_paths % batch_size
    assert sizes == [batch_size] * (num_paths // batch_size) + [rest] * bool(rest)
    assert len(dataset) == len(sizes)
    expected = tf.nest.flatten(SMALL.episodes(num_paths, seed=(3, 4)))
    for part, whole in zip(concatenated(dataset), expected, strict=True):
        assert_allclose(part, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first_batch", [0, 1, 2])
def test_a_dataset_can_begin_at_any_batch(first_batch):
    later = list(SMALL.dataset(7, 3, seed=(3, 4), first_batch=first_batch))
    expected = list(SMALL.dataset(7, 3, seed=(3, 4)))[first_batch:]
    for part, whole in zip(tf.nest.flatten(later), tf.nest.flatten(expected), strict=True):
        assert_array_equal(part, whole)
    with pytest.raises(ValueError, match="Expected `first_batch` to be an integer from 0 to 2"):
        SMALL.dataset(7, 3, first_batch=3)


def test_a_dataset_is_traced_once_for_all_its_batches_and_epochs():
    with mock.patch.object(
        HedgingProblem, "episodes", autospec=True, side_effect=HedgingProblem.episodes
    ) as episodes:
        dataset = SMALL.dataset(20, 5)
        assert sum(1 for _ in dataset.repeat(2)) == 8
    assert episodes.call_count == 1


@pytest.mark.parametrize("first_path", [1, 5, 200])
def test_episodes_can_begin_at_any_path(first_path):
    later = SMALL.episodes(3, seed=8, first_path=first_path)
    whole = SMALL.episodes(first_path + 3, seed=8)
    for part, all_of_it in zip(tf.nest.flatten(later), tf.nest.flatten(whole), strict=True):
        assert_allclose(part, all_of_it[first_path:], rtol=1e-5, atol=1e-6)


def test_seeds_tell_streams_apart():
    spots = [SMALL.simulate(4, seed)[0][:, -1] for seed in (0, (0, 0), (0, 1), 1, (1, 1))]
    assert_array_equal(spots[0], spots[1])
    assert len(np.unique(spots[1:])) == 16


def test_returns_and_payoff_are_those_of_the_paths():
    spot, variance = SMALL.simulate(5, seed=2)
    features, (returns, payoff) = SMALL.episodes(5, seed=2)
    assert_allclose(payoff, SMALL.claim.payoff(spot), rtol=1e-6)
    premiums = SMALL.instruments.premiums(SMALL.market, SMALL.dt)(spot, variance)
    assert_allclose(returns, SMALL.instruments.returns(spot, premiums), rtol=1e-5, atol=1e-7)
    assert_allclose(features, SMALL.features(spot, variance), rtol=1e-5, atol=1e-6)
    observed = SMALL.features(spot[:, :-1], variance[:, :-1])  # the last prices come too late
    assert_allclose(observed, features, rtol=1e-5, atol=1e-6)


def test_features_are_affine_in_those_of_the_claim_the_log_spot_and_the_volatility():
    spot, variance = (x[:, :-1] for x in SMALL.simulate(2000, seed=2))
    market = np.stack([np.log(spot), np.sqrt(variance)], axis=-1)
    raw = np.concatenate([SMALL.claim.features(spot), market], axis=-1)
    features = SMALL.features(spot, variance)
    for i in range(raw.shape[-1]):
        slope, offset = np.polyfit(raw[..., i].ravel(), features[..., i].numpy().ravel(), 1)
        assert slope > 0
        assert_allclose(features[..., i], slope * raw[..., i] + offset, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "problem",
    [
        PAPER,
        SMALL,
        small_problem(period=1, num_periods=200),
        small_problem(period=2, num_periods=100),
    ],
    ids=["paper", "small", "daily resets", "resets every other day"],
)
def test_features_are_of_order_one(problem):
    features, _ = problem.episodes(4096, seed=11)
    mean, variance = tf.nn.moments(features, axes=[0, 1])
    assert_allclose(mean, np.zeros_like(mean), rtol=0, atol=0.1)
    std = np.sqrt(variance)
    assert_allclose(std[std > 1e-3], 1.0, rtol=0.2)  # the others are constant


def test_pnl_and_cost_equal_loops():
    rng = np.random.default_rng(0)
    shape = [3, SMALL.num_steps, SMALL.num_instruments]
    actions, returns = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    payoff = rng.uniform(size=3).astype(np.float32)
    pnl, cost = -payoff.astype(np.float64), np.zeros(3)
    for n, t, i in np.ndindex(*shape):
        pnl[n] += actions[n, t, i] * returns[n, t, i]
        cost[n] += (1e-4 if i == 0 else 1e-2) * abs(actions[n, t, i])
    assert_allclose(SMALL.pnl(actions, returns, payoff), pnl, rtol=1e-5, atol=1e-5)
    assert_allclose(SMALL.cost(actions), cost, rtol=1e-5)


def test_the_problem_of_the_paper():
    assert (PAPER.num_steps, PAPER.num_instruments, PAPER.dt) == (240, 20, 1 / 250)
    assert PAPER.objective == MeanVariance(risk_aversion=1000.0)
    assert_array_equal(PAPER.availability, PAPER.instruments.availability(240))


@given(name=st.sampled_from(["num_paths", "batch_size"]), value=NOT_A_COUNT)
def test_bad_sizes_are_refused(name, value):
    arguments = {"num_paths": 4, "batch_size": 2, name: value}
    with pytest.raises(ValueError, match=f"Expected `{name}` to be a positive integer. Received"):
        SMALL.dataset(**arguments)


@pytest.mark.parametrize("dt", [0.0, -1 / 250, math.nan, None])
def test_bad_time_steps_are_refused(dt):
    with pytest.raises(ValueError, match=f"`dt` to be a positive number. Received: dt={dt}"):
        small_problem(dt=dt)


@pytest.mark.parametrize("grid", [SMALL.instruments, CONTRACTS], ids=["floating", "fixed"])
def test_the_unit_of_the_spot_does_not_matter(grid):
    cheap = dataclasses.replace(SMALL, instruments=grid)
    dear = dataclasses.replace(cheap, market=dataclasses.replace(SMALL.market, spot=128.0))
    for x, y in zip(*(tf.nest.flatten(p.episodes(50, seed=3)) for p in (cheap, dear)), strict=True):
        assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grid", [CONTRACTS, SMALL.instruments], ids=["fixed", "floating"])
@pytest.mark.parametrize("drift", [(0.0, 0.0), (0.5, 0.2)], ids=["no drift", "drift"])
def test_instruments_are_fair(grid, drift):
    """Bought at any time, none of them gains on average: simulation and pricing agree."""
    market = dataclasses.replace(SMALL.market, rate=drift[0], dividend_yield=drift[1])
    problem = dataclasses.replace(SMALL, market=market, instruments=grid)
    _, (returns, _) = problem.episodes(50_000, seed=3)
    returns = np.float64(returns)
    mean, error = returns.mean(axis=0), returns.std(axis=0) / math.sqrt(len(returns))
    assert_array_equal(error > 0.0, problem.availability > 0.0)
    assert np.all(np.abs(mean) <= 4.5 * error)


def test_amounts_are_discounted():
    market = dataclasses.replace(SMALL.market, rate=0.5, dividend_yield=0.2)
    problem = dataclasses.replace(SMALL, market=market)
    spot, _ = problem.simulate(5, seed=3)
    _, (_, payoff) = problem.episodes(5, seed=3)
    assert_allclose(payoff, math.exp(-0.5 * 9 / 250) * SMALL.claim.payoff(spot), rtol=1e-6)
    actions = np.zeros([1, 9, 4], np.float32)
    actions[0, 6] = [1.0, -2.0, 0.0, 3.0]
    expected = math.exp(-0.5 * 6 / 250) * (1e-4 + 5e-2)
    assert_allclose(problem.cost(actions), [expected], rtol=1e-6)


def test_the_market_of_the_paper_is_fair_and_its_claim_worth_what_it_is():
    """No instrument gains on average; payoff and risk are those of other implementations."""
    num_paths, chunk_size = 240_000, 8000
    num_trades = PAPER.availability.sum(axis=0)

    @tf.function(autograph=False)
    def chunk(first_path):
        _, (returns, payoff) = PAPER.episodes(chunk_size, (7, 0), first_path)
        return tf.reduce_sum(returns, axis=1) / num_trades, payoff

    chunks = [chunk(tf.constant(i, tf.int64)) for i in range(0, num_paths, chunk_size)]
    gains, payoff = (np.concatenate(x).astype(np.float64) for x in zip(*chunks, strict=True))
    assert np.all(np.abs(gains.mean(axis=0)) < 4.0 * gains.std(axis=0) / math.sqrt(num_paths))
    assert_allclose(payoff.mean(), 0.00624, rtol=0, atol=0.0001)
    no_hedge = PAPER.objective.loss(-payoff, np.zeros_like(payoff))
    assert_allclose(no_hedge, 0.453, rtol=0, atol=0.008)


def test_paths_of_another_length_or_with_impossible_prices_are_refused():
    spot, variance = SMALL.simulate(4, seed=1)
    expected = SMALL.episodes(4, seed=1)
    found = SMALL.episodes_along(np.float64(spot), np.float64(variance))
    for x, y in zip(*map(tf.nest.flatten, (found, expected)), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="Expected spot and variance of shape"):
        SMALL.episodes_along(spot[:, :-1], variance[:, :-1])
    with pytest.raises(ValueError, match="Expected `spot` to be positive numbers"):
        SMALL.episodes_along(-spot, variance)
    with pytest.raises(ValueError, match=r"at the market's spot, 1.0. Received one .* 100"):
        SMALL.episodes_along(np.concatenate([spot, 100.0 * spot]), np.tile(variance, [2, 1]))
    with pytest.raises(ValueError, match=r"annual variances of at most 2.59 in this market"):
        SMALL.dataset_along(spot, 1e4 * variance, batch_size=2)


def test_parts_of_other_shapes_are_refused():
    features, (returns, payoff) = SMALL.episodes(4, seed=1)
    for wrong in ((returns, returns, payoff[:, None]), (returns, returns, payoff[:1])):
        with pytest.raises(ValueError, match=r"Expected `payoff` to be of shape \[4\]"):
            SMALL.pnl(*wrong)
    with pytest.raises(ValueError, match=r"Expected `returns` to be of shape \[4, "):
        SMALL.pnl(returns, returns[:3], payoff)
    with pytest.raises(ValueError, match=r"Expected `actions` to be of shape \[num_paths, "):
        SMALL.cost(returns[0])
    spot, variance = SMALL.simulate(4, seed=1)
    assert_array_equal(SMALL.features(spot.numpy().tolist(), variance.numpy()), features)
    for wrong in (spot[:, :3], tf.concat([spot, spot], axis=1), spot[0], spot[:1]):
        with pytest.raises(ValueError, match=r"Expected `.*` to be of shape"):
            SMALL.features(wrong, variance)


@pytest.mark.parametrize("seed", [None, "x", 1.5, np.array([1, 2])])
def test_seeds_are_integers(seed):
    with pytest.raises(ValueError, match="Expected `seed` to be two integers"):
        SMALL.simulate(4, seed)


def test_parts_in_the_place_of_others_are_refused():
    parts = [PAPER.market, PAPER.claim, PAPER.instruments, PAPER.objective]
    for first, second in itertools.combinations(range(4), 2):
        swapped = list(parts)
        swapped[first], swapped[second] = parts[second], parts[first]
        with pytest.raises(ValueError, match="Expected `"):
            HedgingProblem(*swapped)
    for i, other in ((0, Heston), (1, Cliquet), (1, PayoffAlone()), (3, MeanVariance)):
        with pytest.raises(ValueError, match="Expected `"):
            HedgingProblem(*parts[:i], other, *parts[i + 1 :])


class PayoffAlone:
    def payoff(self, spot):
        return spot[:, -1]
