"""What `fit` does where training fails: an error that says why, and the best weights again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_array_equal

import tfhedge as th
from tfhedge.training.guard import MOST_REJECTED

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=2, cap=0.015),
    instruments=th.FloatingGrid(maturities=(2,), strikes=(1.01,)),
    objective=th.MeanVariance(risk_aversion=1000.0),
)
BATCH = 8


def new_hedger(optimizer):
    keras.utils.set_random_seed(0)
    hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(units=4, num_blocks=1))
    hedger.compile(optimizer=optimizer)
    return hedger


def episodes(num_batches, bad=()):
    """Features, returns and payoffs of so many batches, those of some of them not finite."""
    features, (returns, payoff) = PROBLEM.episodes(BATCH * num_batches, seed=0)
    payoff = payoff.numpy()
    for batch in bad:
        payoff[BATCH * batch] = np.nan
    return features, (returns, payoff)


def assert_weights(hedger, expected):
    for weight, value in zip(hedger.get_weights(), expected, strict=True):
        assert_array_equal(weight, value)


def test_an_optimizer_that_diverges_ends_with_an_error_and_the_first_weights():
    hedger = new_hedger(keras.optimizers.SGD(1e30))
    weights = hedger.get_weights()
    message = r"failed at step \d: the loss of a batch is not finite.*try a smaller learning rate"
    with pytest.raises(th.TrainingError, match=message):
        hedger.fit(*episodes(8), batch_size=BATCH, verbose=0)
    assert_weights(hedger, weights)


class BreakDown(keras.callbacks.Callback):
    """Spoils the weights in the midst of the third epoch, and notes them before."""

    def __init__(self):
        super().__init__()
        self.after = []

    def on_epoch_end(self, epoch, logs=None):
        self.after.append((logs["val_loss"], self.model.get_weights()))

    def on_train_batch_begin(self, batch, logs=None):
        if len(self.after) == 2:
            weights = self.model.get_weights()
            self.model.set_weights([np.nan * w for w in weights])


@pytest.mark.parametrize("optimizer", ["adam", "dh-kfac"])
@pytest.mark.parametrize("as_list", [True, False])
def test_the_best_weights_so_far_are_restored(optimizer, as_list):
    hedger = new_hedger(th.DHKFAC() if optimizer == "dh-kfac" else "adam")
    callback = BreakDown()
    callbacks = [callback]
    if not as_list:
        callbacks = keras.callbacks.CallbackList(callbacks, model=hedger)
    data = episodes(2)
    with pytest.raises(th.TrainingError):
        hedger.fit(
            *data, batch_size=BATCH, epochs=30, validation_data=data, callbacks=callbacks, verbose=0
        )
    assert_weights(hedger, min(callback.after, key=lambda pair: pair[0])[1])


def test_steps_that_are_rejected_in_a_row_end_the_training():
    hedger = new_hedger(th.DHKFAC())
    weights = hedger.get_weights()
    bad = range(MOST_REJECTED + 1)
    message = f"step {MOST_REJECTED}: {MOST_REJECTED} steps in a row were rejected.* try finite"
    with pytest.raises(th.TrainingError, match=message):
        hedger.fit(*episodes(len(bad), bad), batch_size=BATCH, verbose=0)
    assert_weights(hedger, weights)


@pytest.mark.parametrize("bad", [(0,), (1, 2), (3,)])
def test_a_bad_batch_leaves_no_trace(bad):
    hedger = new_hedger(th.DHKFAC())
    history = hedger.fit(*episodes(4, bad), batch_size=BATCH, verbose=0).history
    assert history["rejected_steps"] == [len(bad)]
    assert np.isfinite(history["loss"][0])
    assert all(np.all(np.isfinite(w)) for w in hedger.get_weights())


def test_an_epoch_of_bad_batches_alone_has_no_loss():
    hedger = new_hedger(th.DHKFAC())
    history = hedger.fit(*episodes(2, (0, 1)), batch_size=BATCH, verbose=0).history
    assert np.isnan(history["loss"][0])


def test_a_validation_that_is_not_finite_ends_the_training():
    hedger, data = new_hedger("adam"), episodes(2)
    with pytest.raises(th.TrainingError, match="validation loss is not finite"):
        hedger.fit(*data, batch_size=BATCH, validation_data=episodes(2, (0,)), verbose=0)


@pytest.mark.parametrize("num_paths", [1, 2])
def test_a_batch_of_one_path_or_two_is_trained_on(num_paths):
    """One path has no variance, and costs alone to lower."""
    hedger = new_hedger(th.DHKFAC())
    features, (returns, payoff) = PROBLEM.episodes(4 * num_paths, seed=0)
    data = tf.data.Dataset.from_tensor_slices((features, (returns, payoff))).batch(num_paths)
    history = hedger.fit(data, epochs=8, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert history["rejected_steps"][-1] == 0.0
