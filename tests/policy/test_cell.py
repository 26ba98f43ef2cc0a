"""One time step of the policy: its weights at the start, and its arguments."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.policy.cell import DenseCell, HedgeCell


def test_the_head_starts_with_zero_bias_and_small_he_weights():
    cell = HedgeCell(num_instruments=200, units=256, num_blocks=1)
    cell.build((None, 205))
    kernel, bias = cell.linear_layers[-1].get_weights()
    assert kernel.shape == (256, 200)
    assert_array_equal(bias, 0.0)
    assert_allclose(kernel.std(), 1e-3 * np.sqrt(2 / 256), rtol=0.02)
    assert abs(kernel.mean()) < 4 * kernel.std() / np.sqrt(kernel.size)


@pytest.mark.parametrize(
    ("cell_class", "matrix"), [(HedgeCell, [(8, 16), (16,)]), (DenseCell, [(4, 4), (4,)])]
)
def test_linear_layers_have_the_sizes_that_curvature_is_told(cell_class, matrix):
    cell = cell_class(num_instruments=3, units=4, num_blocks=2)
    cell.build((None, 3 + 5))
    shapes = [[tuple(w.shape) for w in layer.weights] for layer in cell.linear_layers]
    block = [[(4,)], matrix]
    assert shapes == [[(8, 4), (4,)], *block, *block, [(4, 3), (3,)]]
    assert cell.linear_sizes == [weights[-1][-1] for weights in shapes]


def test_the_configuration_makes_the_cell_again():
    cell = HedgeCell(3, units=4, num_blocks=2, observes="nothing", dtype="float64", name="mine")
    again = HedgeCell.from_config(cell.get_config())
    assert again.get_config() == cell.get_config()
    assert (again.name, again.compute_dtype, again.observes) == ("mine", "float64", "nothing")


@pytest.mark.parametrize("name", ["num_instruments", "units", "num_blocks"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None, "3"])
def test_bad_sizes_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` to be a positive integer. .*{name}={value!r}"):
        HedgeCell(**{"num_instruments": 2, name: value})


def test_what_cannot_be_observed_is_refused():
    message = r"`observes` to be one of \('log_action', .*observes='everything'"
    with pytest.raises(ValueError, match=message):
        HedgeCell(2, observes="everything")
