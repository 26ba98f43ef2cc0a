"""The command line: reads arguments, prints results."""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import logging
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from tfhedge.arguments import (
    Parser,
    add_calibrate,
    add_compare,
    add_experiment,
    add_export,
    add_figures,
    add_sweep,
    add_train,
    given_settings,
)
from tfhedge.files import DamagedFileError
from tfhedge.workflow.config import (
    PRESETS,
    ExperimentConfig,
    SweepConfig,
    read_market,
    read_settings,
    resumed_settings,
)
from tfhedge.workflow.tables import comparison_table, findings_table, hedges_table, search_table

DESCRIPTION = "Train hedging policies for exotic options, fast, by second-order optimization."


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: Its arguments, those of the process by default.

    Returns:
        The exit status: 0, or 1 after a run that diverged or something else that failed, or 130
        after one ended by Ctrl-C; a mistake in the arguments exits with 2.
    """
    parser = Parser(prog="tfhedge", description=DESCRIPTION)
    version = importlib.metadata.version("tfhedge")
    parser.add_argument("--version", action="version", version=f"tfhedge {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add, run in COMMANDS.items():
        command = add(commands)
        command.set_defaults(run=functools.partial(run, command))
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (RuntimeError, OSError, DamagedFileError, *out_of_memory()) as error:
        print(f"tfhedge {options.command}: {first_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tfhedge: interrupted", file=sys.stderr)
        return 130


def out_of_memory():
    """The errors that say so, with TensorFlow's own once it has been imported."""
    tensorflow = sys.modules.get("tensorflow")
    return (MemoryError, tensorflow.errors.ResourceExhaustedError) if tensorflow else (MemoryError,)


def first_line(error):
    """The first line of what an error says."""
    return next(iter(str(error).splitlines()), type(error).__name__)


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


def now():
    """The time, for the name of a folder."""
    return time.strftime("%Y%m%d-%H%M%S")


