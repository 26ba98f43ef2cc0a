"""What happens around the steps: progress, the history file, and stopping."""

import contextlib
import csv
import io
import json
import math
import signal
import sys
import time
import zipfile

import keras
import numpy as np

from tfhedge.curvature.kronecker_optimizer import KroneckerOptimizer
from tfhedge.curvature.report import CurvatureReport
from tfhedge.files import DamagedFileError, write_bytes, write_text


class OptimizerStatistics(keras.callbacks.Callback):
    """Adds to the logs of each epoch how `DHKFAC` stands, for TensorBoard, CSVLogger and the like.

    They are `step_size`, `trust_region`, `damping` and `signal`, and for each layer
    `largest_eigenvalue_<layer>`, `mean_eigenvalue_<layer>` and `smallest_eigenvalue_<layer>` of its
    block, before damping, with the `condition_<layer>` after. Of other optimizers it says nothing.

    It stands before the other callbacks of `fit`, so that they see what it adds.
    """

    def on_epoch_end(self, epoch, logs=None):
        """Adds the statistics to the logs."""
        optimizer = self.model.optimizer
        if not isinstance(optimizer, KroneckerOptimizer):
            return
        names = [x for x in ("step_size", "damping", "signal") if hasattr(optimizer, x)]
        logs.update({x: float(getattr(optimizer, x)) for x in names})
        logs["trust_region"] = float(optimizer.trust_region_now())
        for block in CurvatureReport.of(optimizer).blocks:
            layer = block.weights[0].split("/")[-2]
            for name in ("largest", "mean", "smallest"):
                logs[f"{name}_eigenvalue_{layer}"] = getattr(block, name)
            logs[f"condition_{layer}"] = block.condition


