"""Argument checks: a `ValueError` that quotes the argument, what was expected and what came."""

import math
from numbers import Integral, Real

import numpy as np

_BRACKETS = {"both": "[]", "left": "[)", "right": "(]", "neither": "()"}


def positive(name, value):
    """Returns `value` as a float if it is a finite real number above zero.

    >>> positive("kappa", 8)
    8.0
    >>> positive("kappa", -1.0)
    Traceback (most recent call last):
    ValueError: Expected `kappa` to be a positive number. Received: kappa=-1.0
    """
    return _checked(name, value, value_is_real(value) and value > 0, "a positive number")


def non_negative(name, value):
    """Returns `value` as a float if it is a finite real number, zero or above.

    >>> non_negative("v0", 0)
    0.0
    """
    return _checked(name, value, value_is_real(value) and value >= 0, "a non-negative number")


def finite(name, value):
    """Returns `value` as a float if it is a finite real number.

    >>> finite("rate", -0.01)
    -0.01
    """
    return _checked(name, value, value_is_real(value), "a finite number")


def in_range(name, value, low, high, closed="both"):
    """Returns `value` as a float if it is a real number between `low` and `high`.

    Args:
        name: the argument's name, for the message.
        value: the value to check.
        low: lower end of the range.
        high: upper end of the range.
        closed: which ends belong to the range: `"both"`, `"left"`, `"right"` or `"neither"`.

    Returns:
        `float(value)`.

    Raises:
        ValueError: if `value` is no finite real number, or is out of the range.

    >>> in_range("rho", -1, -1, 1, closed="neither")
    Traceback (most recent call last):
    ValueError: Expected `rho` to be a number in (-1, 1). Received: rho=-1
    """
    opening, closing = _BRACKETS[closed]
    inside = (
        value_is_real(value)
        and (value >= low if opening == "[" else value > low)
        and (value <= high if closing == "]" else value < high)
    )
    return _checked(name, value, inside, f"a number in {opening}{low}, {high}{closing}")


def positive_integer(name, value):
    """Returns `value` as an int if it is a whole number (an integer type) above zero.

    >>> positive_integer("num_paths", 2048)
    2048
    >>> positive_integer("num_paths", 2.0)
    Traceback (most recent call last):
    ValueError: Expected `num_paths` to be a positive integer. Received: num_paths=2.0
    """
    valid = isinstance(value, Integral) and not isinstance(value, bool) and value > 0
    return _checked(name, value, valid, "a positive integer", int)


def integer(name, value, low, high):
    """Returns `value` as an int if it is a whole number (an integer type) from `low` to `high`.

    >>> integer("seed", 1.5, 0, 9)
    Traceback (most recent call last):
    ValueError: Expected `seed` to be an integer from 0 to 9. Received: seed=1.5
    """
    valid = isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= high
    return _checked(name, value, valid, f"an integer from {low} to {high}", int)


def elements(name, values, valid, expectation):
    """Returns `values` as a float64 array if all of them are finite real numbers and `valid`.

    Args:
        name: the argument's name, for the message.
        values: numbers, an array or a tensor with values.
        valid: function from the array to a boolean array.
        expectation: what is expected, for the message.

    Returns:
        float64 NumPy array.

    Raises:
        ValueError: that quotes the first element that is not valid, or values that are no numbers.

    >>> elements("maturity", [0.5, -1.0], lambda x: x >= 0, "non-negative numbers")
    Traceback (most recent call last):
    ValueError: Expected `maturity` to be non-negative numbers. Received: -1.0 in maturity
    """
    is_real = np.asarray(values).dtype.kind in "iuf"
    values = _checked(name, values, is_real, expectation, lambda x: np.asarray(x, np.float64))
    bad = values[~(np.isfinite(values) & valid(values))]
    if bad.size:
        raise ValueError(
            f"Expected `{name}` to be {expectation}. Received: {bad.item(0)!r} in {name}"
        )
    return values


