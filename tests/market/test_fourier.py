import dataclasses
import math

import mpmath
import numpy as np
import pytest
import QuantLib as ql
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.market.fourier import heston_price, vanilla_price
from tfhedge.market.heston import Heston
from tfhedge.market.implied import black_price

LEWIS = {"v0": 0.04, "kappa": 4.0, "theta": 0.25, "xi": 1.0, "rho": -0.5}
LEWIS_SHORT = {**LEWIS, "v0": 0.01}
ANDERSEN = {"v0": 0.04, "kappa": 0.5, "theta": 0.04, "xi": 1.0, "rho": -0.9}
PAPER = {"v0": 0.0625, "kappa": 8.0, "theta": 0.0625, "xi": 1.0, "rho": -0.7}
DRIFT = {"rate": 0.01, "dividend_yield": 0.02}


@pytest.mark.parametrize(
    ("parameters", "maturity", "strike", "is_call", "expected"),
    [
        # Lewis, Option valuation under stochastic volatility II (2016), and Andersen (2008).
        (LEWIS | DRIFT, 1.0, 80.0, False, 7.958878113256768),
        (LEWIS | DRIFT, 1.0, 100.0, False, 17.055270961270109),
        (LEWIS | DRIFT, 1.0, 100.0, True, 16.070154917028834),
        (LEWIS | DRIFT, 1.0, 120.0, True, 9.024913483457836),
        (LEWIS_SHORT | DRIFT, 0.01, 90.0, False, 4.518360358686e-8),
        (LEWIS_SHORT | DRIFT, 0.01, 100.0, True, 0.467782671512844),
        (LEWIS_SHORT | DRIFT, 0.01, 110.0, True, 1.2993276005e-13),
        (ANDERSEN, 10.0, 60.0, True, 44.3299750702),
        (ANDERSEN, 10.0, 100.0, True, 13.0846701370),
        (ANDERSEN, 10.0, 140.0, True, 0.2957744358),
        (PAPER, 10 / 250, 101.0, True, 1.4474076464),
        (PAPER, 20 / 250, 101.0, True, 2.1858347721),
        (PAPER, 40 / 250, 100.0, False, 3.7627887374),
        (PAPER, 120 / 250, 85.0, False, 1.9232681202),
    ],
)
def test_reference_prices(parameters, maturity, strike, is_call, expected):
    market = Heston(spot=100.0, **parameters)
    # The tables have 10 decimals, but of the small prices 11 digits.
    tolerance = {"rtol": 1e-10, "atol": 0} if expected < 1e-6 else {"rtol": 0, "atol": 1e-10}
    assert_allclose(market.vanilla_price(strike, maturity, is_call), expected, **tolerance)


def precise_price(strike, maturity, v0, kappa, theta, xi, rho, spacing=1 / 64):
    """The option out of the money, from Lewis' covered call in arithmetic of 34 digits.

    Another contour, another rule and another form of the characteristic function than the code's.
    """
    with mpmath.workdps(34):
        strike, tau, v0, kappa, theta, xi, rho = map(
            mpmath.mpf, (strike, maturity, v0, kappa, theta, xi, rho)
        )
        k = mpmath.log(strike)
        slope = mpmath.sign(k + rho * (v0 + kappa * theta * tau) / xi) * mpmath.tan(mpmath.pi / 9)
        variance = theta * tau + (v0 - theta) * (1 - mpmath.exp(-kappa * tau)) / kappa
        total = 0
        for j in range(round(-5 / spacing), round(5 / spacing) + 1):
            y = mpmath.exp(mpmath.pi / 2 * mpmath.sinh(j * spacing)) / mpmath.sqrt(variance)
            z = 0.5 + y * mpmath.mpc(slope, 1)
            product, beta = z * (z - 1), kappa - rho * xi * z
            d = mpmath.sqrt(beta**2 - xi**2 * product)
            g, decay = (beta - d) / (beta + d), mpmath.exp(-d * tau)
            A = (beta - d) * tau - 2 * mpmath.log((1 - g * decay) / (1 - g))
            B = (beta - d) * (1 - decay) / (1 - g * decay)
            moment = mpmath.exp((kappa * theta * A + v0 * B) / xi**2 + (1 - z) * k)
            density = mpmath.re(moment / product * mpmath.mpc(1, -slope))
            total += density * y * mpmath.cosh(j * spacing)
        return float(min(1, strike) + total * spacing / 2)


