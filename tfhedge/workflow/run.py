"""A training run from its settings to its folder."""

import contextlib
import dataclasses
import json
import math
import shutil
import time

import keras
import numpy as np
import tensorflow as tf

from tfhedge import checks
from tfhedge.curvature.dhkfac import DHKFAC
from tfhedge.evaluation import figures
from tfhedge.evaluation.report import LEARNED, NO_HEDGE, histogram
from tfhedge.files import Lock, create_json, read_json, write_json
from tfhedge.hedging.claims import Cliquet
from tfhedge.hedging.instruments import FixedGrid, FloatingGrid
from tfhedge.hedging.objectives import MeanVariance
from tfhedge.hedging.problem import HedgingProblem
from tfhedge.market.heston import Heston
from tfhedge.policy.rollout import RecurrentPolicy
from tfhedge.serving.export import export
from tfhedge.training.callbacks import (
    Checkpoint,
    OptimizerStatistics,
    RunHistory,
    Stop,
    patient_interrupt,
    restore,
)
from tfhedge.training.guard import TrainingError
from tfhedge.training.hedger import DeepHedger
from tfhedge.training.schedules import WarmUpExponentialDecay
from tfhedge.workflow.config import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    LARGEST_SEED,
    differences,
    read_settings,
)

# Streams of paths of one seed: for training, validation and the final report.
TRAINING, VALIDATION, TEST = range(3)

# Test paths simulated at once.
TEST_BATCH_SIZE = 10_000

# Strikes of the contracts of a fixed grid, in units of the initial spot.
FIXED_STRIKES = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)


