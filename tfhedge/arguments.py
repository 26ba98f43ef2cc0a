"""What each command of the command line takes."""

import argparse
import dataclasses
import itertools
import typing
from pathlib import Path

from tfhedge.workflow.config import (
    OPTIMIZER_SETTINGS,
    OPTIMIZERS,
    PRESETS,
    SAMPLERS,
    RunConfig,
    SweepConfig,
)

# Those of `tfhedge.market.calibration`, which imports TensorFlow; a test keeps them equal.
WEIGHTS = ("vega", "spread", "equal")


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line."""

    def error(self, message):
        """Prints the line and exits with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_command(commands, name, summary, more=""):
    """Adds a command, with its summary and what else its help says."""
    description = f"{summary.capitalize()}. {more}"
    return commands.add_parser(name, help=summary, description=description)


def add_train(commands):
    """Adds `tfhedge train`, with an option for each setting of a run."""
    parser = add_command(commands, "train", "train, evaluate, draw and export a hedging policy")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="continue the run in this folder, as it is set"
    )
    parser.add_argument("--preset", choices=PRESETS, help="default settings (default: demo)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="default settings: the config.json of a run, or best.json of `tfhedge sweep`",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new folder of the run (default: runs/PRESET-TIME)"
    )
    parser.add_argument(
        "--market",
        type=Path,
        metavar="FILE",
        help="heston.json of `tfhedge calibrate`: the market",
    )
    parser.add_argument(
        "--workers",
        type=lambda text: text.split(","),
        metavar="HOST:PORT,...",
        help="share each batch among processes at these addresses, each started by this command",
    )
    parser.add_argument(
        "--worker",
        type=int,
        metavar="INT",
        help="which of the workers this is, from 0; the first keeps what the run leaves",
    )
    add_settings(parser, PRESETS)
    return parser


def add_settings(parser, presets, left_out=()):
    """Adds an option for each setting of a run, but for those left out."""
    fields = [field for field in dataclasses.fields(RunConfig) if field.name not in left_out]
    for heading, group in itertools.groupby(fields, lambda field: field.metadata["group"]):
        options = parser.add_argument_group(heading)
        for field in group:
            kind = (typing.get_args(field.type) or [field.type])[0]  # float of float | None
            choices = field.metadata["choices"]
            options.add_argument(
                "--" + field.name.replace("_", "-"),
                type=kind,
                choices=choices,
                default=argparse.SUPPRESS,
                metavar=None if choices else kind.__name__.upper(),
                help=field.metadata["help"] + default_text(presets, field.name),
            )


def add_sweep(commands):
    """Adds `tfhedge sweep`."""
    parser = add_command(
        commands,
        "sweep",
        "search the best settings of an optimizer",
        "Half of the trials that are left are given up at a quarter and at a half of the steps. "
        "The same command continues a search that was interrupted; given to several processes at "
        "once, they share its trials. The folder receives a table (sweep.json), a figure and the "
        "winner's settings, for `tfhedge train --config`.",
    )
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="grid",
        help="what chooses the points: the grid of settings, in random order, or tpe, Optuna's "
        "estimator, in the range that the grid spans (default: %(default)s)",
    )
    add_search(parser, presets_with(steps=600), [*OPTIMIZER_SETTINGS, "target_loss", "test_paths"])
    return parser


def add_experiment(commands):
    """Adds `tfhedge experiment`."""
    parser = add_command(
        commands,
        "experiment",
        "compare the optimizers",
        "Settings of Adam and of the paper's DH-KFAC are searched, DH-KFAC is taken as it stands; "
        "the steps and seconds that each needs are compared. The same command continues what was "
        "interrupted.",
    )
    parser.add_argument("name", choices=["optimizers"], help="the experiment")
    parser.add_argument("--only", choices=OPTIMIZERS, help="do the part of this optimizer now")
    parser.add_argument(
        "--search-steps",
        type=int,
        default=600,
        metavar="INT",
        help="steps of a trial (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="INT", help="runs of each (default: %(default)s)"
    )
    left_out = [*OPTIMIZER_SETTINGS, "optimizer", "target_loss", "test_paths"]
    # Trades are what the paper's policy decides on.
    add_search(parser, presets_with(steps=3000, controls="trades", validate_every=60), left_out)
    return parser


