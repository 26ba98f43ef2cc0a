import math
import re

import numpy as np
import pytest

from tfhedge.checks import (
    elements,
    finite,
    in_range,
    non_negative,
    one_of,
    positive,
    positive_integer,
)

NO_NUMBERS = [
    True,
    np.True_,
    "1",
    None,
    [1.0],
    1j,
    math.nan,
    math.inf,
    -math.inf,
    np.float32("nan"),
]


def one_sided(name, value):
    return in_range(name, value, 0, 2, closed="left")


@pytest.mark.parametrize("check", [positive, non_negative, finite, one_sided])
@pytest.mark.parametrize("value", [1, 1.0, np.float32(1.0), np.float64(1.0), np.int64(1)], ids=repr)
def test_real_numbers_become_floats(check, value):
    checked = check("x", value)
    assert checked == 1.0
    assert type(checked) is float


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint8(3)], ids=repr)
def test_integers_become_ints(value):
    checked = positive_integer("x", value)
    assert checked == 3
    assert type(checked) is int


@pytest.mark.parametrize("check", [positive, non_negative, finite, one_sided, positive_integer])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_finite_number_is_refused(check, value):
    with pytest.raises(ValueError, match=r"^Expected `x` to be .*\. Received: x="):
        check("x", value)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (positive, 0, "Expected `x` to be a positive number. Received: x=0"),
        (positive, -2.5, "Expected `x` to be a positive number. Received: x=-2.5"),
        (non_negative, -1, "Expected `x` to be a non-negative number. Received: x=-1"),
        (positive_integer, 0, "Expected `x` to be a positive integer. Received: x=0"),
        (positive_integer, 1.0, "Expected `x` to be a positive integer. Received: x=1.0"),
        (one_sided, 2, "Expected `x` to be a number in [0, 2). Received: x=2"),
    ],
)
def test_message_quotes_argument_expectation_and_value(check, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check("x", value)


def test_one_of_passes_only_its_choices():
    assert one_of("x", "b", ("a", "b")) == "b"
    with pytest.raises(ValueError, match=r"`x` to be one of \('a', 'b'\). Received: x=None"):
        one_of("x", None, ("a", "b"))


def test_zero_is_non_negative():
    assert non_negative("x", 0) == 0.0


@pytest.mark.parametrize(
    ("closed", "has_low", "has_high"),
    [
        ("both", True, True),
        ("left", True, False),
        ("right", False, True),
        ("neither", False, False),
    ],
)
def test_closed_names_the_ends_that_belong_to_the_range(closed, has_low, has_high):
    for end, belongs in ((-1, has_low), (1, has_high)):
        if belongs:
            assert in_range("x", end, -1, 1, closed=closed) == end
        else:
            with pytest.raises(ValueError, match="number in"):
                in_range("x", end, -1, 1, closed=closed)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_the_first_bad_element_is_quoted(bad):
    def natural(x):
        return x >= 0

    assert elements("x", [[0, 1], [2, 3]], natural, "natural numbers").dtype == np.float64
    message = f"Expected `x` to be natural numbers. Received: {bad!r} in x"
    with pytest.raises(ValueError, match=re.escape(message)):
        elements("x", [[0.0, bad], [-2.0, 3.0]], natural, "natural numbers")
