"""A search for the best settings of an optimizer, every trial of which can be continued."""

import dataclasses
import json
import math
import time

import keras
import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from tfhedge.evaluation import figures
from tfhedge.files import DamagedFileError, Lock, read_json, write_json
from tfhedge.workflow.config import SEARCH_GRIDS
from tfhedge.workflow.run import fit, make_hedger, open_folder

NAME = "sweep"

# Seconds between two looks at what other processes have under way.
PATIENCE = 5.0


def sweep(config, folder):
    """Tries settings of an optimizer, and gives up at each rung what is not in the better half.

    The rungs of successive halving are at a quarter and a half of the steps, after the warm-up of
    Adam, and judge at the next validation, by the best loss so far, among the trials that have come
    so far: the first goes on whatever its loss is. All that is known is in Optuna's
    `journal.log`, and in a folder for each trial, so that several processes can share a search, and
    one that was interrupted goes on within the trial that was under way. A process that finds
    nothing left waits for the others, and takes over the trial of one that dies. The outcome is in
    `sweep.json` and `sweep.png`, and the `RunConfig` of the winner in `best.json`.

    Args:
        config: A `SweepConfig`.
        folder: The search's folder, a `pathlib.Path`, as `open_folder` made or found it.

    Returns:
        The contents of `sweep.json`.

    Raises:
        RuntimeError: If every trial diverged.
    """
    path = folder / "sweep.json"
    if not path.exists():
        search = Search(config, folder)
        search.run()
        with Lock(folder):
            if not path.exists():  # as no other process has written it
                write_outcome(search.outcome(), config, folder)
    return read_json(path)


def write_outcome(outcome, config, folder):
    """Writes what a search leaves: the winner's settings, a figure, and last `sweep.json`."""
    finished = [trial for trial in outcome["trials"] if trial["state"] == "complete"]
    if not finished:
        raise RuntimeError(f"every trial of {config.run.optimizer} diverged: see {folder}")
    outcome["best"] = min(finished, key=lambda trial: trial["best_val_loss"])
    best = dataclasses.replace(config.run, **outcome["best"]["settings"])
    write_json(folder / "best.json", dataclasses.asdict(best))
    figures.search(outcome)[0].figure.savefig(folder / "sweep.png", dpi=150)
    write_json(folder / "sweep.json", outcome)


class Search:
    """The trials of a search, which this process shares with any others in the same folder.

    A trial under way is that of the process that holds the lock on its folder, as long as it lives.

    Args:
        config: A `SweepConfig`.
        folder: The search's folder, a `pathlib.Path`.
    """

    def __init__(self, config, folder):
        self.config = config
        self.folder = folder
        self.grid = SEARCH_GRIDS[config.run.optimizer]
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self.storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
        except json.JSONDecodeError as error:
            raise DamagedFileError(f"Expected Optuna's journal.log in {folder}: {error}") from error
        with Lock(folder):
            self.study = optuna.create_study(
                study_name=NAME,
                storage=self.storage,
                pruner=optuna.pruners.SuccessiveHalvingPruner(
                    min_resource=max(1, config.run.steps // 4), reduction_factor=2
                ),
                load_if_exists=True,
            )

    def run(self):
        """Runs trials until all have ended, here or in other processes."""
        while True:
            with Lock(self.folder):
                trial, lock = self.claim()
            if trial is not None:
                with lock:
                    self.run_trial(trial)
            elif self.under_way():
                time.sleep(PATIENCE)
            else:
                return

    def claim(self):
        """A trial that nobody runs, left behind or new, and the lock on it; or nothing twice."""
        for trial in self.under_way():
            lock = Lock(self.trial_folder(trial), wait=False)
            if lock.held:
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(
                    self.storage.get_study_id_from_name(NAME), trial.number
                )
                return self.with_settings(optuna.trial.Trial(self.study, trial_id)), lock
        count = len(self.study.get_trials(deepcopy=False))
        if not self.study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            if count == self.config.trials:
                return None, None
            if self.config.sampler == "grid":
                self.study.enqueue_trial(self.config.points[count])
        if self.config.sampler == "tpe":
            self.study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=max(1, self.config.trials // 3),
                seed=self.config.run.seed + count,  # another for each, whoever draws it
            )
        trial = self.with_settings(self.study.ask())
        return trial, Lock(self.trial_folder(trial))

    def with_settings(self, trial):
        """The trial, with a value of each setting that is searched."""
        for name, values in self.grid.items():
            trial.suggest_float(name, min(values), max(values), log=True)
        return trial

    def under_way(self):
        """The trials that have not ended."""
        return self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])

    def trial_folder(self, trial):
        """The folder of a trial."""
        return self.folder / f"trial-{trial.number}"

    def run_trial(self, trial):
        """Runs or continues a trial and tells Optuna how it ended."""
        run, folder = dataclasses.replace(self.config.run, **trial.params), self.trial_folder(trial)
        print(
            f"\n{run.optimizer}, trial {trial.number}: {trial.params}, folder {folder}\n",
            flush=True,
        )
        open_folder(folder, run)
        keras.utils.clear_session()
        referee = Referee(self.study, trial, run.steps)
        history, stop = fit(make_hedger(run), run, folder, [referee])
        if stop.reason == "diverged":
            self.study.tell(trial, state=TrialState.FAIL)
        elif not referee.gave_up:
            self.study.tell(trial, min(row["val_loss"] for row in history.rows))

    def outcome(self):
        """The contents of `sweep.json`, but for the winner."""
        return {
            "optimizer": self.config.run.optimizer,
            "sampler": self.config.sampler,
            "grid": self.grid,
            "steps": self.config.run.steps,
            "trials": [describe(trial) for trial in self.study.trials],
        }


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
    """A trial as a JSON-ready dictionary; the losses are the best up to each validation."""
    states = {TrialState.PRUNED: "pruned", TrialState.FAIL: "diverged"}
    losses = trial.intermediate_values
    return {
        "number": trial.number,
        "settings": trial.params,
        "state": states.get(trial.state, "complete"),
        "best_val_loss": min(losses.values(), default=None),
        "steps": max(losses, default=0),
        "course": {"step": list(losses), "best_val_loss": list(losses.values())},
    }
