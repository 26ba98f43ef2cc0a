import math

import mpmath
import numpy as np
import pytest
import scipy.optimize
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.market.heston import Heston
from tfhedge.market.implied import black_price, black_vega, implied_volatility


def precise_black(volatility, spot, strike, maturity, is_call):
    """Black's formula without drift, in arithmetic of 50 digits."""
    with mpmath.workdps(50):
        spot, strike = mpmath.mpf(spot), mpmath.mpf(strike)
        deviation = volatility * mpmath.sqrt(mpmath.mpf(maturity))
        sign = 1 if is_call else -1
        d = sign * (mpmath.log(spot / strike) / deviation + deviation / 2)
        return sign * (spot * mpmath.ncdf(d) - strike * mpmath.ncdf(d - sign * deviation))


def log_uniform(rng, low, high, size):
    return np.exp(rng.uniform(math.log(low), math.log(high), size))


def out_of_the_money(num_options):
    """Options over all that the round trip promises."""
    rng = np.random.default_rng(0)
    volatility = log_uniform(rng, 0.01, 3.0, num_options)
    maturity = log_uniform(rng, 1 / 365, 15.0, num_options)
    deviations = rng.uniform(-3.0, 3.0, num_options)
    strike = 100.0 * np.exp(deviations * volatility * np.sqrt(maturity))
    return volatility, (100.0, strike, maturity, strike >= 100.0)


def vega(volatility, spot, strike, maturity):
    deviation = volatility * np.sqrt(maturity)
    d = np.log(spot / strike) / deviation + 0.5 * deviation
    return spot * np.sqrt(maturity) * np.exp(-0.5 * d**2) / np.sqrt(2.0 * np.pi)


def test_black_s_formula():
    volatility, option = out_of_the_money(500)
    columns = np.broadcast_arrays(volatility, *option)
    expected = [float(precise_black(*row)) for row in zip(*columns, strict=True)]
    assert_allclose(black_price(volatility, *option), expected, rtol=1e-11)


def test_vega_is_the_derivative_of_the_price():
    volatility, (spot, strike, maturity, is_call) = out_of_the_money(500)
    volatility = tf.constant(volatility)
    with tf.GradientTape() as tape:
        tape.watch(volatility)
        price = black_price(volatility, spot, strike, maturity, is_call)
    slope = tape.gradient(price, volatility) / spot
    assert_allclose(black_vega(volatility, np.log(strike / spot), maturity), slope, rtol=1e-10)


def test_volatilities_come_back():
    volatility, option = out_of_the_money(20_000)
    price = black_price(volatility, *option)
    rounding = 4.0 * np.spacing(price) / vega(volatility, *option[:3])
    error = np.abs(implied_volatility(price, *option) - volatility)
    assert np.all(error <= np.maximum(1e-9, rounding))


def test_volatilities_come_back_from_independent_prices():
    volatility, option = out_of_the_money(500)
    columns = np.broadcast_arrays(volatility, *option)
    price = np.array([float(precise_black(*row)) for row in zip(*columns, strict=True)])
    rounding = 4.0 * np.spacing(price) / vega(volatility, *option[:3])
    error = np.abs(implied_volatility(price, *option) - volatility)
    assert np.all(error <= np.maximum(1e-9, rounding))


def test_in_the_money_what_rounding_took_is_lost():
    volatility, (spot, strike, maturity, is_call) = out_of_the_money(10_000)
    option = (spot, strike, maturity, ~is_call)
    price = black_price(volatility, *option).numpy()
    intrinsic = np.abs(spot - strike)
    known = price - intrinsic > 100.0 * np.spacing(price + strike)
    rounding = 4.0 * np.spacing(price + strike) / vega(volatility, *option[:3])
    option = (spot, strike[known], maturity[known], ~is_call[known])
    error = np.abs(implied_volatility(price[known], *option) - volatility[known])
    assert known.mean() > 0.9
    assert np.all(error <= np.maximum(1e-9, 2.0 * rounding[known]))