class RunHistory(keras.callbacks.Callback):
    """Prints a line at each validation and keeps all of them in a CSV file.

    A line holds the losses, the seconds since the run began, and those of the training steps alone.
    The first step of a process traces and compiles, and counts there as the mean of those that
    follow it.

    Args:
        path: The file, rewritten at each validation.
        num_steps: Number of steps planned, for the remaining time.
        rows: The lines of a run that is continued.

    Attributes:
        rows: The lines so far, as dictionaries.
        started: When the run began, or would have begun without interruption.
    """

    def __init__(self, path, num_steps, rows=()):
        super().__init__()
        self.path = path
        self.num_steps = num_steps
        self.rows = list(rows)
        last = self.rows[-1] if rows else {"seconds": 0.0, "training_seconds": 0.0}
        self.started = time.perf_counter() - last["seconds"]
        self.training_seconds = last["training_seconds"]
        self.first_step = None

    @property
    def step(self):
        """Number of optimization steps done."""
        return int(self.model.optimizer.iterations)

    def on_train_begin(self, logs=None):
        """Prints the heading."""
        print(
            f"{'step':>6}{'loss':>10}{'validation':>12}{'P&L std':>10}{'cost':>10}"
            f"{'s/step':>8}{'left':>8}"
        )

    def on_epoch_begin(self, epoch, logs=None):
        """Notes where this stretch of steps begins."""
        self.epoch = self.step, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Shows on a terminal that something is going on."""
        self.steps_ended = time.perf_counter()
        self.first_step = self.first_step or (self.step, self.steps_ended)
        if sys.stdout.isatty():
            print(f"{self.step:>6}{logs['loss']:>10.4f}", end="\r", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        """Adds a line: losses of training and validation, and times."""
        now = time.perf_counter()
        first, began = max(x for x in (self.epoch, self.first_step) if x[0] < self.step)
        step_seconds = (self.steps_ended - began) / (self.step - first)
        self.training_seconds += (self.step - self.epoch[0]) * step_seconds
        row = {"step": self.step, **{name: float(value) for name, value in logs.items()}}
        times = {
            "seconds": now - self.started,
            "training_seconds": self.training_seconds,
            "step_seconds": step_seconds,
        }
        self.rows.append({**row, **times})
        self._write()
        left = (self.num_steps - self.step) * (now - began) / (self.step - first)
        print(
            f"{row['step']:>6}{row['loss']:>10.4f}{row['val_loss']:>12.4f}"
            f"{row['val_pnl_std']:>10.5f}{row['val_cost']:>10.5f}{step_seconds:>8.2f}"
            f"{left // 60:>4.0f}m{left % 60:02.0f}s",
            flush=True,
        )

    def add_failure(self):
        """Adds a line of NaN for the step at which the training failed."""
        names = self.rows[-1] if self.rows else ("loss", "val_loss")
        row = {"step": self.step, **{name: math.nan for name in names if name != "step"}}
        seconds = time.perf_counter() - self.started
        self.rows.append({**row, "seconds": seconds, "training_seconds": self.training_seconds})
        self._write()

    def _write(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


class Stop(keras.callbacks.Callback):
    """Ends the training after a number of steps, at a target, or on Ctrl-C.

    It says so, too, where a validation loss is not finite, which `fit` ends with a `TrainingError`.

    Args:
        num_steps: Largest number of steps.
        target_loss: Validation loss at which to stop, or None.
        interrupted: A function that says whether the user has asked to stop.

    Attributes:
        reason: Why the training ended: `"steps"`, `"target"`, `"interrupted"` or `"diverged"`.
        failure: The message of the `TrainingError`, or None.
    """

    def __init__(self, num_steps, target_loss=None, interrupted=lambda: False):
        super().__init__()
        self.num_steps = num_steps
        self.target_loss = target_loss
        self.interrupted = interrupted
        self.reason = self.failure = None

    def on_train_batch_end(self, batch, logs=None):
        """Checks the step count and the user."""
        if self.interrupted():
            self._stop("interrupted")
        elif int(self.model.optimizer.iterations) >= self.num_steps:
            self._stop("steps")

    def on_epoch_end(self, epoch, logs=None):
        """Checks the validation loss."""
        verdict = self.verdict(int(self.model.optimizer.iterations), logs["val_loss"])
        if verdict == "diverged" or (verdict and self.reason is None):
            self._stop(verdict)

    def verdict(self, step, val_loss):
        """Why to end the training at a validation, or None.

        Args:
            step: Number of steps done.
            val_loss: The validation loss then.
        """
        if not val_loss < float("inf"):
            return "diverged"
        if step >= self.num_steps:
            return "steps"
        on_target = self.target_loss is not None and val_loss <= self.target_loss
        return "target" if on_target else None

    def _stop(self, reason):
        self.reason = reason
        self.model.stop_training = True


class Checkpoint(keras.callbacks.Callback):
    """Keeps what `restore` needs in a file, at each validation.

    A run that was interrupted is continued from the validation before, as if nothing had happened;
    and of one that diverged the last state is kept that had not.

    Args:
        path: The file, a `pathlib.Path`.
        history: The `RunHistory`.
        stop: The `Stop`.
    """

    def __init__(self, path, history, stop):
        super().__init__()
        self.path = path
        self.history = history
        self.stop = stop

    def on_epoch_end(self, epoch, logs=None):
        """Writes the weights, the state of the optimizer and the history."""
        if self.stop.reason in ("interrupted", "diverged"):
            return
        state = {}
        self.model.optimizer.save_own_variables(state)
        arrays = {f"optimizer_{name}": value for name, value in state.items()}
        arrays |= {f"weight_{i}": value for i, value in enumerate(self.model.get_weights())}
        file = io.BytesIO()
        np.savez(file, history=json.dumps(self.history.rows), **arrays)
        write_bytes(self.path, file.getvalue())


def restore(path, hedger, of_same_optimizer=True):
    """Gives a hedger the weights and the state of the optimizer that `Checkpoint` kept.

    Args:
        path: The file.
        hedger: A compiled `DeepHedger` of the same configuration.
        of_same_optimizer: Whether the optimizer has to be the one of the checkpoint; else the state
            is left out where it is that of another.

    Returns:
        The rows of the history.

    Raises:
        DamagedFileError: If the file is not whole, or that of another policy or optimizer.
        OSError: If it cannot be read.
    """
    try:
        with path.open("rb") as file, np.load(file) as npz:
            arrays = dict(npz)
        rows = json.loads(arrays.pop("history").item())
        weights = [arrays.pop(f"weight_{i}") for i in range(len(hedger.weights))]
        state = {name.removeprefix("optimizer_"): array for name, array in arrays.items()}
        fits = len(state) == len(hedger.optimizer.variables)
        if of_same_optimizer and not fits:  # Keras would go on without them
            raise ValueError(f"a checkpoint with {len(state)} variables of an optimizer")
        rows[-1]["step"]  # there is at least one validation
        hedger.set_weights(weights)
        if fits:
            hedger.optimizer.load_own_variables(state)
    except (EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise DamagedFileError(
            f"Expected a checkpoint with the {len(hedger.optimizer.variables)} variables of "
            f"{hedger.optimizer.name}. Received: {path}, {error}"
        ) from error
    return rows


@contextlib.contextmanager
def patient_interrupt():
    """Makes the first Ctrl-C a request and the second one a `KeyboardInterrupt`.

    Yields:
        A function that says whether the request has been made.
    """
    requests = []

    def request(signum, frame):
        if requests:
            raise KeyboardInterrupt
        requests.append(signum)
        print("\nstopping after this step; press Ctrl-C again to give up at once", file=sys.stderr)

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield lambda: bool(requests)
    finally:
        signal.signal(signal.SIGINT, previous)
