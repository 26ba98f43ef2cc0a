"""What happens around the steps: progress, the history file, and stopping."""

import contextlib
import csv
import io
import os
import signal
import sys
import time

import keras


def write_text(path, text):
    """Writes a file all at once: a reader sees the old or the new, never a half.

    Args:
        path: A `pathlib.Path`.
        text: The contents.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


class RunHistory(keras.callbacks.Callback):
    """Prints a line at each validation and keeps all of them in a CSV file.

    Args:
        path: The file, rewritten at each validation.
        num_steps: Number of steps planned, for the remaining time.

    Attributes:
        rows: The lines so far, as dictionaries.
    """

    def __init__(self, path, num_steps):
        super().__init__()
        self.path = path
        self.num_steps = num_steps
        self.rows = []

    @property
    def step(self):
        """Number of optimization steps done."""
        return int(self.model.optimizer.iterations)

    def on_train_begin(self, logs=None):
        """Starts the clock."""
        self.started = time.perf_counter()
        print(
            f"{'step':>6}{'loss':>10}{'validation':>12}{'P&L std':>10}{'cost':>10}"
            f"{'s/step':>8}{'left':>8}"
        )

    def on_epoch_begin(self, epoch, logs=None):
        """Notes where this stretch of steps begins."""
        self.epoch_started, self.epoch_first = time.perf_counter(), self.step

    def on_train_batch_end(self, batch, logs=None):
        """Shows on a terminal that something is going on."""
        self.steps_ended = time.perf_counter()
        if sys.stdout.isatty():
            print(f"{self.step:>6}{logs['loss']:>10.4f}", end="\r", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        """Adds a line: losses of training and validation, and times."""
        now = time.perf_counter()
        seconds = now - self.started
        step_seconds = (self.steps_ended - self.epoch_started) / (self.step - self.epoch_first)
        optimizer = self.model.optimizer
        row = {"step": self.step, **{name: float(value) for name, value in logs.items()}}
        for name in ("step_size", "momentum_used", "rejected_steps"):
            if hasattr(optimizer, name):
                row[name] = float(getattr(optimizer, name))
        self.rows.append({**row, "seconds": seconds, "step_seconds": step_seconds})
        self._write()
        # The first stretch holds the compilation, so that its pace says little of the rest.
        left = (
            (self.num_steps - self.step)
            * (now - self.epoch_started)
            / (self.step - self.epoch_first)
        )
        print(
            f"{row['step']:>6}{row['loss']:>10.4f}{row['val_loss']:>12.4f}"
            f"{row['val_pnl_std']:>10.5f}{row['val_cost']:>10.5f}{step_seconds:>8.2f}"
            f"{left // 60:>4.0f}m{left % 60:02.0f}s",
            flush=True,
        )

    def _write(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


class Stop(keras.callbacks.Callback):
    """Ends the training after a number of steps, at a target, on Ctrl-C, or when it diverges.

    Args:
        num_steps: Largest number of steps.
        target_loss: Validation loss at which to stop, or None.
        interrupted: A function that says whether the user has asked to stop.

    Attributes:
        reason: Why the training ended: `"steps"`, `"target"`, `"interrupted"` or `"diverged"`.
    """

    def __init__(self, num_steps, target_loss=None, interrupted=lambda: False):
        super().__init__()
        self.num_steps = num_steps
        self.target_loss = target_loss
        self.interrupted = interrupted
        self.reason = None

    def on_train_batch_end(self, batch, logs=None):
        """Checks the step count, the loss, and the user."""
        if not logs["loss"] < float("inf"):
            self._stop("diverged")
        elif self.interrupted():
            self._stop("interrupted")
        elif int(self.model.optimizer.iterations) >= self.num_steps:
            self._stop("steps")

    def on_epoch_end(self, epoch, logs=None):
        """Checks the validation loss, if there is one."""
        if not logs.get("val_loss", 0.0) < float("inf"):
            self._stop("diverged")
        elif self.reason is None and self.target_loss and logs["val_loss"] <= self.target_loss:
            self._stop("target")

    def _stop(self, reason):
        self.reason = reason
        self.model.stop_training = True


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
