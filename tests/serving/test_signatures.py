"""What a served policy does with observations that are none."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.serving.signatures import Signatures

NAN, INF = float("nan"), float("inf")

# Beside two sound observations at t = 4, the second period begun at 81: what is said of the third.
BAD = {
    "before the sale": {"t": -1},
    "after the last trade": {"t": 6},
    "no spot": {"spot": NAN},
    "infinite spot": {"spot": INF},
    "negative spot": {"spot": -80.0},
    "a spot that no path comes to": {"spot": 1e4},
    "no variance": {"variance": NAN},
    "negative variance": {"variance": -1e-6},
    "a variance that no path comes to": {"variance": 1e3},
    "no last reset": {"spot_at_last_reset": NAN},
    "last reset at zero": {"spot_at_last_reset": 0.0},
    "a last reset that no path comes to": {"spot_at_last_reset": 1e-2},
    "another spot at the reset date": {"t": 3},
    "nothing accrued is known": {"accrued": NAN},
    "more accrued than the cap": {"accrued": 0.016},
    "less accrued than a period can lose": {"accrued": -1.1},
    "a state that is no number": {"state": NAN},
}


@pytest.fixture(scope="module")
def signatures(hedger):
    return Signatures(hedger)


def observation(signatures, bad):
    """Inputs of `step` for three paths, the third of which is bad."""
    values = {"t": 4, "spot": 80.0, "variance": 0.05, "spot_at_last_reset": 81.0, "accrued": 0.01}
    inputs = {
        name: np.array([value, value, bad.get(name, value)], np.int32 if name == "t" else "f")
        for name, value in values.items()
    }
    rng = np.random.default_rng(1)
    for name, size in signatures.state_sizes.items():
        inputs[name] = rng.normal(0.0, 0.1, [3, size]).astype(np.float32)
        inputs[name][2, -1] = bad.get("state", inputs[name][2, -1])
    return inputs


def test_a_sound_observation_is_taken(signatures):
    result = signatures.step(**observation(signatures, {}))
    assert np.all(result["valid"])
    assert np.all(np.abs(result["action"]).max(axis=1) > 0.0)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_refused_step_trades_nothing_and_hands_the_states_back(signatures, bad):
    inputs = observation(signatures, bad)
    result = signatures.step(**inputs)
    assert_array_equal(result["valid"], [True, True, False])
    assert_array_equal(result["action"][2], np.zeros(3))
    good = signatures.step(**observation(signatures, {}))
    for name in ("action", *signatures.state_sizes):
        assert_allclose(result[name][:2], good[name][:2], rtol=1e-6)
    for name in signatures.state_sizes:
        assert_array_equal(result[name][2], np.nan_to_num(inputs[name][2]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("spot", NAN), ("spot", 0.0), ("spot", 1e5), ("variance", -0.1), ("variance", INF)],
)
def test_a_path_is_refused_from_its_first_bad_observation_on(signatures, paths, name, value):
    observed = dict(zip(("spot", "variance"), paths(2), strict=True))
    good = signatures.rollout(**observed)
    assert np.all(good["valid"])
    bad = {key: x.copy() for key, x in observed.items()}
    bad[name][1, 4] = value
    result = signatures.rollout(**bad)
    assert_array_equal(result["valid"], [[True] * 6, [True] * 4 + [False] * 2])
    assert_allclose(result["action"][0], good["action"][0], rtol=1e-6)
    assert_allclose(result["action"][1, :4], good["action"][1, :4], rtol=1e-6)
    assert_array_equal(result["action"][1, 4:], np.zeros([2, 3]))


def test_weights_that_are_no_numbers_make_no_orders(hedger, signatures, paths):
    weights = hedger.get_weights()
    try:
        hedger.set_weights([np.full_like(w, NAN) for w in weights])
        result = signatures.step(**observation(signatures, {}))
        rollout = signatures.rollout(*paths(2))
    finally:
        hedger.set_weights(weights)
    for trades in (result, rollout):
        assert not np.any(trades["valid"])
        assert not np.any(trades["action"])
