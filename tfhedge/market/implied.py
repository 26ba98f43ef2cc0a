r"""Black's formula and its inverse, the implied volatility, in float64.

Both work with the option that is out of the money, in the numeraire that makes it a call: with $F$
the forward, $x = |\log(K/F)|$ and $s = \sigma\sqrt\tau$, its price over the discounted forward (of
a call) or the discounted strike (of a put) is

$$\beta(x, s) = \Phi(-a) - e^x\Phi(-c), \qquad a = \frac xs - \frac s2, \quad
  c = \frac xs + \frac s2.$$

It rises from 0 to 1 with $s$. As $e^x = e^{(c^2 - a^2)/2}$, the scaled tails
$E(a) = e^{a^2/2}\,\Phi(-a)$ keep its digits where it is small, and those of $1 - \beta$ where that
is.
"""

import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfhedge.checks import (
    broadcast_with_booleans,
    elements,
    non_negative_elements,
    positive_elements,
)
from tfhedge.numerics import bisect, float64

_SQRT_TWO_PI = math.sqrt(2.0 * math.pi)
_NUM_BISECTIONS = 16
_NUM_NEWTON_STEPS = 6


def black_price(volatility, spot, strike, maturity, is_call, *, rate=0.0, dividend_yield=0.0):
    r"""Price of a European option by Black's formula.

    With $F = x_0e^{(r - \delta)\tau}$ and $d_{1,2} = \log(F/K)/(\sigma\sqrt\tau) \pm
    \tfrac12\sigma\sqrt\tau$ a call is worth $e^{-r\tau}(F\,\Phi(d_1) - K\,\Phi(d_2))$. The option
    out of the money is computed to about 1e-12 of its price, the other one by parity.

    Args:
        volatility: annual volatility $\sigma$, non-negative.
        spot: spot price today, positive.
        strike: strike price, positive.
        maturity: $\tau$ in years, non-negative.
        is_call: boolean, whether the option is a call (else a put).
        rate: interest rate $r$, annual, continuously compounded.
        dividend_yield: dividend yield $\delta$, likewise.

    All are converted to tensors and broadcast.

    Returns:
        float64 tensor of the broadcast shape.

    Raises:
        ValueError: If a number is out of its range or shapes do not broadcast; not in a graph.

    Reference: Black, The pricing of commodity contracts (1976), eq. 16.

    >>> print(f"{black_price(0.2, 100.0, 110.0, 0.5, True, rate=0.01).numpy():.10f}")
    2.3394205137
    """
    if tf.executing_eagerly():
        _check(
            is_call,
            positive={"spot": spot, "strike": strike},
            non_negative={"volatility": volatility, "maturity": maturity},
            finite={"rate": rate, "dividend_yield": dividend_yield},
        )
    volatility, *option = map(float64, (volatility, spot, strike, maturity, rate, dividend_yield))
    return _black_price(volatility, tf.convert_to_tensor(is_call, tf.bool), *option)


def black_vega(volatility, log_moneyness, maturity):
    r"""Derivative of Black's price by the volatility, over the discounted forward.

    $$\sqrt\tau\,\varphi(d_1), \qquad d_1 = -k/(\sigma\sqrt\tau) + \tfrac12\sigma\sqrt\tau$$

    Args:
        volatility: annual volatility $\sigma$, positive.
        log_moneyness: $k = \log(K/F)$ with $F$ the forward.
        maturity: $\tau$ in years, positive.

    All are converted to tensors and broadcast.

    Returns:
        float64 tensor of the broadcast shape.

    >>> print(f"{black_vega(0.2, 0.1, 0.5).numpy():.10f}")
    0.2303830033
    """
    volatility, log_moneyness, maturity = map(float64, (volatility, log_moneyness, maturity))
    deviation = volatility * tf.sqrt(maturity)
    d1 = 0.5 * deviation - log_moneyness / deviation
    return tf.sqrt(maturity) * tf.exp(-0.5 * d1**2) / _SQRT_TWO_PI