def show_log():
    """Prints what the package has to say of what it does."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tfhedge").setLevel(logging.INFO)


@contextlib.contextmanager
def refusals(parser):
    """Answers settings that are refused with one line."""
    try:
        yield
    except (ArithmeticError, *out_of_memory()) as error:
        parser.error(f"a setting is too large or too small to compute with: {first_line(error)}")
    except (ValueError, OSError) as error:
        parser.error(str(error))


def train(parser, options):
    """Runs `tfhedge train` and returns its exit status."""
    source = options.config.stem if options.config else options.preset or "demo"
    folder = options.resume or options.out or Path("runs", f"{source}-{now()}")
    set_up_tensorflow()
    show_log()
    with contextlib.ExitStack() as stack:
        if options.worker:  # the first keeps the results
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            scratch = None
        with refusals(parser):
            run, hedger, config = start(parser, options, folder, scratch)
        title = f"{folder} continued" if options.resume else f"settings {source}, folder {folder}"
        print(f"{config.optimizer}, seed {config.seed}, {title}\n")
        try:
            summary, report = run.train(hedger, config, scratch or folder)
        except ConnectionError as error:
            print(f"{parser.prog}: {error}; --resume {folder} goes on", file=sys.stderr)
            return 1
    done = f"{summary['steps']} steps in {summary['seconds']:.0f} s: {folder}"
    if report is None:
        print(f"tfhedge train: {summary['failure']}; {done}", file=sys.stderr)
        return 1
    print(f"\n{report}\n\n{done}")
    return 130 if summary["stopped_by"] == "interrupted" else 0


def start(parser, options, folder, scratch):
    """Makes, or finds, what `tfhedge train` is to train.

    Args:
        parser: The command's parser.
        options: Its arguments.
        folder: The run's folder.
        scratch: The folder of a worker that keeps nothing, else None.

    Returns:
        The module that runs, the hedger and its configuration.
    """
    settings = given_settings(options)
    if options.market:
        settings = read_market(options.market) | settings
    if options.resume:
        if options.preset or options.config or options.out:
            parser.error("--resume takes settings and folder from the run: leave out the others")
        config = resumed_settings(folder, settings)
    elif options.config:
        if options.preset:
            parser.error("--config and --preset both give the settings: leave out one of them")
        config = dataclasses.replace(read_settings(options.config), **settings)
    else:
        config = dataclasses.replace(PRESETS[options.preset or "demo"], **settings)
    run = import_quietly("tfhedge.workflow.run")  # only now, as it takes seconds
    strategy = None
    if options.workers or options.worker is not None:
        workers = importlib.import_module("tfhedge.workflow.workers")
        strategy = workers.connect(options.workers or [], options.worker, config)
    hedger = run.make_hedger(config, strategy=strategy)
    if scratch and options.resume:
        run.copy_checkpoint(folder, scratch)
    elif not options.resume:
        run.make_folder(scratch or folder, config)
    return run, hedger, config


def sweep(parser, options):
    """Runs `tfhedge sweep` and returns its exit status."""
    names = ("trials", "sampler")
    config = prepare(parser, options, SweepConfig, **{x: getattr(options, x) for x in names})
    outcome = import_quietly("tfhedge.workflow.sweep").sweep(config, options.out)
    command = f"tfhedge train --config {shlex.quote(str(options.out / 'best.json'))}"
    print(f"\n{search_table(outcome)}\n\n{options.out}\nTo train with the best: {command}")
    return 0


def experiment(parser, options):
    """Runs `tfhedge experiment` and returns its exit status."""
    names = ("trials", "search_steps", "seeds")
    config = prepare(parser, options, ExperimentConfig, **{x: getattr(options, x) for x in names})
    module = import_quietly("tfhedge.workflow.experiment")
    outcome = module.compare_optimizers(config, options.out, options.only)
    for result in outcome["optimizers"].values():
        if result["search"]:
            print(f"\n{search_table(result['search'])}")
    print(f"\n{comparison_table(outcome)}\n\n{options.out / 'optimizers.json'}")
    return 0


def prepare(parser, options, make_config, **arguments):
    """The configuration of a search or an experiment, with its folder, new or as it was left."""
    set_up_tensorflow()
    show_log()
    with refusals(parser):
        run = dataclasses.replace(options.presets[options.preset], **given_settings(options))
        config = make_config(run=run, **arguments)
        module = import_quietly("tfhedge.workflow.run")
        module.make_hedger(run)  # refuses what cannot be simulated or priced
        module.open_folder(options.out, config)
    return config


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
    command = f"tfhedge train --market {shlex.quote(str(folder / calibration.MARKET_FILE))}"
    print(f"{fit}\n\n{folder}\nTo hedge in this market: {command}")
    return 0


def export(parser, options):
    """Runs `tfhedge export` and returns its exit status."""
    set_up_tensorflow()
    with refusals(parser):
        run = import_quietly("tfhedge.workflow.run")
        hedger, summary = run.load_run(options.folder)
        path = run.export(hedger, options.to, options.version, training=summary)
    command = importlib.import_module("tfhedge.serving.tf_serving").docker_command(options.to)
    print(f"{path}\nTo serve it: {command}")
    return 0


def compare(parser, options):
    """Runs `tfhedge compare` and returns its exit status."""
    set_up_tensorflow()
    folder = options.out or options.runs[0]
    with refusals(parser):
        module = import_quietly("tfhedge.workflow.comparison")
        outcome = module.compare_runs(options.runs, folder, options.paths, options.seed)
    print(f"{hedges_table(outcome)}\n\n{folder / 'comparison.json'}")
    return 0


def figures(parser, options):
    """Runs `tfhedge figures` and returns its exit status."""
    set_up_tensorflow()
    folder = options.out or options.folder / "figures"
    with refusals(parser):
        module = import_quietly("tfhedge.workflow.figures")
        outcome = module.make_figures(
            options.folder, folder, options.experiment, options.paths, options.seed
        )
    print(f"{findings_table(outcome)}\n\n{folder}")
    return 0


# What adds a command's arguments, and what runs it.
COMMANDS = {
    add_train: train,
    add_sweep: sweep,
    add_experiment: experiment,
    add_calibrate: calibrate,
    add_export: export,
    add_compare: compare,
    add_figures: figures,
}

if __name__ == "__main__":
    sys.exit(main())
