"""All settings of the commands that train, with their defaults, help texts and presets.

Nothing heavy is imported here, so that the command line can explain itself at once.
"""

import dataclasses
import itertools
import math
import random

from tfhedge import checks
from tfhedge.files import read_json

# The settings of each optimizer, with their defaults.
OPTIMIZERS = {
    "dh-kfac": {"learning_rate": 1.0, "trust_region": 0.3},
    # The winners of their searches in `tfhedge experiment optimizers`.
    "dh-kfac-paper": {"learning_rate": 4e-3, "trust_region": 1e-3},
    "adam": {"learning_rate": 5e-4, "learning_rate_decay": 0.9995},
}

# The names of all of them.
OPTIMIZER_SETTINGS = sorted({name for settings in OPTIMIZERS.values() for name in settings})

# The largest seed of a run.
LARGEST_SEED = 2**31 - 2

# What chooses the points of a search.
SAMPLERS = ("grid", "tpe")

# The values of these settings that a search tries, each with each, or the range that they span.
SEARCH_GRIDS = {
    "dh-kfac": {"learning_rate": (0.6, 0.8, 1.0), "trust_region": (0.1, 0.3, 1.0)},
    "dh-kfac-paper": {"learning_rate": (2e-3, 4e-3, 8e-3), "trust_region": (1e-5, 1e-4, 1e-3)},
    "adam": {
        "learning_rate": (2.5e-4, 5e-4, 1e-3, 2e-3),
        "learning_rate_decay": (0.999, 0.9995),
    },
}

# The options that can be traded.
GRIDS = ("floating", "fixed", "none")

# What a policy may decide on, and see of what it decided; as in `tfhedge.hedging.controls` and
# `tfhedge.policy.cell`, which import TensorFlow.
CONTROLS, OBSERVABLE = ("positions", "trades"), ("log_action", "last_action", "nothing")

# What a run is continued from, with which settings.
CHECKPOINT_FILE, CONFIG_FILE = "checkpoint.npz", "config.json"

# Under these headings the command line explains the settings.
TRAINING = "training"
POLICY = "policy"
MARKET = "market (Heston, annual units)"
CLAIM = "cliquet, costs and objective"