def implied_volatility(price, spot, strike, maturity, is_call, *, rate=0.0, dividend_yield=0.0):
    r"""Volatility with which Black's formula gives a price.

    Solves $\log\beta(x, s) = \log\beta$ or, in the upper half,
    $\log(1 - \beta(x, s)) = \log(1 - \beta)$ by a fixed number of bisections in $\log s$, from
    rigorous bounds, and of Newton steps.

    A price in the money is first reduced to its time value by parity. What it lost when it was
    rounded stays lost: the error in volatility is then up to about 4 ulp(price + strike) / vega,
    which is everything where the time value itself is less than the rounding.

    Args:
        price: price of the option, not below its intrinsic value against the forward,
            $\max(\pm(x_0e^{-\delta\tau} - Ke^{-r\tau}), 0)$, and below $x_0e^{-\delta\tau}$ for a
            call, $Ke^{-r\tau}$ for a put.
        spot: spot price today, positive.
        strike: strike price, positive.
        maturity: $\tau$ in years, positive.
        is_call: boolean, whether the option is a call (else a put).
        rate: interest rate $r$, annual, continuously compounded.
        dividend_yield: dividend yield $\delta$, likewise.

    All are converted to tensors and broadcast.

    Returns:
        float64 tensor of the broadcast shape, with first derivatives by all but `is_call`. Inside
        a graph it is NaN where an argument is out of its range.

    Raises:
        ValueError: if, outside of a graph, an argument is out of its range, or the shapes do not
            broadcast.

    Reference: Jaeckel, Let's be rational (2015), for the two branches.

    >>> price = black_price(0.2, 100.0, [90.0, 110.0], 0.5, True, rate=0.01)
    >>> volatility = implied_volatility(price, 100.0, [90.0, 110.0], 0.5, True, rate=0.01)
    >>> volatility.numpy().round(12).tolist()
    [0.2, 0.2]
    """
    if tf.executing_eagerly():
        _check(
            is_call,
            positive={"spot": spot, "strike": strike, "maturity": maturity},
            finite={"price": price, "rate": rate, "dividend_yield": dividend_yield},
        )
    price, *option = map(float64, (price, spot, strike, maturity, rate, dividend_yield))
    volatility, low, high = _implied_volatility(
        price, tf.convert_to_tensor(is_call, tf.bool), *option
    )
    if tf.executing_eagerly() and np.isnan(volatility).any():
        first = np.flatnonzero(np.isnan(volatility))[0]
        price, low, high = (
            np.broadcast_to(x, volatility.shape).flat[first] for x in (price, low, high)
        )
        raise ValueError(
            "Expected `price` to keep the bounds that hold without arbitrage, "
            f"{float(low)!r} <= price < {float(high)!r}. Received: price={float(price)!r}"
        )
    return volatility


@tf.function(autograph=False, reduce_retracing=True)
def _black_price(volatility, is_call, spot, strike, maturity, rate, dividend_yield):
    x, numeraire, parity = _in_call_terms(is_call, spot, strike, maturity, rate, dividend_yield)
    is_certain = (maturity <= 0) | (volatility <= 0)
    # Safe before the root, whose derivative at 0 is infinite.
    volatility, maturity = (
        tf.where(is_certain, tf.ones_like(x), x) for x in (volatility, maturity)
    )
    log_price, _ = _log_prices(x, volatility * tf.sqrt(maturity))
    time_value = numeraire * tf.exp(log_price)
    return parity + tf.where(is_certain, tf.zeros_like(time_value), time_value)


@tf.function(autograph=False, reduce_retracing=True)
def _implied_volatility(price, is_call, spot, strike, maturity, rate, dividend_yield):
    x, numeraire, parity = _in_call_terms(is_call, spot, strike, maturity, rate, dividend_yield)
    time_value = price - parity
    permitted = (time_value >= 0) & (time_value < numeraire) & (maturity > 0)
    inside = permitted & (time_value > 0)
    x, fraction, rest = (
        tf.where(inside, value, 0.25 * tf.ones_like(value))
        for value in (x, time_value / numeraire, (numeraire - time_value) / numeraire)
    )
    deviation = _deviation(x, fraction, rest)
    volatility = deviation / tf.sqrt(tf.where(maturity > 0, maturity, tf.ones_like(maturity)))
    zero = tf.zeros_like(volatility)
    at_bound = tf.where(permitted, zero, zero + math.nan)
    return tf.where(inside, volatility, at_bound), tf.nn.relu(parity), numeraire + parity


