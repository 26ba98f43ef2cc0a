"""From a file with a chain of options to a fitted market in a folder."""

import csv
import dataclasses
import io
import warnings

from tfhedge.evaluation import figures
from tfhedge.market.calibration import PARAMETERS, calibrate
from tfhedge.market.reading import read_chain
from tfhedge.training.callbacks import write_text
from tfhedge.workflow.run import make_folder


def load(path):
    """Reads a chain, with what there is to say about the file as a whole.

    Args:
        path: The file.

    Returns:
        The `OptionChain` and a list of notes.

    Raises:
        ValueError, OSError, ImportError: As `read_chain`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chain = read_chain(path)
    return chain, [str(warning.message) for warning in caught]


def run(chain, weights, feller, folder):
    """Fits a chain and leaves everything about the fit in a folder.

    The folder, which must be empty, receives `rejected.csv` with the rows that are no sound quotes,
    `heston.json` with the arguments of `Heston`, `report.txt` and `smiles.png`.

    Args:
        chain: An `OptionChain`.
        weights: As for `calibrate`.
        feller: Likewise.
        folder: A `pathlib.Path`.

    Returns:
        The `Calibration`.

    Raises:
        ValueError: If the chain does not allow the fit.
        RuntimeError: If the fit fails.
        OSError: If the folder cannot be written to.
    """
    make_folder(folder)
    rejected = io.StringIO()
    csv.writer(rejected, lineterminator="\n").writerows([("row", "reason"), *chain.rejected])
    write_text(folder / "rejected.csv", rejected.getvalue())
    calibration = calibrate(chain, weights, feller)
    write_json(folder / "heston.json", dataclasses.asdict(calibration.market))
    write_text(folder / "report.txt", f"{calibration}\n")
    figures.smiles(calibration).savefig(folder / "smiles.png", dpi=150)
    return calibration


def train_command(market):
    """The command that trains on a market, in units of its spot and without its drift.

    >>> from tfhedge.market.heston import Heston
    >>> train_command(Heston(100.0, v0=0.04, kappa=2.0, theta=0.06, xi=0.5, rho=-0.6))
    'tfhedge train --v0 0.04 --kappa 2 --theta 0.06 --xi 0.5 --rho -0.6'
    """
    options = (f"--{name} {getattr(market, name):.8g}" for name in PARAMETERS)
    return f"tfhedge train {' '.join(options)}"
