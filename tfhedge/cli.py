"""The command line: reads arguments, prints results."""

import argparse
import dataclasses
import importlib
import importlib.metadata
import itertools
import logging
import os
import shlex
import sys
import time
import typing
from pathlib import Path

from tfhedge.workflow.config import (
    OPTIMIZER_SETTINGS,
    OPTIMIZERS,
    PRESETS,
    ExperimentConfig,
    RunConfig,
    SweepConfig,
    read_config,
    read_market,
)
from tfhedge.workflow.tables import comparison_table, search_table

DESCRIPTION = "Train hedging policies for exotic options, fast, by second-order optimization."

# Those of `tfhedge.market.calibration`, which imports TensorFlow; a test keeps them equal.
WEIGHTS = ("vega", "spread", "equal")


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line."""

    def error(self, message):
        """Prints the line and exits with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: Its arguments, those of the process by default.

    Returns:
        The exit status: 0, or 1 after a run that diverged or a fit that failed, or 130 after one
        ended by Ctrl-C; a mistake in the arguments exits with 2.
    """
    parser = Parser(prog="tfhedge", description=DESCRIPTION)
    version = importlib.metadata.version("tfhedge")
    parser.add_argument("--version", action="version", version=f"tfhedge {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    add_train(commands)
    add_sweep(commands)
    add_experiment(commands)
    add_calibrate(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("tfhedge: interrupted", file=sys.stderr)
        return 130


def add_train(commands):
    """Adds `tfhedge train`, with an option for each setting of a run."""
    summary = "train, evaluate, draw and export a hedging policy"
    parser = commands.add_parser("train", help=summary, description=summary.capitalize() + ".")
    parser.set_defaults(run=lambda options: train(parser, options))
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="continue the run in this folder, as it is set"
    )
    parser.add_argument("--preset", choices=PRESETS, help="default settings (default: demo)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new folder of the run (default: runs/PRESET-TIME)"
    )
    parser.add_argument(
        "--market",
        type=Path,
        metavar="FILE",
        help="heston.json of `tfhedge calibrate`: the market",
    )
    add_settings(parser, PRESETS)


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
    summary = "search the best settings of an optimizer"
    parser = commands.add_parser(
        "sweep",
        help=summary,
        description=f"{summary.capitalize()}, by successive halving on a grid. "
        "The same command continues a search that was interrupted.",
    )
    parser.set_defaults(run=lambda options: sweep(parser, options))
    add_search(parser, presets_with(steps=600), [*OPTIMIZER_SETTINGS, "target_loss", "test_paths"])


def add_experiment(commands):
    """Adds `tfhedge experiment`."""
    summary = "compare the optimizers"
    parser = commands.add_parser(
        "experiment",
        help=summary,
        description="Search the settings of each optimizer, run it at the winner, and compare the "
        "steps and seconds they need. The same command continues what was interrupted.",
    )
    parser.set_defaults(run=lambda options: experiment(parser, options))
    parser.add_argument("name", choices=["optimizers"], help="the experiment")
    parser.add_argument(
        "--only", choices=OPTIMIZERS, help="do the part of this optimizer now; adam comes first"
    )
    parser.add_argument(
        "--search-steps",
        type=int,
        default=600,
        metavar="INT",
        help="steps of a trial, and the least of a run (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="INT", help="runs of each (default: %(default)s)"
    )
    left_out = [*OPTIMIZER_SETTINGS, "optimizer", "target_loss", "test_paths"]
    add_search(parser, presets_with(steps=3000), left_out)


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
        default=9,
        metavar="INT",
        help="points of the grid to try (default: all %(default)s)",
    )
    add_settings(parser, presets, left_out)


def presets_with(**settings):
    """The presets, with other settings."""
    return {name: dataclasses.replace(run, **settings) for name, run in PRESETS.items()}


def add_calibrate(commands):
    """Adds `tfhedge calibrate`."""
    summary = "fit the Heston market to a chain of quoted options"
    parser = commands.add_parser(
        "calibrate", help=summary, description=summary.capitalize() + ", and report the fit."
    )
    parser.set_defaults(run=lambda options: calibrate(parser, options))
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


def default_text(presets, name):
    """The end of a help text: the default of a setting in each preset, if that is a number."""
    defaults = {preset: getattr(config, name) for preset, config in presets.items()}
    if None in defaults.values():
        return ""
    if len(set(defaults.values())) == 1:
        return f" (default: {defaults['paper']})"
    return f" (default: {', '.join(f'{preset} {value}' for preset, value in defaults.items())})"


def set_up_tensorflow():
    """Sets, before they are imported, what TensorFlow and Keras read from the environment.

    XLA then uses vectors of 512 bits where the processor has them.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags, width = os.environ.get("XLA_FLAGS", ""), "--xla_cpu_prefer_vector_width"
    if width not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {width}=512".strip()