def _in_call_terms(is_call, spot, strike, maturity, rate, dividend_yield):
    """`x`, the numeraire, and what the price is above that of the option out of the money."""
    stock, cash = spot * tf.exp(-dividend_yield * maturity), strike * tf.exp(-rate * maturity)
    log_moneyness = tf.math.log(strike / spot) - (rate - dividend_yield) * maturity
    call_is_out = log_moneyness >= 0
    parity = tf.where(is_call, stock - cash, cash - stock)
    parity = tf.where(is_call == call_is_out, tf.zeros_like(parity), parity)
    return tf.abs(log_moneyness), tf.where(call_is_out, stock, cash), parity


def _log_prices(x, s):
    r"""$\log\beta$ and $\log(1 - \beta)$."""
    a, c = x / s - 0.5 * s, x / s + 0.5 * s
    is_lower = a > 0
    near, far = _scaled_tail(tf.abs(a)), _scaled_tail(c)
    # beta = exp(-a^2 / 2) (E(a) - E(c)), or 1 - beta = exp(-a^2 / 2) (E(-a) + E(c)).
    bracket = tf.maximum(tf.where(is_lower, near - far, near + far), 1e-300)
    one = tf.minimum(tf.math.log(bracket) - 0.5 * a**2, -1e-300)
    other = tf.math.log(-tf.math.expm1(one))
    return tf.where(is_lower, one, other), tf.where(is_lower, other, one)


def _scaled_tail(a):
    return 0.5 * tfp.math.erfcx(a / math.sqrt(2.0))


def _deviation(x, fraction, rest):
    r"""The $s$ with $\beta(x, s)$ = `fraction` = 1 - `rest`."""
    is_lower = fraction < 0.5
    target = tf.math.log(tf.where(is_lower, fraction, rest))

    def gap_and_slope(x, target, s):
        logs = tf.where(is_lower, *_log_prices(x, s))
        gauss = tf.exp(-0.5 * (x / s - 0.5 * s) ** 2 - logs) / _SQRT_TWO_PI
        return logs - target, tf.where(is_lower, gauss, -gauss)

    fixed = [tf.stop_gradient(value) for value in (x, target)]
    # beta <= s / sqrt(2 pi) and Phi(a) >= (1 - beta) / 2 > Phi(-8.4) bound s, and so does, until
    # exp(-700), beta(x, x / 40).
    low = tf.stop_gradient(tf.maximum(0.999 * _SQRT_TWO_PI * fraction, fixed[0] / 40.0))
    high = 8.4 + tf.sqrt(8.4**2 + 2.0 * fixed[0])

    def is_below(log_s):
        gap, slope = gap_and_slope(*fixed, tf.exp(log_s))
        return gap * slope < 0

    s = tf.exp(bisect(is_below, tf.math.log(low), tf.math.log(high), _NUM_BISECTIONS))
    for _ in range(_NUM_NEWTON_STEPS):
        gap, slope = gap_and_slope(*fixed, s)
        s = tf.clip_by_value(s - gap / slope, low, high)
    # The derivatives are those of one more step, by the implicit function theorem.
    s = tf.stop_gradient(s)
    gap, slope = gap_and_slope(x, target, s)
    step = gap / tf.stop_gradient(slope)
    return s - (step - tf.stop_gradient(step))


def _check(is_call, positive, finite, non_negative=None):
    """Checks numbers by name, and that all shapes broadcast."""
    numbers = {}
    for arguments, check in (
        (positive, positive_elements),
        (non_negative or {}, non_negative_elements),
        (finite, lambda name, x: elements(name, x, np.isfinite, "finite numbers")),
    ):
        numbers |= {name: check(name, value) for name, value in arguments.items()}
    broadcast_with_booleans("is_call", is_call, numbers)