EXTREMES = {
    "one day, far out": (1.05, 1 / 365, *PAPER.values()),
    "one day, from no variance": (0.999, 1 / 365, 0.0, 0.5, 0.04, 1.0, -0.7),
    "one day, call, small mean": (1.01, 1 / 365, 0.01, 0.1, 0.01, 3.0, 0.5),
    "15 years": (5.0, 15.0, 0.04, 1.0, 0.04, 0.3, -0.3),
    "15 years, Feller violated": (0.1, 15.0, 0.0, 0.3, 0.02, 1.5, -0.5),
    "15 years, calls' moments explode": (3.0, 15.0, 0.04, 0.5, 0.04, 1.0, 0.9),
    "far out": (6.0, 1.0, *LEWIS.values()),
    "far out, put": (0.4, 0.5, 0.04, 2.0, 0.04, 0.3, 0.4),
    "correlation near -1": (1.15, 1.0, 0.04, 1.0, 0.04, 0.5, -1 + 1e-9),
    "correlation near -1, put": (0.4, 3.0, 0.0, 1.0, 0.04, 0.5, -1 + 1e-9),
    "correlation near 1": (1.5, 0.1, 0.04, 1.0, 0.04, 2.0, 1 - 1e-9),
    "correlation near 1, put": (0.9, 1.0, 0.04, 1.0, 0.04, 0.5, 1 - 1e-9),
    "almost no mean reversion": (1.4, 0.5, 0.04, 1e-3, 0.04, 0.5, -0.7),
    "variance that stays at zero": (1.02, 2.0, 0.0, 0.05, 0.003, 3.5, 0.94),
    "little variance": (0.99, 0.1, 1e-4, 1.0, 1e-4, 2.0, -0.7),
    "little volatility of variance": (1.5, 0.5, 0.04, 1.0, 0.09, 1e-4, -0.7),
}


@pytest.mark.parametrize("case", EXTREMES.values(), ids=EXTREMES)
def test_small_prices_keep_their_digits(case):
    strike, maturity, *parameters = case
    price = heston_price(strike, maturity, strike > 1, 1.0, *parameters)
    expected = precise_price(*case)
    assert 1e-12 < expected < 0.3
    assert_allclose(price, expected, rtol=1e-9)


def log_floats(low, high):
    return st.floats(math.log(low), math.log(high)).map(math.exp)


MARKET = st.builds(
    Heston,
    spot=log_floats(0.01, 1e4),
    v0=st.just(0.0) | log_floats(1e-4, 1.0),
    kappa=log_floats(0.02, 15.0),
    theta=log_floats(1e-3, 0.5),
    xi=log_floats(0.01, 4.0),
    rho=st.floats(-0.99, 0.99) | st.sampled_from([1 - 1e-9, -1 + 1e-9]),
    rate=st.floats(-0.05, 0.1),
    dividend_yield=st.floats(-0.05, 0.1),
)
MATURITY = log_floats(1 / 365, 15.0)


def forward_and_deviation(market, maturity):
    forward = market.spot * math.exp((market.rate - market.dividend_yield) * maturity)
    reversion = -math.expm1(-market.kappa * maturity) / market.kappa
    variance = market.theta * maturity + (market.v0 - market.theta) * reversion
    return forward, math.sqrt(variance)


@pytest.mark.slow
@settings(max_examples=50)
@given(market=MARKET, maturity=MATURITY, deviations=st.floats(-8.0, 8.0))
def test_prices_keep_their_digits_whatever_the_parameters(market, maturity, deviations):
    strike = math.exp(deviations * forward_and_deviation(market, maturity)[1])
    parameters = market.v0, market.kappa, market.theta, market.xi, market.rho
    price = heston_price(strike, maturity, strike > 1, 1.0, *parameters).numpy()
    coarse, expected = (
        precise_price(strike, maturity, *parameters, spacing) for spacing in (1 / 96, 1 / 192)
    )
    if expected > 1e-12:
        assert_allclose(coarse, expected, rtol=1e-9)  # The oracle itself has converged.
        assert_allclose(price, expected, rtol=1e-9)