def import_quietly(name):
    """Imports a module and lets TensorFlow find its devices, without its start-up notes.

    They are written by C++, some of them before it knows of any logging level.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        module = importlib.import_module(name)
        importlib.import_module("tensorflow").config.list_physical_devices()
        return module
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def given_settings(options):
    """The settings of a `RunConfig` that were given on the command line."""
    names = {field.name for field in dataclasses.fields(RunConfig)}
    return {name: value for name, value in vars(options).items() if name in names}


def now():
    """The time, for the name of a folder."""
    return time.strftime("%Y%m%d-%H%M%S")


def show_log():
    """Prints what the package has to say of what it does."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tfhedge").setLevel(logging.INFO)


def train(parser, options):
    """Runs `tfhedge train` and returns its exit status."""
    settings = given_settings(options)
    preset = options.preset or "demo"
    folder = options.resume or options.out or Path("runs", f"{preset}-{now()}")
    set_up_tensorflow()
    show_log()
    try:
        if options.resume:
            if settings or options.preset or options.out or options.market:
                parser.error("--resume takes all settings from the folder: leave out the others")
            config = read_config(folder)
        else:
            market = read_market(options.market) if options.market else {}
            config = dataclasses.replace(PRESETS[preset], **market | settings)
        run = import_quietly("tfhedge.workflow.run")  # only now, as it takes seconds
        hedger = run.make_hedger(config)
        if not options.resume:
            run.make_folder(folder, config)
    except (ArithmeticError, MemoryError) as error:
        parser.error(f"a setting is too large or too small to compute with: {error}")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    title = f"{folder} continued" if options.resume else f"{preset} preset, folder {folder}"
    print(f"{config.optimizer}, seed {config.seed}, {title}\n")
    summary, report = run.train(hedger, config, folder)
    done = f"{summary['steps']} steps in {summary['seconds']:.0f} s: {folder}"
    if report is None:
        print(f"tfhedge train: training diverged, the loss is not finite; {done}", file=sys.stderr)
        return 1
    print(f"\n{report}\n\n{done}")
    return 130 if summary["stopped_by"] == "interrupted" else 0


def sweep(parser, options):
    """Runs `tfhedge sweep` and returns its exit status."""
    config = prepare(parser, options, SweepConfig, trials=options.trials)
    try:
        outcome = import_quietly("tfhedge.workflow.sweep").sweep(config, options.out)
    except RuntimeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print(f"\n{search_table(outcome)}\n\n{options.out / 'sweep.json'}")
    return 0


def experiment(parser, options):
    """Runs `tfhedge experiment` and returns its exit status."""
    names = ("trials", "search_steps", "seeds")
    config = prepare(parser, options, ExperimentConfig, **{x: getattr(options, x) for x in names})
    module = import_quietly("tfhedge.workflow.experiment")
    try:
        outcome = module.compare_optimizers(config, options.out, options.only)
    except RuntimeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    for result in outcome["optimizers"].values():
        print(f"\n{search_table(result['search'])}")
    print(f"\n{comparison_table(outcome)}\n\n{options.out / 'optimizers.json'}")
    return 0


def prepare(parser, options, make_config, **arguments):
    """The configuration of a search or an experiment, with its folder, new or as it was left."""
    set_up_tensorflow()
    show_log()
    try:
        run = dataclasses.replace(options.presets[options.preset], **given_settings(options))
        config = make_config(run=run, **arguments)
        module = import_quietly("tfhedge.workflow.run")
        module.make_hedger(run)  # refuses what cannot be simulated or priced
        module.open_folder(options.out, config)
        return config
    except (ArithmeticError, MemoryError) as error:
        parser.error(f"a setting is too large or too small to compute with: {error}")
    except (ValueError, OSError) as error:
        parser.error(str(error))


def calibrate(parser, options):
    """Runs `tfhedge calibrate` and returns its exit status."""
    folder = options.out or Path("runs", f"calibration-{now()}")
    set_up_tensorflow()
    try:
        calibration = import_quietly("tfhedge.workflow.calibration")
        chain, notes = calibration.load(options.chain)
        for note in filter(None, (*notes, chain.rejections())):
            print(note, file=sys.stderr)
        config = calibration.CalibrationConfig(str(options.chain), options.weights, options.feller)
        fit = calibration.run(chain, config, folder)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    except RuntimeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    command = f"tfhedge train --market {shlex.quote(str(folder / calibration.MARKET_FILE))}"
    print(f"{fit}\n\n{folder}\nTo hedge in this market: {command}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
