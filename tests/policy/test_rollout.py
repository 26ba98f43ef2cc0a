"""The policy over all time steps against a transcription of section 4.1 in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from tfhedge.policy.cell import OBSERVABLE
from tfhedge.policy.rollout import DensePolicy, RecurrentPolicy

NUM_PATHS, NUM_STEPS, NUM_FEATURES, NUM_INSTRUMENTS = 5, 6, 3, 4
SIZES = [(3, 1), (4, 2), (8, 4)]
AVAILABLE = (np.arange(NUM_STEPS)[:, None] < [6, 5, 3, 0]).astype(np.float32)


def random_policy(
    units, num_blocks, dtype="float64", observes="log_action", policy_class=RecurrentPolicy
):
    """A built policy far from its start, but for the head: symexp feeds back into itself."""
    policy = policy_class(units, num_blocks, observes, dtype=dtype)
    policy.build((None, NUM_STEPS, NUM_FEATURES), AVAILABLE.shape)
    rng = np.random.default_rng(0)
    head = policy.cell.linear_layers[-1].weights
    scales = [0.1 if any(w is x for x in head) else 0.5 for w in policy.weights]
    policy.set_weights(
        [rng.normal(0.0, s, w.shape) for s, w in zip(scales, policy.weights, strict=True)]
    )
    return policy


def observations(num_paths=NUM_PATHS, seed=1):
    return np.random.default_rng(seed).normal(size=[num_paths, NUM_STEPS, NUM_FEATURES])


def seen(observes, action):
    symlog = np.sign(action) * np.log(1.0 + np.abs(action))
    return {"log_action": symlog, "last_action": action, "nothing": 0.0 * action}[observes]


def section_4_1(policy, features):
    """The actions on one path, from the policy's weights in their order."""
    inlet, inlet_bias, *blocks, outlet, outlet_bias = policy.get_weights()
    blocks = [blocks[i : i + 3] for i in range(0, len(blocks), 3)]
    past = np.zeros(NUM_INSTRUMENTS)  # what is seen of the last action
    hidden = [np.zeros(policy.units) for _ in blocks]
    carry = [np.zeros(policy.units) for _ in blocks]
    actions = []
    for t, observed in enumerate(features):
        x = past @ inlet[:NUM_INSTRUMENTS] + observed @ inlet[NUM_INSTRUMENTS:] + inlet_bias
        for block, (scale, gates, gates_bias) in enumerate(blocks):
            normalized = scale * x / np.sqrt(np.mean(x**2) + 1e-7)
            i, f, g, o = np.split(np.append(normalized, hidden[block]) @ gates + gates_bias, 4)
            carry[block] = expit(f + 1.0) * carry[block] + expit(i) * np.tanh(g)
            hidden[block] = expit(o) * np.tanh(carry[block])
            x = x + hidden[block]
        y = x @ outlet + outlet_bias
        action = AVAILABLE[t] * np.sign(y) * (np.exp(np.abs(y)) - 1.0)
        actions.append(action)
        past = seen(policy.observes, action)
    return actions


@pytest.mark.parametrize(("units", "num_blocks"), SIZES)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("observes", OBSERVABLE)
def test_actions_equal_a_transcription_of_section_4_1(units, num_blocks, dtype, rtol, observes):
    policy = random_policy(units, num_blocks, dtype, observes)
    features = observations()
    expected = np.array([section_4_1(policy, path) for path in features])
    assert np.abs(expected).max() > 0.2
    for call in (policy, tf.function(policy)):
        actions = call(features.astype(dtype), AVAILABLE)
        assert actions.dtype == dtype
        assert_allclose(actions, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("observes", OBSERVABLE)
def test_actions_of_a_dense_policy_equal_a_transcription(observes):
    policy = random_policy(4, 2, observes=observes, policy_class=DensePolicy)
    inlet, inlet_bias, *blocks, outlet, outlet_bias = policy.get_weights()
    features = observations()
    past = np.zeros([NUM_PATHS, NUM_INSTRUMENTS])
    actions = policy(features, AVAILABLE).numpy()
    for t, available in enumerate(AVAILABLE):
        x = np.append(seen(observes, past), features[:, t], axis=1) @ inlet + inlet_bias
        for scale, kernel, bias in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
            norm = np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-7)
            y = (scale * x / norm) @ kernel + bias
            x = x + y * expit(y)
        y = available * (x @ outlet + outlet_bias)
        past = np.sign(y) * (np.exp(np.abs(y)) - 1.0)
        assert_allclose(actions[:, t], past, rtol=1e-10, atol=1e-10)


def test_what_is_not_available_is_not_traded():
    actions = random_policy(4, 2)(observations(), AVAILABLE).numpy()
    assert np.all(actions[:, AVAILABLE == 0.0] == 0.0)
    assert np.all(actions[:, AVAILABLE == 1.0] != 0.0)


def test_an_untrained_policy_hardly_trades():
    policy = RecurrentPolicy(units=32, num_blocks=4)
    actions = policy(observations(100).astype(np.float32), AVAILABLE).numpy()
    assert 0.0 < np.abs(actions).max() < 0.02


def test_actions_on_a_path_do_not_depend_on_the_batch():
    policy, features = random_policy(4, 2), observations()
    actions = policy(features, AVAILABLE)
    for n in range(NUM_PATHS):
        assert_allclose(policy(features[n : n + 1], AVAILABLE)[0], actions[n], rtol=1e-12)


def test_actions_do_not_look_ahead():
    policy, features = random_policy(4, 2), observations()
    actions = policy(features, AVAILABLE)
    for t in range(NUM_STEPS):
        later = np.arange(NUM_STEPS)[:, None] > t
        other = policy(np.where(later, observations(seed=2), features), AVAILABLE)
        assert_array_equal(other[:, : t + 1], actions[:, : t + 1])


def test_the_first_features_matter_to_the_last_action():
    """Through hidden states and through past actions, which the availability can cut off."""
    policy, features = random_policy(4, 2), tf.constant(observations())
    with tf.GradientTape() as tape:
        tape.watch(features)
        last = policy(features, AVAILABLE)[:, -1]
    assert np.all(tape.gradient(last, features)[:, 0] != 0.0)


@pytest.mark.parametrize("policy_class", [RecurrentPolicy, DensePolicy])
def test_the_configuration_makes_the_policy_again(policy_class):
    policy = policy_class(5, num_blocks=3, observes="nothing", dtype="float64", name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(policy))
    assert again.get_config() == policy.get_config()
    assert (again.units, again.num_blocks, again.observes) == (5, 3, "nothing")
    assert (type(again), again.name) == (policy_class, "mine")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras
def test_a_model_with_a_policy_is_saved_and_loaded(tmp_path):
    features = keras.Input([NUM_STEPS, NUM_FEATURES])
    model = keras.Model(features, random_policy(4, 2, "float32")(features, AVAILABLE))
    expected = model(observations())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_allclose(loaded(observations()), expected, rtol=1e-6)
    model.save_weights(tmp_path / "model.weights.h5")
    other = keras.Model(features, RecurrentPolicy(4, 2)(features, AVAILABLE))
    other.load_weights(tmp_path / "model.weights.h5")
    assert_allclose(other(observations()), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["units", "num_blocks"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, None, "3"])
def test_bad_sizes_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` to be a positive integer. .*{name}={value!r}"):
        RecurrentPolicy(**{name: value})


def test_what_cannot_be_observed_is_refused():
    with pytest.raises(ValueError, match=r"`observes` to be one of .*observes='portfolio'"):
        RecurrentPolicy(observes="portfolio")