def quantlib_price(market, strike, days, is_call):
    today = ql.Date(1, 1, 2020)
    ql.Settings.instance().evaluationDate = today
    rates, dividends = (
        ql.YieldTermStructureHandle(ql.FlatForward(today, x, ql.Actual365Fixed()))
        for x in (market.rate, market.dividend_yield)
    )
    spot = ql.QuoteHandle(ql.SimpleQuote(market.spot))
    parameters = (market.v0, market.kappa, market.theta, market.xi, market.rho)
    model = ql.HestonModel(ql.HestonProcess(rates, dividends, spot, *parameters))
    kind = ql.Option.Call if is_call else ql.Option.Put
    payoff = ql.PlainVanillaPayoff(kind, strike)
    option = ql.VanillaOption(payoff, ql.EuropeanExercise(today + days))
    option.setPricingEngine(ql.AnalyticHestonEngine(model, 1e-13, 1_000_000))
    return option.NPV()


# QuantLib's own error exceeds the tolerance for shorter maturities and stronger correlations.
@settings(max_examples=100)
@given(
    market=st.builds(
        Heston,
        spot=log_floats(0.01, 1e4),
        v0=log_floats(1e-6, 2.0),
        kappa=log_floats(0.3, 10.0),
        theta=log_floats(0.01, 0.3),
        xi=log_floats(0.05, 2.0),
        rho=st.floats(-0.95, 0.95),
        rate=st.floats(-0.05, 0.1),
        dividend_yield=st.floats(-0.05, 0.1),
    ),
    log_moneyness=st.floats(-0.3, 0.3),
    days=st.integers(10, 365),
    is_call=st.booleans(),
)
def test_quantlib_agrees(market, log_moneyness, days, is_call):
    strike = market.spot * math.exp(log_moneyness)
    price = market.vanilla_price(strike, days / 365, is_call)
    expected = quantlib_price(market, strike, days, is_call)
    assert_allclose(price / market.spot, expected / market.spot, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_stochvolmodels_agrees():
    """Up to the error of its fixed grid, where the variance seldom comes near zero."""
    from stochvolmodels.data.option_chain import OptionChain
    from stochvolmodels.pricers.heston_pricer import HestonParams, HestonPricer

    rng = np.random.default_rng(0)
    for _ in range(20):
        kappa, theta, v0 = rng.uniform([2.0, 0.04, 0.04], [6.0, 0.1, 0.1])
        xi, rho = rng.uniform([0.2, -0.8], [0.9 * np.sqrt(2.0 * kappa * theta), 0.3])
        maturity = rng.uniform(0.5, 3.0)
        market = Heston(100.0, v0, kappa, theta, xi, rho, rate=0.03, dividend_yield=0.01)
        strike = 100.0 * np.exp(np.linspace(-0.4, 0.4, 9) * np.sqrt(maturity))
        chain = OptionChain(
            ids=np.array(["only"]),
            ttms=np.array([maturity]),
            forwards=np.array([100.0 * np.exp(0.02 * maturity)]),
            discfactors=np.array([np.exp(-0.03 * maturity)]),
            strikes_ttms=(strike,),
            optiontypes_ttms=(np.where(strike < 100.0, "P", "C"),),
        )
        parameters = HestonParams(v0=v0, theta=theta, kappa=kappa, rho=rho, volvol=xi)
        (expected,) = HestonPricer().price_chain(chain, parameters)
        price = market.vanilla_price(strike, maturity, strike >= 100.0)
        assert_allclose(price, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("maturity", [1 / 365, 0.5, 15.0])
def test_black_s_formula_is_the_limit_of_constant_variance(maturity):
    strike = np.exp(np.linspace(-6.0, 6.0, 25) * 0.2 * math.sqrt(maturity))
    option = (strike, maturity, strike > 1)
    price = heston_price(*option, 1.0, 0.04, 2.0, 0.04, 1e-6, 0.0)
    assert_allclose(price, black_price(0.2, 1.0, *option), rtol=1e-8)


@settings(max_examples=60)
@given(market=MARKET, maturity=MATURITY)
def test_prices_keep_what_holds_without_arbitrage(market, maturity):
    """Parity, bounds, and calls that fall and are convex in the strike."""
    forward, deviation = forward_and_deviation(market, maturity)
    strike = forward * np.exp(np.linspace(-6.0, 6.0, 25) * min(deviation, 2.0))
    call, put = (market.vanilla_price(strike, maturity, x).numpy() for x in (True, False))
    stock = market.spot * math.exp(-market.dividend_yield * maturity)
    cash = strike * math.exp(-market.rate * maturity)
    assert_allclose(call - put, stock - cash, rtol=0, atol=1e-14 * (stock + cash).max())
    rounding = 1e-9 * put + 1e-13 * stock
    assert np.all(put > -rounding)
    assert np.all(put < cash + rounding)
    slope = np.diff(put) / np.diff(strike)
    noise = 1e-8 * (put[1:] + 1e-5 * stock) / np.diff(strike)
    assert np.all(slope > -noise)
    assert np.all(np.diff(slope) > -noise[1:] - noise[:-1])


@settings(max_examples=60)
@given(market=MARKET, maturity=MATURITY, deviations=st.floats(-50.0, 50.0), is_call=st.booleans())
def test_everything_is_finite_whatever_the_parameters(market, maturity, deviations, is_call):
    forward, deviation = forward_and_deviation(market, maturity)
    strike = forward * math.exp(min(max(deviations * deviation, -50.0), 50.0))
    price, gradient, gamma = derivatives(dataclasses.asdict(market), strike, maturity, is_call)
    assert np.all(np.isfinite([price, gamma, *gradient.values()]))


def derivatives(fields, strike, maturity, is_call):
    """Price, its derivative by each of the market's fields, and gamma."""
    fields = {name: tf.constant(value, tf.float64) for name, value in fields.items()}
    with tf.GradientTape() as outer:
        outer.watch(fields["spot"])
        with tf.GradientTape() as inner:
            inner.watch(fields)
            price = heston_price(strike, maturity, is_call, **fields)
        gradient = inner.gradient(price, fields)
    return price, gradient, outer.gradient(gradient["spot"], fields["spot"])


# Differences of fourth order: where to evaluate a function, in steps, and its weights.
STENCIL, WEIGHTS = np.array([-2.0, -1.0, 1.0, 2.0]), np.array([1.0, -8.0, 8.0, -1.0]) / 12.0


@pytest.mark.parametrize("parameters", [LEWIS, ANDERSEN, PAPER, LEWIS | {"rho": 0.99, "v0": 0.001}])
def test_derivatives_agree_with_differences(parameters):
    strike = np.array([[100.0], [60.0], [60.0], [105.0]])
    maturity = np.array([[0.25], [2.0], [2.0], [5 / 365]])
    option = strike, maturity, np.array([[True], [False], [True], [True]])
    fields = dataclasses.asdict(Heston(spot=100.0, **parameters, **DRIFT))
    fields = {name: np.full([4, 4], value) for name, value in fields.items()}
    _, gradient, gamma = derivatives(fields, *option)
    for name, value in fields.items():
        step = 1e-4 * value
        moved = fields | {name: value + STENCIL * step}
        expected = (heston_price(*option, **moved).numpy() / step) @ WEIGHTS
        assert_allclose(gradient[name][:, 0], expected, rtol=1e-7, atol=1e-7, err_msg=name)
    moved = fields | {"spot": 100.0 + STENCIL * np.full([4, 1], 1e-2)}
    delta = derivatives(moved, *option)[1]["spot"].numpy()
    assert_allclose(gamma[:, 0], delta @ WEIGHTS / 1e-2, rtol=1e-7, atol=1e-10)


DEGENERATE = {
    "expiry": {"maturity": 0.0},
    "expiry without variance": {"maturity": 0.0, "v0": 0.0},
    "no variance": {"v0": 0.0},
    "no variance, one day": {"v0": 0.0, "maturity": 1 / 365},
    "no variance ever": {"v0": 0.0, "theta": 1e-300},
}


@pytest.mark.parametrize("case", DEGENERATE.values(), ids=DEGENERATE)
def test_derivatives_are_finite_in_the_limits(case):
    fields = dataclasses.asdict(Heston(100.0, **LEWIS)) | {"maturity": 0.5} | case
    maturity = fields.pop("maturity")
    for strike in (100.0 * math.exp(-0.3), 100.0, 120.0):
        for is_call in (True, False):
            price, gradient, gamma = derivatives(fields, strike, maturity, is_call)
            assert np.all(np.isfinite([price, gamma, *gradient.values()]))
            if maturity == 0 or fields["theta"] < 1e-200:
                intrinsic = max(100.0 - strike if is_call else strike - 100.0, 0.0)
                assert_allclose(price, intrinsic, rtol=1e-15)


@pytest.mark.parametrize("maturity", [1 / 365, 0.5])
@pytest.mark.parametrize("parameters", [LEWIS, ANDERSEN, PAPER])
def test_vega_without_variance_agrees_with_one_sided_differences(parameters, maturity):
    fields = dataclasses.asdict(Heston(100.0, **parameters)) | {"v0": 0.0}
    option = np.array([90.0, 100.0, 101.0]), maturity, np.array([False, True, True])
    gradient = derivatives({n: np.full(3, x) for n, x in fields.items()}, *option)[1]["v0"]
    # The price is analytic in v0 right of about -kappa theta tau.
    step = 0.01 * fields["kappa"] * fields["theta"] * maturity
    prices = [heston_price(*option, **fields | {"v0": step * j}).numpy() for j in range(5)]
    expected = np.array([-25.0, 48.0, -36.0, 16.0, -3.0]) / 12.0 @ prices / step
    assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_parameters_come_in_batches():
    """Several markets at once, as a calibration needs them, compiled as it needs it."""
    markets = [Heston(100.0, **parameters) for parameters in (LEWIS, ANDERSEN, PAPER)]
    fields = {
        name: tf.constant([[getattr(market, name)] for market in markets], tf.float64)
        for name in dataclasses.asdict(markets[0])
    }
    strike = np.linspace(50.0, 150.0, 11)
    compiled = tf.function(heston_price, jit_compile=True, autograph=False)
    for price in (heston_price, compiled):
        prices = price(strike, 0.5, strike > 90.0, **fields)
        one_by_one = [market.vanilla_price(strike, 0.5, strike > 90.0) for market in markets]
        assert_allclose(prices, one_by_one, rtol=1e-11)


def test_arguments_broadcast():
    shapes = [(4, 1, 1), (3, 1), (2,), ()]
    strike, maturity, variance, is_call = (np.ones(shape) for shape in shapes)
    market = Heston.from_paper()
    prices = vanilla_price(market, variance, strike - 1.0, maturity, is_call.astype(bool))
    assert prices.shape == (4, 3, 2)
    assert prices.dtype == tf.float64
    assert_array_equal(prices, np.broadcast_to(prices[0, 0, 0], (4, 3, 2)))
    assert heston_price(np.ones((0, 3)), 1.0, True, 1.0, *PAPER.values()).shape == (0, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strike", -1.0),
        ("maturity", -0.1),
        ("spot", 0.0),
        ("v0", -0.04),
        ("kappa", 0.0),
        ("theta", [0.04, np.nan]),
        ("xi", -0.5),
        ("rho", 1.5),
        ("rate", np.inf),
        ("dividend_yield", "1"),
    ],
)
def test_arguments_out_of_their_range_are_refused(name, value):
    arguments = {"strike": 1.0, "maturity": 1.0, "is_call": True, "spot": 1.0, **PAPER}
    with pytest.raises(ValueError, match=f"Expected `{name}` to be "):
        heston_price(**arguments | {name: value})


def test_one_trace_serves_all_values():
    traces = []

    @tf.function
    def price(variance):
        traces.append(variance)
        return vanilla_price(Heston.from_paper(), variance, 0.0, 0.04, True)

    values = [price(tf.constant(v, tf.float64)) for v in (0.0, 0.01, 2.0)]
    assert len(traces) == 1
    expected = vanilla_price(Heston.from_paper(), [0.0, 0.01, 2.0], 0.0, 0.04, True)
    assert_allclose(values, expected, rtol=1e-12)