def make_problem(config):
    """The `HedgingProblem` of a `RunConfig`."""
    return HedgingProblem(
        market=Heston(
            spot=config.spot,
            v0=config.v0,
            kappa=config.kappa,
            theta=config.theta,
            xi=config.xi,
            rho=config.rho,
            rate=config.rate,
            dividend_yield=config.dividend_yield,
        ),
        claim=Cliquet(config.num_steps // config.period, config.period, config.cap),
        instruments=make_instruments(config),
        objective=MeanVariance(config.risk_aversion),
        dt=1.0 / config.steps_per_year,
    )


def make_instruments(config):
    """The grid of options of a `RunConfig`."""
    costs = {"spot_cost": config.spot_cost, "option_cost": config.option_cost}
    if config.grid == "floating":
        return FloatingGrid.from_paper(**costs)
    if config.grid == "none":
        return FloatingGrid(maturities=(), strikes=(), **costs)
    expiries = sorted({math.ceil(config.num_steps * quarter / 4) for quarter in range(1, 5)})
    return FixedGrid.chain(expiries, FIXED_STRIKES, **costs)


def make_policy(config):
    """The policy of a `RunConfig`."""
    return RecurrentPolicy(config.units, config.num_blocks, config.observes)


def make_optimizer(config):
    """The Keras optimizer of a `RunConfig`.

    Adam is trained as in the paper: a linear warm-up over the first epoch, here at most a fifth of
    the steps, exponential decay, and gradients clipped to norm 1.
    """
    settings = config.optimizer_settings
    if config.optimizer != "adam":
        make = {"dh-kfac": DHKFAC, "dh-kfac-paper": DHKFAC.paper}[config.optimizer]
        return make(**settings, seed=config.seed)
    epoch = math.ceil(config.num_paths / config.batch_size)
    warm_up = max(1, min(epoch, config.steps // 5))
    schedule = WarmUpExponentialDecay(
        settings["learning_rate"], warm_up, settings["learning_rate_decay"]
    )
    return keras.optimizers.Adam(schedule, global_clipnorm=1.0)


def make_hedger(config, problem=None, policy=None, optimizer=None, strategy=None):
    """A compiled `DeepHedger`, its weights drawn with the configuration's seed.

    Args:
        config: A `RunConfig`.
        problem: In place of the configuration's problem, if not None.
        policy: Likewise.
        optimizer: Likewise.
        strategy: A `tf.distribute.Strategy` whose replicas share each batch, or None.

    Raises:
        ValueError: If the configuration is impossible, or its market cannot be simulated or priced.
    """
    keras.utils.set_random_seed(config.seed)
    problem = problem or make_problem(config)
    if not all(np.isfinite(x).all() for x in tf.nest.flatten(problem.episodes(2, seed=0))):
        raise ValueError(f"Expected finite paths and prices. Received: {problem.market}")
    hedger = DeepHedger(problem, policy or make_policy(config), config.controls)
    hedger.compile(optimizer=optimizer or make_optimizer(config), strategy=strategy)
    return hedger


def make_folder(folder, config):
    """Makes the folder of a run, with its configuration in `config.json`.

    Raises:
        OSError: If it holds files already, or cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder for this run")
    create_json(folder / CONFIG_FILE, dataclasses.asdict(config))


def open_folder(folder, config):
    """Makes the folder, or finds it as it was made with the same configuration.

    Raises:
        ValueError: If it was made with another one, with the differences.
        OSError: As `make_folder`.
    """
    path = folder / CONFIG_FILE
    try:
        return make_folder(folder, config)
    except FileExistsError:
        if not path.exists():
            raise
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    if differing := differences(read_json(path), settings):
        raise ValueError(f"{folder} holds the results of other settings: {differing}")


def record_optimizer(folder, optimizer):
    """Keeps all settings of a run's optimizer in `optimizer.json`, or compares them.

    Raises:
        RuntimeError: If the run began with others, as with the defaults of another version.
    """
    path = folder / "optimizer.json"
    settings = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    del settings["config"]["name"]  # Keras counts them
    if not path.exists():
        write_json(path, settings)
    elif differing := differences(read_json(path), settings):
        raise RuntimeError(f"{folder} holds a run by another optimizer: {differing}")


def copy_checkpoint(source, target):
    """Copies the checkpoint of a run to another folder, if there is one."""
    if (source / CHECKPOINT_FILE).exists():
        shutil.copy(source / CHECKPOINT_FILE, target)


def check_test_paths(num_paths, seed):
    """Checks what the commands that evaluate are given.

    Raises:
        ValueError: If a number is out of its range.
    """
    checks.positive_integer("num_paths", num_paths)
    checks.integer("seed", seed, 0, LARGEST_SEED)


def load_run(folder):
    """The hedger of a run's last checkpoint, and what the run's summary says.

    Args:
        folder: The run's folder, a `pathlib.Path`.

    Returns:
        A compiled `DeepHedger`, and the contents of `summary.json`, None if there is none of it.

    Raises:
        ValueError: If the folder holds something else, or a run that diverged.
        OSError: If there is no such folder, or no checkpoint in it.
    """
    hedger = make_hedger(read_settings(folder / CONFIG_FILE))
    path = folder / "summary.json"
    summary = read_json(path) if path.exists() else {}
    if summary.get("stopped_by") == "diverged":
        raise ValueError(f"Expected a run with a policy. Received: {folder}, which diverged")
    rows = restore(folder / CHECKPOINT_FILE, hedger, of_same_optimizer=False)
    # An interrupted run was evaluated after its last checkpoint.
    is_its_summary = summary.get("steps") == rows[-1]["step"]
    return hedger, summary if is_its_summary else None


def train(hedger, config, folder):
    """Trains a hedger and leaves everything about it in a folder.

    The folder receives `optimizer.json`, `history.csv`, `checkpoint.npz`, `validation_loss.png`,
    `pnl_histogram.png`, `saved_model/1/` and at last `summary.json`. Where there is a checkpoint
    already, the run is continued from it. Ctrl-C ends the training after the step under way; the
    run is then evaluated and saved as any other, and can still be continued. A run that fails
    (`TrainingError`) leaves its history and a summary that says why.

    Args:
        hedger: What `make_hedger` made of the configuration.
        config: A `RunConfig`.
        folder: The run's folder, a `pathlib.Path`, as `make_folder` made it.

    Returns:
        The contents of `summary.json` and the final `HedgeReport`, None for a run that diverged.

    Raises:
        ConnectionError: If a worker that shares the batches was lost.
        RuntimeError: If another process trains in the folder, or the run began with another
            optimizer.
    """
    with locked(folder), patient_interrupt() as interrupted:
        try:
            history, stop = fit(hedger, config, folder, interrupted=interrupted)
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            raise ConnectionError(f"a worker was lost: {error.message.splitlines()[0]}") from error
        report = None
        if stop.reason != "diverged":
            report = hedger.evaluate_hedge(
                config.test_paths, (config.seed, TEST), config.batch_size
            )
        summary = {
            "steps": history.rows[-1]["step"],
            "stopped_by": stop.reason,
            "seconds": time.perf_counter() - history.started,
            "seed": config.seed,
            **({} if report else {"failure": stop.failure}),
            **(statistics(report) if report else {}),
        }
        if report:
            shutil.rmtree(folder / "saved_model", ignore_errors=True)  # of an interrupted run
            export(hedger, folder / "saved_model", training=summary)
            draw(folder, history.rows, report)
        write_json(folder / "summary.json", summary)
    return summary, report


@contextlib.contextmanager
def locked(folder):
    """Keeps other processes from training in a folder.

    Raises:
        RuntimeError: If one does.
    """
    with Lock(folder, wait=False) as lock:
        if not lock.held:
            raise RuntimeError(f"another process trains in {folder}")
        yield


def fit(hedger, config, folder, callbacks=(), interrupted=lambda: False):
    """Fits the hedger with a validation every `config.validate_every` steps.

    Validation is on the same paths whatever the seed, so that runs can be compared. Where the
    folder holds a checkpoint, the run goes on from there, and ends as if it had never stopped.

    Args:
        hedger: What `make_hedger` made of the configuration.
        config: A `RunConfig`.
        folder: Where to keep `history.csv` and `checkpoint.npz`, a `pathlib.Path`.
        callbacks: Further callbacks; what they add to the logs of an epoch enters the history.
        interrupted: A function that says whether the user has asked to stop.

    Returns:
        The callbacks that recorded the history and ended the training.

    Raises:
        RuntimeError: If the run began with another optimizer.
    """
    record_optimizer(folder, hedger.optimizer)
    checkpoint = folder / CHECKPOINT_FILE
    rows = restore(checkpoint, hedger) if checkpoint.exists() else []
    history = RunHistory(folder / "history.csv", config.steps, rows)
    stop = Stop(config.steps, config.target_loss, interrupted)
    step = rows[-1]["step"] if rows else 0
    for row in rows:
        stop.reason = stop.verdict(row["step"], row["val_loss"])
    if stop.reason is None:
        validation = hedger.problem.dataset(
            config.validation_paths, config.batch_size, (0, VALIDATION)
        )
        try:
            hedger.fit(
                training_batches(hedger.problem, config, step),
                initial_epoch=step // config.validate_every,
                epochs=math.ceil(config.steps / config.validate_every),
                steps_per_epoch=config.validate_every,
                validation_data=validation.cache(),
                callbacks=[
                    OptimizerStatistics(),
                    *callbacks,
                    history,
                    stop,
                    Checkpoint(checkpoint, history, stop),
                ],
                verbose=0,
            )
        except TrainingError as error:
            if stop.reason != "diverged":  # in the midst of an epoch
                history.add_failure()
            stop.reason, stop.failure = "diverged", str(error)
    return history, stop


def training_batches(problem, config, first_step):
    """Batches of the steps from `first_step` on, without an end."""
    arguments = config.num_paths, config.batch_size, (config.seed, TRAINING)
    epoch = problem.dataset(*arguments)
    rest = problem.dataset(*arguments, first_batch=first_step % len(epoch))
    return rest.concatenate(epoch.repeat())


def draw(folder, rows, report):
    """Draws the course of the validation loss and the distribution of the P&L."""
    steps, losses = zip(*((row["step"], row["val_loss"]) for row in rows), strict=True)
    unhedged_loss = report.statistics[NO_HEDGE].loss
    drawn = {
        "validation_loss": figures.validation_loss(steps, losses, unhedged_loss),
        "pnl_histogram": figures.pnl_histogram(**histogram(report.pnl)),
    }
    for name, axes in drawn.items():
        axes.figure.savefig(folder / f"{name}.png", dpi=150)


def statistics(report):
    """A `HedgeReport` as a JSON-ready dictionary, the figures most asked for first."""
    learned, unhedged = report.statistics[LEARNED], report.statistics[NO_HEDGE]
    return {
        "loss": learned.loss,
        "pnl_std": learned.std,
        "cost": learned.cost,
        "unhedged_std": unhedged.std,
        "unhedged_loss": unhedged.loss,
        "statistics": {name: dataclasses.asdict(row) for name, row in report.statistics.items()},
    }