@settings(max_examples=40)
@given(
    volatility=st.floats(0.05, 1.0),
    strike=st.floats(50.0, 200.0),
    maturity=st.floats(0.05, 5.0),
    is_call=st.booleans(),
    rate=st.floats(-0.05, 0.1),
    dividend_yield=st.floats(-0.05, 0.1),
)
def test_drift(volatility, strike, maturity, is_call, rate, dividend_yield):
    """Against Black's formula on the forward, and its inverse by a root finder."""
    drift = {"rate": rate, "dividend_yield": dividend_yield}
    price = black_price(volatility, 100.0, strike, maturity, is_call, **drift).numpy()
    forward = 100.0 * math.exp((rate - dividend_yield) * maturity)

    def undrifted(sigma):
        return math.exp(-rate * maturity) * float(
            precise_black(sigma, forward, strike, maturity, is_call)
        )

    assert_allclose(price, undrifted(volatility), rtol=0, atol=1e-12)
    if vega(volatility, forward, strike, maturity) > 1e-3:
        implied = implied_volatility(price, 100.0, strike, maturity, is_call, **drift)
        root = scipy.optimize.brentq(lambda sigma: undrifted(sigma) - price, 0.01, 2.0, xtol=1e-13)
        assert_allclose(implied, root, rtol=0, atol=1e-9)


@settings(max_examples=100)
@given(
    fraction=st.floats(0.0, 1.0, exclude_max=True) | st.floats(-300.0, 0.0).map(lambda x: 10.0**x),
    log_moneyness=st.floats(-30.0, 30.0) | st.floats(-1e-9, 1e-9),
)
def test_every_price_within_the_bounds_has_a_volatility(fraction, log_moneyness):
    strike = math.exp(log_moneyness)
    is_call = log_moneyness >= 0
    price = min(fraction, 1.0 - 1e-15) * min(strike, 1.0)
    volatility = implied_volatility(price, 1.0, strike, 1.0, is_call)
    assert np.isfinite(volatility)
    assert volatility >= 0
    if price > 1e-290:
        # As precise as its logarithm, and as a difference of two tails times a Gauss curve.
        back = black_price(volatility, 1.0, strike, 1.0, is_call)
        gauss = np.exp(-0.5 * (abs(math.log(strike)) / volatility - 0.5 * volatility) ** 2)
        atol = 1e-15 * min(strike, 1.0) * gauss
        assert_allclose(back, price, rtol=1e-13 * (1.0 - math.log(price)), atol=atol)


def test_the_lower_bound_is_no_volatility():
    for strike, is_call in ((90.0, True), (110.0, False), (110.0, True), (90.0, False)):
        intrinsic = max(100.0 - strike if is_call else strike - 100.0, 0.0)
        assert implied_volatility(intrinsic, 100.0, strike, 1.0, is_call) == 0
        assert black_price(0.0, 100.0, strike, 1.0, is_call) == intrinsic
        assert black_price(0.2, 100.0, strike, 0.0, is_call) == intrinsic


OUTSIDE = [
    (9.99, 100.0, 90.0, 1.0, True),
    (9.99, 100.0, 110.0, 1.0, False),
    (-1e-12, 100.0, 110.0, 1.0, True),
    (100.0, 100.0, 110.0, 1.0, True),
    (100.0, 100.0, 90.0, 1.0, True),
    (90.0, 100.0, 90.0, 1.0, False),
]


@pytest.mark.parametrize("arguments", OUTSIDE)
def test_prices_out_of_the_bounds(arguments):
    with pytest.raises(ValueError, match=r"`price` to keep the bounds .* Received: price="):
        implied_volatility(*arguments)


def test_prices_out_of_the_bounds_give_nan_in_a_graph():
    outside = [*OUTSIDE, (math.nan, 100.0, 90.0, 1.0, False)]
    columns = [
        np.array(column) for column in zip(*outside, (10.5, 100.0, 90.0, 1.0, True), strict=True)
    ]
    volatility = tf.function(implied_volatility)(*columns)
    assert_array_equal(np.isnan(volatility), [True] * len(outside) + [False])


def test_the_error_names_the_first_price_that_is_out_and_its_bounds():
    message = r"10\.0 <= price < 100\.0\. Received: price=9\.5"
    with pytest.raises(ValueError, match=message):
        implied_volatility([[10.5, 9.5], [10.6, 8.0]], 100.0, 90.0, 1.0, True)