def add_search(parser, presets, left_out):
    """Adds what commands that search have in common."""
    parser.set_defaults(presets=presets)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of results")
    parser.add_argument(
        "--preset",
        choices=presets,
        default="paper",
        help="default settings (default: %(default)s)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=SweepConfig.trials,
        metavar="INT",
        help="points to try (default: %(default)s; a grid has 8 or 9)",
    )
    add_settings(parser, presets, left_out)


def presets_with(**settings):
    """The presets, with other settings."""
    return {name: dataclasses.replace(run, **settings) for name, run in PRESETS.items()}


def add_calibrate(commands):
    """Adds `tfhedge calibrate`."""
    parser = add_command(
        commands, "calibrate", "fit the Heston market to a chain of quoted options, and report"
    )
    parser.add_argument(
        "chain",
        type=Path,
        metavar="CHAIN",
        help="CSV or Parquet file, one quote in a row: date, expiry, strike, type, bid and ask or "
        "bid_iv and ask_iv, underlying, forward, discount",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new folder (default: runs/calibration-TIME)"
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="vega",
        help="weights of the errors in implied volatility (default: %(default)s)",
    )
    parser.add_argument(
        "--feller",
        action="store_true",
        help="keep 2 kappa theta >= xi^2 (default: the variance may reach zero)",
    )
    return parser


def add_export(commands):
    """Adds `tfhedge export`."""
    parser = add_command(commands, "export", "write the policy of a run for TensorFlow Serving")
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        required=True,
        help="the model's folder, saved_models/NAME, which gets a subfolder for each version",
    )
    parser.add_argument(
        "--version",
        type=int,
        metavar="INT",
        help="number of the version (default: one more than the highest there)",
    )
    return parser


def add_compare(commands):
    """Adds `tfhedge compare`."""
    parser = add_command(
        commands, "compare", "compare policies of runs with a desk's hedges on the same paths"
    )
    parser.add_argument(
        "runs", type=Path, metavar="RUN", nargs="+", help="folders of runs in the same market"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the results (default: the first run's)"
    )
    add_test_paths(parser)
    return parser


def add_figures(commands):
    """Adds `tfhedge figures`."""
    parser = add_command(
        commands,
        "figures",
        "draw the figures of the paper for a run, and check its findings",
        "Each figure is a PNG, with its data beside it as JSON.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--experiment",
        type=Path,
        metavar="FILE",
        help="optimizers.json of `tfhedge experiment optimizers`, for figures 3 and 4",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the figures (default: RUN/figures)"
    )
    add_test_paths(parser)
    return parser


def add_test_paths(parser):
    """Adds what commands that evaluate have in common."""
    parser.add_argument(
        "--paths",
        type=int,
        default=RunConfig.test_paths,
        metavar="INT",
        help="fresh paths (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="INT", help="their seed (default: %(default)s)"
    )


def default_text(presets, name):
    """The end of a help text: the default of a setting in each preset, if that is a number."""
    defaults = {preset: getattr(config, name) for preset, config in presets.items()}
    if None in defaults.values():
        return ""
    if len(set(defaults.values())) == 1:
        return f" (default: {defaults['paper']})"
    return f" (default: {', '.join(f'{preset} {value}' for preset, value in defaults.items())})"


def given_settings(options):
    """The settings of a `RunConfig` that were given on the command line."""
    names = {field.name for field in dataclasses.fields(RunConfig)}
    return {name: value for name, value in vars(options).items() if name in names}