def positive_elements(name, values):
    """As `elements`, of numbers above zero."""
    return elements(name, values, lambda x: x > 0.0, "positive numbers")


def non_negative_elements(name, values):
    """As `elements`, of numbers not below zero."""
    return elements(name, values, lambda x: x >= 0.0, "non-negative numbers")


def paths(spot, variance, num_columns):
    """Returns paths of a market as arrays, if they are of that shape and in their ranges.

    Args:
        spot: prices of the underlying, `[num_paths, num_columns]`.
        variance: variances, of the same shape.
        num_columns: number of times.

    Returns:
        Two float64 NumPy arrays.

    Raises:
        ValueError: if there are no paths of that length, or numbers that are not finite, a spot
            that is not positive or a variance that is negative.

    >>> paths(np.ones([7, 3]), np.ones([7, 2]), num_columns=3)
    Traceback (most recent call last):
    ValueError: Expected spot and variance of shape [num_paths, 3]. Received shapes: (7, 3), (7, 2)
    """
    spot = positive_elements("spot", spot)
    variance = non_negative_elements("variance", variance)
    if not spot.shape == variance.shape == (len(np.atleast_1d(spot)), num_columns) or not spot.size:
        raise ValueError(
            f"Expected spot and variance of shape [num_paths, {num_columns}]. "
            f"Received shapes: {spot.shape}, {variance.shape}"
        )
    return spot, variance


def shape(name, values, expected):
    """Checks the shape of an array or a tensor.

    Args:
        name: the argument's name, for the message.
        values: an array or a tensor, perhaps of a graph.
        expected: the sizes; a string is the name of one that may be any, as may one that is None,
            as in the shape of a tensor of a graph.

    Raises:
        ValueError: that quotes both shapes.

    >>> shape("payoff", np.ones([7, 1]), ["num_paths"])
    Traceback (most recent call last):
    ValueError: Expected `payoff` to be of shape [num_paths]. Received shape: (7, 1)
    """
    sizes = tuple(values.shape)
    fits = len(sizes) == len(expected) and all(
        isinstance(x, str) or None in (x, size) or x == size
        for size, x in zip(sizes, expected, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, expected))
        raise ValueError(f"Expected `{name}` to be of shape [{expected}]. Received shape: {sizes}")


def broadcast_with_booleans(name, values, numbers):
    """Checks that `values` are booleans and that their shape and those of the numbers broadcast.

    Args:
        name: the name of the booleans, for the message.
        values: a boolean, an array or a tensor with values.
        numbers: dictionary of arrays by the arguments' names.

    Raises:
        ValueError: that quotes what is not boolean, or all shapes.

    >>> broadcast_with_booleans("is_call", [True, False], {"strike": np.ones(3)})
    Traceback (most recent call last):
    ValueError: Expected shapes that broadcast. Received: is_call (2,), strike (3,)
    """
    is_boolean = np.asarray(values).dtype == bool
    values = _checked(name, values, is_boolean, "True or False", np.asarray)
    shapes = {name: values.shape, **{key: array.shape for key, array in numbers.items()}}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        received = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise ValueError(f"Expected shapes that broadcast. Received: {received}") from None


def one_of(name, value, choices):
    """Returns `value` if it is among the `choices`.

    >>> one_of("observes", "prices", ("last_action", "nothing"))
    Traceback (most recent call last):
    ValueError: Expected `observes` to be one of ('last_action', 'nothing'). Received: ...
    """
    if value not in choices:
        raise ValueError(f"Expected `{name}` to be one of {choices}. Received: {name}={value!r}")
    return value


def keep(instance, check, *names):
    """Replaces fields of a frozen dataclass, in its `__post_init__`, by what a check returns."""
    for name in names:
        object.__setattr__(instance, name, check(name, getattr(instance, name)))


def value_is_real(value):
    """Whether `value` is a finite real number; booleans, strings and tensors are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _checked(name, value, valid, expectation, convert=float):
    if not valid:
        raise ValueError(f"Expected `{name}` to be {expectation}. Received: {name}={value!r}")
    return convert(value)