@pytest.mark.parametrize(
    ("name", "value"), [("spot", 0.0), ("strike", -1.0), ("maturity", 0.0), ("maturity", math.inf)]
)
def test_bad_arguments(name, value):
    arguments = {"spot": 100.0, "strike": 100.0, "maturity": 1.0, name: [1.0, value]}
    with pytest.raises(ValueError, match=f"`{name}` to be positive numbers. Received: {value}"):
        implied_volatility(5.0, **arguments, is_call=True)


@pytest.mark.parametrize("name", ["price", "spot", "strike", "maturity", "rate", "dividend_yield"])
@pytest.mark.parametrize("value", [math.nan, "a", None, [1.0, None]])
def test_what_is_no_number_is_refused_by_name(name, value):
    option = {"price": 5.0, "spot": 100.0, "strike": 100.0, "maturity": 1.0, name: value}
    with pytest.raises(ValueError, match=rf"Expected `{name}` to be .* Received: .*{name}"):
        implied_volatility(**option, is_call=True)


@pytest.mark.parametrize("is_call", ["call", 1, None, [1.0, 0.0]])
def test_what_is_no_boolean_is_refused(is_call):
    with pytest.raises(ValueError, match=r"`is_call` to be True or False. Received: is_call="):
        implied_volatility(5.0, 100.0, 100.0, 1.0, is_call)


def test_shapes_that_do_not_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"is_call \(\), .* strike \(2,\), .* price \(3,\)"):
        implied_volatility([5.0] * 3, 100.0, [90.0, 100.0], 1.0, True)


def test_derivatives_are_those_of_the_implicit_function():
    strike = np.array([80.0, 100.0, 130.0])
    price = black_price(0.3, 100.0, strike, 0.5, True, rate=0.02)
    spot = tf.constant(100.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([price, spot])
        volatility = implied_volatility(price, spot, strike, 0.5, True, rate=0.02)
    by_price, by_spot = tape.gradient(volatility, [price, spot])
    step = 1e-4
    low, high = (
        implied_volatility(price + x, 100.0, strike, 0.5, True, rate=0.02) for x in (-step, step)
    )
    assert_allclose(by_price, (high - low) / (2.0 * step), rtol=1e-6)
    low, high = (
        implied_volatility(price, 100.0 + x, strike, 0.5, True, rate=0.02) for x in (-step, step)
    )
    assert_allclose(by_spot, np.sum((high - low) / (2.0 * step)), rtol=1e-6)


def test_derivatives_are_finite_at_the_bounds():
    price = tf.constant([-1.0, 0.0, 5.0, 100.0], tf.float64)

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(price)
            volatility = implied_volatility(price, 100.0, 110.0, 1.0, True)
        return tape.gradient(volatility, price)

    assert np.all(np.isfinite(gradient()))
    volatility, maturity = tf.zeros([], tf.float64), tf.zeros([], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([volatility, maturity])
        value = black_price(volatility, 100.0, 110.0, maturity, True)
    assert_array_equal(tape.gradient(value, [volatility, maturity]), [0.0, 0.0])


def test_arguments_broadcast():
    prices = black_price(np.full((4, 1), 0.2), 1.0, np.ones(3), 1.0, True)
    assert prices.shape == (4, 3)
    volatility = implied_volatility(prices, np.ones((2, 1, 1)), 1.0, 1.0, True)
    assert volatility.shape == (2, 4, 3)
    assert volatility.dtype == tf.float64


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("volatility", -0.2),
        ("spot", -1.0),
        ("strike", 0.0),
        ("maturity", -1.0),
        ("rate", np.nan),
        ("is_call", 1),
    ],
)
def test_black_price_of_what_cannot_be(name, value):
    arguments = {"volatility": 0.2, "spot": 1.0, "strike": 0.9, "maturity": 0.5, "is_call": True}
    with pytest.raises(ValueError, match=f"Expected `{name}` to be"):
        black_price(**arguments | {name: value})


def test_tensors_of_float32_are_numbers():
    price = black_price(0.2, tf.constant(1.0), 0.9, 0.5, True)
    assert_allclose(price, black_price(0.2, 1.0, 0.9, 0.5, True), rtol=1e-12)
    market, strike = Heston.from_paper(), tf.constant(0.5)
    assert_allclose(
        market.vanilla_price(strike, 0.5, False), market.vanilla_price(0.5, 0.5, False), rtol=1e-12
    )
