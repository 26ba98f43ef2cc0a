"""A search for the best settings of an optimizer, every trial of which can be continued."""

import dataclasses
import json
import math

import keras
import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from tfhedge.files import write_json
from tfhedge.workflow.config import SEARCH_GRIDS
from tfhedge.workflow.run import fit, make_hedger, open_folder

NAME = "sweep"


def sweep(config, folder):
    """Tries points of an optimizer's grid, and gives up half of those that are left at each rung.

    The rungs of successive halving are at a quarter and a half of the steps, after the warm-up of
    Adam, and judge by the best validation loss so far. All that is known is in Optuna's
    `journal.log`, and in a folder for each trial: a search that was interrupted goes on from there,
    within the trial that was under way. The outcome is in `sweep.json`.

    Args:
        config: A `SweepConfig`.
        folder: The search's folder, a `pathlib.Path`, as `open_folder` made or found it.

    Returns:
        The contents of `sweep.json`.

    Raises:
        RuntimeError: If every trial diverged.
    """
    path = folder / "sweep.json"
    if path.exists():
        return json.loads(path.read_text())
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = open_study(config, storage)
    while (trial := next_trial(study, storage)) is not None:
        run_trial(study, trial, config, folder / f"trial-{trial.number}")
    outcome = {
        "optimizer": config.run.optimizer,
        "grid": SEARCH_GRIDS[config.run.optimizer],
        "steps": config.run.steps,
        "trials": [describe(trial) for trial in study.trials],
    }
    finished = [trial for trial in outcome["trials"] if trial["state"] == "complete"]
    if not finished:
        raise RuntimeError(f"every trial of {config.run.optimizer} diverged: see {folder}")
    outcome["best"] = min(finished, key=lambda trial: trial["best_val_loss"])
    write_json(path, outcome)
    return outcome


def open_study(config, storage):
    """The Optuna study in a storage, with a trial for each point to try."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=NAME,
        storage=storage,
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, config.run.steps // 4), reduction_factor=2
        ),
        load_if_exists=True,
    )
    for point in config.points[: config.trials]:
        study.enqueue_trial(point, skip_if_exists=True)
    return study


def next_trial(study, storage):
    """The trial that was interrupted, or else the next one, or None."""
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study_id = storage.get_study_id_from_name(NAME)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        return optuna.trial.Trial(study, trial_id)
    return study.ask() if study.get_trials(states=[TrialState.WAITING]) else None


def run_trial(study, trial, config, folder):
    """Runs or continues a trial and tells Optuna how it ended."""
    grid = SEARCH_GRIDS[config.run.optimizer]
    settings = {name: trial.suggest_categorical(name, values) for name, values in grid.items()}
    run = dataclasses.replace(config.run, **settings)
    print(f"\n{run.optimizer}, trial {trial.number}: {settings}, folder {folder}\n", flush=True)
    open_folder(folder, run)
    keras.utils.clear_session()
    referee = Referee(study, trial, run.steps)
    history, stop = fit(make_hedger(run), run, folder, [referee])
    if stop.reason == "diverged":
        study.tell(trial, state=TrialState.FAIL)
    elif not referee.gave_up:
        study.tell(trial, min(row["val_loss"] for row in history.rows))


class Referee(keras.callbacks.Callback):
    """Reports the best validation loss so far, and ends a trial that Optuna gives up.

    Args:
        study: The Optuna study.
        trial: The trial of this run.
        num_steps: Number of steps after which the run is complete.

    Attributes:
        gave_up: Whether the trial was given up.
    """

    def __init__(self, study, trial, num_steps):
        super().__init__()
        self.study = study
        self.trial = trial
        self.num_steps = num_steps
        self.gave_up = False

    def on_epoch_end(self, epoch, logs=None):
        """Reports, where this was not done before an interruption, and asks."""
        step = int(self.model.optimizer.iterations)
        reported = self.study.trials[self.trial.number].intermediate_values
        if not math.isfinite(logs["val_loss"]):
            return  # `Stop` ends the run
        if step not in reported:
            self.trial.report(min([logs["val_loss"], *reported.values()]), step)
        if step < self.num_steps and self.trial.should_prune():
            # At once, as Optuna does not say it twice.
            self.study.tell(self.trial, state=TrialState.PRUNED)
            self.gave_up = self.model.stop_training = True


def describe(trial):
    """A trial as a JSON-ready dictionary."""
    states = {TrialState.PRUNED: "pruned", TrialState.FAIL: "diverged"}
    losses = trial.intermediate_values
    return {
        "number": trial.number,
        "settings": trial.params,
        "state": states.get(trial.state, "complete"),
        "best_val_loss": min(losses.values(), default=None),
        "steps": max(losses, default=0),
    }
