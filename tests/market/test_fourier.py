import math

import numpy as np
import pytest
import QuantLib as ql
import scipy.stats
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tfhedge.market.fourier import vanilla_price
from tfhedge.market.heston import Heston


@pytest.mark.parametrize(
    ("days", "strike", "is_call", "expected"),
    [
        (10, 1.01, True, 0.014474076464),
        (20, 1.01, True, 0.021858347721),
        (40, 1.0, False, 0.037627887374),
        (120, 0.85, False, 0.019232681202),
    ],
)
def test_reference_prices_of_the_paper_s_market(days, strike, is_call, expected):
    price = vanilla_price(Heston.from_paper(), 0.0625, math.log(strike), days / 250, is_call)
    assert_allclose(price, expected, rtol=0, atol=1e-12)


def test_reference_prices_of_andersen_s_first_case():
    market = Heston(spot=100.0, v0=0.04, kappa=0.5, theta=0.04, xi=1.0, rho=-0.9)
    prices = 100.0 * vanilla_price(market, 0.04, np.log([0.6, 1.0, 1.4]), 10.0, True)
    assert_allclose(prices, [44.3299750702, 13.0846701370, 0.2957744358], rtol=0, atol=1e-9)


def quantlib_price(market, variance, log_moneyness, days, is_call):
    today = ql.Date(1, 1, 2020)
    ql.Settings.instance().evaluationDate = today
    flat = ql.YieldTermStructureHandle(ql.FlatForward(today, 0.0, ql.Actual365Fixed()))
    spot = ql.QuoteHandle(ql.SimpleQuote(1.0))
    parameters = (variance, market.kappa, market.theta, market.xi, market.rho)
    model = ql.HestonModel(ql.HestonProcess(flat, flat, spot, *parameters))
    kind = ql.Option.Call if is_call else ql.Option.Put
    payoff = ql.PlainVanillaPayoff(kind, math.exp(log_moneyness))
    option = ql.VanillaOption(payoff, ql.EuropeanExercise(today + days))
    option.setPricingEngine(ql.AnalyticHestonEngine(model, 1e-13, 1_000_000))
    return option.NPV()


def log_floats(low, high):
    return st.floats(math.log(low), math.log(high)).map(math.exp)


@settings(max_examples=100)
@given(
    market=st.builds(
        Heston,
        spot=st.just(1.0),
        v0=st.just(0.04),
        kappa=log_floats(0.3, 10.0),
        theta=log_floats(0.01, 0.3),
        xi=log_floats(0.05, 2.0),
        rho=st.floats(-0.95, 0.95),
    ),
    variance=log_floats(1e-6, 2.0),
    log_moneyness=st.floats(-0.3, 0.3),
    days=st.integers(10, 365),
    is_call=st.booleans(),
)
def test_quantlib_agrees(market, variance, log_moneyness, days, is_call):
    price = vanilla_price(market, variance, log_moneyness, days / 365, is_call)
    expected = quantlib_price(market, variance, log_moneyness, days, is_call)
    assert_allclose(price, expected, rtol=0, atol=1e-9)


def test_black_scholes_is_the_limit_of_constant_variance():
    market = Heston(spot=1.0, v0=0.04, kappa=2.0, theta=0.04, xi=1e-5, rho=-0.5)
    k, maturity, deviation = np.linspace(-0.2, 0.2, 9), 0.5, 0.2 * math.sqrt(0.5)
    d = -k / deviation + 0.5 * deviation
    expected = scipy.stats.norm.cdf(d) - np.exp(k) * scipy.stats.norm.cdf(d - deviation)
    assert_allclose(vanilla_price(market, 0.04, k, maturity, True), expected, rtol=0, atol=1e-6)


VARIANCES = np.array([0.0, 1e-6, 1e-3, 0.0625, 0.5, 2.0])[:, np.newaxis, np.newaxis]
MATURITIES = np.array([10, 20, 40, 80, 120])[:, np.newaxis] / 250
MONEYNESS = np.log([0.85, 0.95, 1.0, 1.01, 1.15])


def test_prices_keep_the_bounds_that_hold_without_arbitrage():
    market = Heston.from_paper()
    call, put = (
        vanilla_price(market, VARIANCES, MONEYNESS, MATURITIES, is_call).numpy()
        for is_call in (True, False)
    )
    strike = np.exp(MONEYNESS)
    assert call.shape == (6, 5, 5)
    assert call.dtype == np.float64
    assert_allclose(call - put, np.broadcast_to(1.0 - strike, call.shape), rtol=0, atol=1e-14)
    assert np.all(call > np.maximum(1.0 - strike, 0.0) - 1e-14)
    assert np.all(np.diff(call, axis=0) > 0)  # in the variance
    assert np.all(np.diff(call, axis=1) > 0)  # in the maturity
    assert np.all(np.diff(call, axis=2) < 0)  # in the strike


def test_one_trace_serves_all_values():
    traces = []

    @tf.function
    def price(variance):
        traces.append(variance)
        return vanilla_price(Heston.from_paper(), variance, 0.0, 0.04, True)

    values = [price(tf.constant(v, tf.float64)) for v in (0.0, 0.01, 2.0)]
    assert len(traces) == 1
    assert_allclose(values, vanilla_price(Heston.from_paper(), [0.0, 0.01, 2.0], 0.0, 0.04, True))