def _setting(group, default, text, choices=None):
    metadata = {"group": group, "help": text, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def _optimizer_setting(name, text):
    defaults = [f"{key} {row[name]:g}" for key, row in OPTIMIZERS.items() if name in row]
    return _setting(TRAINING, None, f"{text} (default: {', '.join(defaults)})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings of `tfhedge train`; the problem is the paper's, section 4.1.

    Raises:
        ValueError: If a setting is impossible in itself. What the market, the claim or the
            objective do not accept, they refuse themselves when the run is made.

    Example:
    >>> RunConfig(num_steps=250)
    Traceback (most recent call last):
    ValueError: Expected `num_steps` to be a multiple of `period`. Received: ...
    """

    optimizer: str = _setting(TRAINING, "dh-kfac", "how to optimize", tuple(OPTIMIZERS))
    steps: int = _setting(TRAINING, 1000, "largest number of optimization steps")
    batch_size: int = _setting(TRAINING, 2048, "paths in a step")
    learning_rate: float | None = _optimizer_setting(
        "learning_rate",
        "dh-kfac: share of the minimizing step; dh-kfac-paper: largest step size eta_max; "
        "adam: peak learning rate",
    )
    learning_rate_decay: float | None = _optimizer_setting(
        "learning_rate_decay", "adam: factor by which the learning rate falls in each step"
    )
    trust_region: float | None = _optimizer_setting(
        "trust_region",
        "size rho^TR of the trust region; dh-kfac: share of the risk; dh-kfac-paper: at the start",
    )
    seed: int = _setting(TRAINING, 0, "seed of the paths, the initial weights and the optimizer")
    target_loss: float | None = _setting(
        TRAINING, None, "stop once the validation loss is this low (default: never)"
    )
    validate_every: int = _setting(TRAINING, 10, "steps between validations")
    num_paths: int = _setting(TRAINING, 700_000, "training paths, gone through again and again")
    validation_paths: int = _setting(TRAINING, 16_384, "validation paths")
    test_paths: int = _setting(TRAINING, 70_000, "fresh paths for the final report")
    units: int = _setting(POLICY, 32, "width of the policy's LSTM blocks")
    num_blocks: int = _setting(POLICY, 4, "number of LSTM blocks")
    controls: str = _setting(
        POLICY,
        "positions",
        "what the policy decides on: positions in what can be held, the underlying and fixed "
        "contracts; or trades in everything, as in the paper",
        CONTROLS,
    )
    observes: str = _setting(
        POLICY, "log_action", "what the policy sees of its last action", OBSERVABLE
    )
    spot: float = _setting(MARKET, 1.0, "initial price of the underlying")
    v0: float = _setting(MARKET, 0.0625, "initial variance")
    kappa: float = _setting(MARKET, 8.0, "speed of mean reversion")
    theta: float = _setting(MARKET, 0.0625, "long-run variance")
    xi: float = _setting(MARKET, 1.0, "volatility of variance")
    rho: float = _setting(MARKET, -0.7, "correlation of spot and variance")
    rate: float = _setting(MARKET, 0.0, "interest rate, continuously compounded")
    dividend_yield: float = _setting(MARKET, 0.0, "dividend yield, likewise")
    num_steps: int = _setting(CLAIM, 240, "maturity T of the cliquet in time steps")
    period: int = _setting(CLAIM, 20, "time steps between its resets")
    cap: float = _setting(CLAIM, 0.015, "cap on the return of a period")
    steps_per_year: float = _setting(CLAIM, 250.0, "time steps in a year")
    grid: str = _setting(
        CLAIM,
        "floating",
        "options traded: floating, those of the paper; fixed, contracts that expire at a quarter, "
        "half, three quarters and the end; none, the underlying alone",
        GRIDS,
    )
    spot_cost: float = _setting(
        CLAIM, 1e-4, "cost of trading one unit of the underlying, as a share of its initial price"
    )
    option_cost: float = _setting(
        CLAIM, 1e-2, "cost of trading one option on such a unit, likewise"
    )
    risk_aversion: float = _setting(CLAIM, 1000.0, "weight gamma of the variance in the loss")

    def __post_init__(self):
        checks.one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))
        checks.one_of("grid", self.grid, GRIDS)
        checks.one_of("controls", self.controls, CONTROLS)
        checks.one_of("observes", self.observes, OBSERVABLE)
        for field in dataclasses.fields(self):
            if field.type is int and field.name != "seed":
                checks.integer(field.name, getattr(self, field.name), 1, 2**31 - 1)
        checks.integer("seed", self.seed, 0, LARGEST_SEED)
        checks.positive("steps_per_year", self.steps_per_year)
        if self.target_loss is not None:
            checks.positive("target_loss", self.target_loss)
        for name, value in self._given_optimizer_settings.items():
            if name not in OPTIMIZERS[self.optimizer]:
                raise ValueError(
                    f"Expected no `{name}`, as {self.optimizer} has none. Received: {name}={value}"
                )
            is_share = self.optimizer == "dh-kfac" and name == "learning_rate"
            largest = 1.0 if is_share or name == "learning_rate_decay" else math.inf
            checks.in_range(name, value, 0.0, largest, closed="right")
        if self.num_steps % self.period:
            raise ValueError(
                "Expected `num_steps` to be a multiple of `period`. "
                f"Received: num_steps={self.num_steps}, period={self.period}"
            )

    @property
    def optimizer_settings(self):
        """The settings of this run's optimizer, as in `OPTIMIZERS`."""
        return OPTIMIZERS[self.optimizer] | self._given_optimizer_settings

    @property
    def _given_optimizer_settings(self):
        given = {name: getattr(self, name) for name in OPTIMIZER_SETTINGS}
        return {name: value for name, value in given.items() if value is not None}


PRESETS = {
    "paper": RunConfig(),
    "demo": RunConfig(steps=60, batch_size=1024, validation_paths=4096, test_paths=20_000),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The settings of `tfhedge sweep`.

    Args:
        run: The `RunConfig` of every trial, but for what is searched.
        trials: Number of points to try.
        sampler: What chooses them: "grid" for those of the grid in random order, or "tpe" for
            Optuna's tree-structured Parzen estimator in the range that the grid spans.

    Raises:
        ValueError: If the sampler is unknown, or the grid has fewer points.
    """

    run: RunConfig
    trials: int = 8
    sampler: str = "grid"

    def __post_init__(self):
        checks.one_of("sampler", self.sampler, SAMPLERS)
        checks.positive_integer("trials", self.trials)
        if self.sampler == "grid":
            checks.integer("trials", self.trials, 1, len(self.points))

    @property
    def points(self):
        """The points of the grid, in random order: settings of the optimizer."""
        grid = SEARCH_GRIDS[self.run.optimizer]
        points = [
            dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
        ]
        random.Random(46).shuffle(points)
        return points


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The settings of `tfhedge experiment optimizers`.

    Args:
        run: The `RunConfig` of every run, but for the optimizer, its settings and the seed. Adam
            takes its `steps` and validates every `validate_every`; the others, which need fewer,
            take a third of the steps and validate three times as often, but not in the searches.
        trials: Number of points of an optimizer's grid to try.
        search_steps: Steps of a trial. Adam's learning rate rises over a fifth of them, and in its
            run, if that has more, over at most an epoch.
        seeds: Number of runs of each optimizer.

    Raises:
        ValueError: If a number is out of its range.
    """

    run: RunConfig
    trials: int = SweepConfig.trials
    search_steps: int = 600
    seeds: int = 3

    def __post_init__(self):
        checks.positive_integer("search_steps", self.search_steps)
        checks.positive_integer("seeds", self.seeds)
        for optimizer in OPTIMIZERS:
            self.sweep(optimizer)

    def sweep(self, optimizer):
        """The search of an optimizer, a `SweepConfig`."""
        run = dataclasses.replace(self.run, optimizer=optimizer, steps=self.search_steps)
        return SweepConfig(run=run, trials=self.trials)

    def run_of(self, optimizer):
        """The `RunConfig` of an optimizer as it stands."""
        share = 1 if optimizer == "adam" else 3
        steps, every = (math.ceil(x / share) for x in (self.run.steps, self.run.validate_every))
        return dataclasses.replace(self.run, optimizer=optimizer, steps=steps, validate_every=every)


def read_settings(path):
    """Reads the settings of a run.

    Args:
        path: The `config.json` of a run's folder, or the `best.json` of a search, a `pathlib.Path`.

    Returns:
        The `RunConfig`.

    Raises:
        ValueError: If the file holds something else.
        OSError: If it cannot be read.
    """
    try:
        return RunConfig(**read_json(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected the settings of a run. Received: {path}, {error}") from error


def resumed_settings(folder, given):
    """Reads the settings of a run that is to be continued.

    Args:
        folder: The run's folder, a `pathlib.Path`.
        given: Settings that the user expects it to have, by name.

    Returns:
        The `RunConfig`.

    Raises:
        ValueError: If it has others, or the run has ended by itself, or the folder holds something
            else.
        OSError: If there is no such folder, or it cannot be read.
    """
    config, summary = read_settings(folder / CONFIG_FILE), folder / "summary.json"
    if summary.exists() and read_json(summary).get("stopped_by") != "interrupted":
        raise ValueError(f"{folder} holds a run that has ended: there is nothing to continue")
    if differing := differences({name: getattr(config, name) for name in given}, given):
        raise ValueError(f"{folder} holds a run with other settings: {differing}")
    return config


def differences(there, here):
    """What differs between two configurations, in one line, empty if nothing does.

    Args:
        there: The settings of a folder, as JSON has them.
        here: Those given now.

    >>> differences({"run": {"seed": 0, "units": 8}}, {"run": {"seed": 1, "units": 8}})
    'run.seed is 0 there and 1 here'
    """
    nothing, found = object(), []
    for name in dict.fromkeys([*there, *here]):
        old, new = there.get(name, nothing), here.get(name, nothing)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = differences(old, new)
            found += [f"{name}.{part}" for part in inner.split(", ") if part]
        elif old != new:
            old, new = ("missing" if x is nothing else x for x in (old, new))
            found.append(f"{name} is {old} there and {new} here")
    return ", ".join(found)


def read_market(path):
    """Reads the market that `tfhedge calibrate` wrote.

    Args:
        path: A JSON file with the arguments of `Heston`, a `pathlib.Path`.

    Returns:
        The market's settings for a `RunConfig`, a dictionary.

    Raises:
        ValueError: If the file holds something else.
        OSError: If it cannot be read.
    """
    names = [x.name for x in dataclasses.fields(RunConfig) if x.metadata["group"] == MARKET]
    try:
        market = read_json(path)
        if set(market) != set(names):
            raise ValueError(f"an object with {', '.join(market)}")
        return {name: checks.finite(name, market[name]) for name in names}
    except (TypeError, ValueError) as error:
        expected = f"Expected a JSON object with {', '.join(names)}"
        raise ValueError(f"{expected}. Received: {path}, {error}") from error
