import dataclasses
import re

import numpy as np
import pytest
import scipy.integrate
import tensorflow as tf
from numpy.testing import assert_allclose

from tfhedge.market.affine import affine_exponents, moment_exists
from tfhedge.market.heston import Heston

MARKETS = {
    "paper": Heston.from_paper(),
    "feller violated": Heston(100.0, 0.04, 0.5, 0.04, 1.0, -0.9),
    "positive correlation": Heston(1.0, 0.01, 1.0, 0.09, 0.8, 0.8),
    "beta turns negative": Heston(1.0, 0.04, 0.2, 0.04, 2.0, 0.9),
    "nearly deterministic": Heston(1.0, 0.04, 2.0, 0.09, 1e-3, -0.5),
}


def exponents(market, u, maturity, decay=0.0):
    """Of the characteristic function, whose argument is u."""
    z = 1j * tf.constant(u, tf.complex128)
    parameters = market.kappa, market.theta, market.xi, market.rho
    return affine_exponents(z, maturity, *parameters, decay)


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
@pytest.mark.parametrize("u", [0.3, -2.0, 1.0 - 0.5j, 20.0 - 0.5j, 0.1 - 0.9j, -0.99j])
@pytest.mark.parametrize("maturity", [0.04, 2.0])
@pytest.mark.parametrize("decay", [0.0, 30.0])
def test_exponents_solve_the_riccati_equations(market, u, maturity, decay):
    """B' = -(u^2 + iu) / 2 - (kappa - i rho xi u) B + xi^2 B^2 / 2 and A' = kappa theta B."""

    def slopes(_, state):
        B = state[1]
        beta = market.kappa - 1j * market.rho * market.xi * u
        return [
            market.kappa * market.theta * B,
            -0.5 * (u**2 + 1j * u) - beta * B + 0.5 * market.xi**2 * B**2,
        ]

    solution = scipy.integrate.solve_ivp(
        slopes, [0.0, maturity], [0.0, -decay + 0j], method="DOP853", rtol=1e-12, atol=1e-13
    )
    A, B = exponents(market, u, maturity, decay)
    # At xi = 1e-3 the exponent A is a difference divided by xi^2 = 1e-6.
    assert_allclose([A, B], solution.y[:, -1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("market", MARKETS.values(), ids=MARKETS)
def test_moments_of_log_spot(market):
    """Total mass, martingale, and E[log x_T / x_0] = -1/2 of the expected integrated variance."""
    maturity, step = 0.7, 1e-4
    A, B = exponents(market, [0.0, -1j, -step, step], maturity)
    mass, forward, *values = np.exp(A + 0.03 * B)
    assert_allclose(mass, 1.0, rtol=1e-14)
    assert_allclose(forward, 1.0, rtol=1e-10)
    mean = np.imag(values[1] - values[0]) / (2.0 * step)
    reversion = -np.expm1(-market.kappa * maturity) / market.kappa
    integrated = market.theta * maturity + (0.03 - market.theta) * reversion
    assert_allclose(mean, -0.5 * integrated, rtol=1e-6)


def test_arguments_broadcast():
    A, B = exponents(Heston.from_paper(), np.ones((4, 1)), np.ones(3))
    assert A.shape == B.shape == (4, 3)


def test_parameters_are_numbers_and_do_not_change():
    market = Heston(np.float32(1.0), 0, 8, 0.0625, np.float64(1.0), -0.7)
    assert market == dataclasses.replace(Heston.from_paper(), v0=0.0)
    assert all(type(x) is float for x in dataclasses.astuple(market))
    with pytest.raises(dataclasses.FrozenInstanceError):
        market.kappa = 1.0


@pytest.mark.parametrize(
    ("name", "value", "expectation"),
    [
        ("spot", 0.0, "a positive number"),
        ("v0", -0.01, "a non-negative number"),
        ("kappa", -1.0, "a positive number"),
        ("theta", 0.0, "a positive number"),
        ("xi", float("nan"), "a positive number"),
        ("rho", 1.0, "a number in (-1, 1)"),
        ("rho", "-0.7", "a number in (-1, 1)"),
        ("rate", float("inf"), "a finite number"),
        ("dividend_yield", None, "a finite number"),
    ],
)
def test_bad_parameters_are_refused(name, value, expectation):
    message = f"Expected `{name}` to be {expectation}. Received: {name}={value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        dataclasses.replace(Heston.from_paper(), **{name: value})


def test_moments_are_finite_until_they_explode():
    """E' = A' + B' v grows without bound where the Riccati equation says so."""
    market = MARKETS["beta turns negative"]
    kappa, xi, rho = market.kappa, market.xi, market.rho
    for order in (1.5, 3.0, -4.0, -30.0):

        def slope(_, B, order=order):
            return 0.5 * order * (order - 1) - (kappa - rho * xi * order) * B + 0.5 * xi**2 * B**2

        def explodes(_, B):
            return B[0] - 1e8

        explodes.terminal = True
        solution = scipy.integrate.solve_ivp(
            slope, [0.0, 100.0], [0.0], events=explodes, rtol=1e-10, atol=1e-10, method="LSODA"
        )
        time = solution.t_events[0]
        last = time[0] if time.size else 100.0
        maturities = np.array([0.5 * last, 0.999 * last])
        assert np.all(moment_exists(order, maturities, kappa, xi, rho))
        if time.size:
            assert not moment_exists(order, 1.001 * last, kappa, xi, rho)


@pytest.mark.parametrize(
    ("strike", "maturity", "is_call", "message"),
    [
        ([1.0, 0.0], 1.0, True, r"`strike` to be positive numbers. Received: 0.0"),
        (1.0, [-0.1, 1.0], True, r"`maturity` to be non-negative numbers. Received: -0.1"),
        (1.0, float("nan"), True, r"`maturity` to be non-negative numbers. Received: nan"),
        ("a", 1.0, True, r"`strike` to be positive numbers. Received: strike='a'"),
        (1.0, None, True, r"`maturity` to be non-negative numbers. Received: maturity=None"),
        (1.0, 1.0, "call", r"`is_call` to be True or False. Received: is_call='call'"),
        ([1.0] * 2, 1.0, [True] * 3, r"is_call \(3,\), strike \(2,\), maturity \(\)"),
    ],
)
def test_bad_options_are_refused(strike, maturity, is_call, message):
    with pytest.raises(ValueError, match=message):
        Heston.from_paper().vanilla_price(strike, maturity, is_call)
