"""From a file with a chain of options to a fitted market in a folder."""

import csv
import dataclasses
import io
import warnings

from tfhedge.evaluation import figures
from tfhedge.files import write_json, write_text
from tfhedge.market.calibration import calibrate
from tfhedge.market.reading import read_chain
from tfhedge.workflow.run import make_folder

MARKET_FILE = "heston.json"


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """The settings of `tfhedge calibrate`.

    Args:
        chain: The file, a string.
        weights: As for `calibrate`.
        feller: Likewise.
    """

    chain: str
    weights: str
    feller: bool


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


def run(chain, config, folder):
    """Fits a chain and leaves everything about the fit in a folder.

    The folder receives `config.json`, `rejected.csv` with the rows that are no sound quotes,
    `heston.json` with the arguments of `Heston`, which `tfhedge train --market` reads, `report.txt`
    and `smiles.png`. After a failure it is not made.

    Args:
        chain: An `OptionChain`.
        config: A `CalibrationConfig`.
        folder: A `pathlib.Path`, new or empty.

    Returns:
        The `Calibration`.

    Raises:
        ValueError: If the chain does not allow the fit.
        RuntimeError: If the fit fails.
        OSError: If the folder cannot be written to.
    """
    calibration = calibrate(chain, config.weights, config.feller)
    make_folder(folder, config)
    rejected = io.StringIO()
    csv.writer(rejected, lineterminator="\n").writerows([("row", "reason"), *chain.rejected])
    write_text(folder / "rejected.csv", rejected.getvalue())
    write_text(folder / "report.txt", f"{calibration}\n")
    figures.smiles(calibration)[0].figure.savefig(folder / "smiles.png", dpi=150)
    market = dataclasses.asdict(calibration.market)
    write_json(folder / MARKET_FILE, market)
    return calibration
