"""What ends a training that has failed."""

import keras

from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer

# So many steps in a row are rejected before the training is given up.
MOST_REJECTED = 20


class TrainingError(RuntimeError):
    """A training that cannot go on; its message says why, and what to try."""


class Guard(keras.callbacks.Callback):
    """Ends a training that has failed with a `TrainingError`, and restores the best weights.

    A training has failed where a loss is not finite and the optimizer does not take the step back,
    or where a `DHKFAC` has rejected 20 steps in a row. The best weights are those of the epoch with
    the least validation loss, or with the least loss where there is no validation; before the first
    epoch has ended, those of the start.

    Raises:
        TrainingError: If the training has failed.
    """

    def on_train_begin(self, logs=None):
        """Keeps the weights of the start."""
        self.best, self.weights = float("inf"), self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        """Looks for a loss that is not finite, and for steps that are rejected in a row."""
        if not isinstance(self.model.optimizer, KroneckerOptimizer):
            if not _is_finite(logs["loss"]):
                self._fail("the loss of a batch is not finite", "a smaller learning rate")
        elif float(self.model.optimizer.rejected_in_a_row) >= MOST_REJECTED:
            self._fail(
                f"{MOST_REJECTED} steps in a row were rejected, as the loss, its gradient or its "
                "curvature was not finite, or the loss was not finite after a step of any length",
                "finite features, returns and payoffs of a moderate size, a larger batch, fewer "
                "blocks or a larger `shrinkage`",
            )

    def on_epoch_end(self, epoch, logs=None):
        """Keeps the weights if they are the best so far."""
        loss = logs.get("val_loss", logs["loss"])
        if not _is_finite(loss) and "val_loss" in logs:
            self._fail("the validation loss is not finite", "a smaller learning rate")
        if loss < self.best:
            self.best, self.weights = loss, self.model.get_weights()

    def _fail(self, cause, remedy):
        self.model.set_weights(self.weights)
        step = int(self.model.optimizer.iterations)
        raise TrainingError(
            f"Training failed at step {step}: {cause}. The policy has its best weights again; "
            f"try {remedy}"
        )


def _is_finite(loss):
    return abs(float(loss)) < float("inf")
