"""Chains of options from files: CSV, or Parquet with pyarrow installed."""

import csv
import datetime
import math
import textwrap
import warnings
from pathlib import Path

import numpy as np

from tfhedge.market.chain import OptionChain, Rejected

ALIASES = {
    "date": "date, quote_date, quotedate, trade_date, as_of, asof, timestamp, snapshot_time",
    "expiry": "expiry, expiration, expiry_date, expiration_date, exdate, expire_date, maturity",
    "strike": "strike, strike_price, k",
    "type": "type, option_type, cp_flag, cp, call_put, put_call, right, callput",
    "bid": "bid, bid_price, best_bid, bid_eod",
    "ask": "ask, ask_price, best_ask, best_offer, offer, ask_eod",
    "bid_iv": "bid_iv, iv_bid, bid_vol, bid_implied_volatility, implied_volatility_bid",
    "ask_iv": "ask_iv, iv_ask, ask_vol, ask_implied_volatility, implied_volatility_ask",
    "underlying": "underlying, underlying_price, underlying_last, spot, spot_price, stock_price, "
    "underlying_close, index_price",
    "forward": "forward, forward_price, fwd",
    "discount": "discount, discount_factor, discfactor, df",
}
_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in aliases.split(", ")}
_TYPES = {"c": 1.0, "call": 1.0, "p": 0.0, "put": 0.0}
_DAYS_PER_YEAR = 365.0
_DELIMITERS = ",;\t"
# The median of volatilities above 300 % is taken to be in percent.
_LARGEST_MEDIAN = 3.0
# Logarithm of the first forward over the spot beyond which one of them must be wrong.
_LARGEST_CARRY = 0.3


def read_chain(path):
    r"""Reads a chain of options, one quote in a row, from a CSV or a Parquet file.

    A CSV file is in UTF-8, its cells parted by commas, semicolons or tabs, with decimal points.

    Columns are known by name, whatever the case, with blanks, dots and dashes as underscores:

    - `date` of the quotes, one for the whole file; `expiry`; `strike`. Dates are YYYY-MM-DD or
      YYYYMMDD, a time of day being ignored. The time to expiry is ACT/365F: days over 365.
    - `bid` and `ask` prices with `type` (call, put, C, P), or implied volatilities `bid_iv` and
      `ask_iv`, annual and in decimals. If there are both, the volatilities are fitted, and the
      prices imply the forwards.
    - `underlying` price, `forward` and `discount` factor to the expiry, each if it is known.

    `ALIASES` lists the other names of each. Other columns are ignored.

    A row that is no sound quote is left out, and listed in the chain's `rejected` with its number,
    as a spreadsheet counts: the names are row 1.

    Args:
        path: a file whose name ends in `.csv` or `.parquet`.

    Returns:
        `OptionChain`; `OptionChain.from_quotes` says how it treats the quotes.

    Warns:
        UserWarning: if the volatilities are in percent (they are divided by 100), or the
            price of the underlying is not given, or far from the forward.

    Raises:
        ValueError: if the file cannot be understood as a whole.
        OSError: if it cannot be read.
        ImportError: if pyarrow is needed and not installed.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "chain.csv")
    ...     _ = path.write_text("Date,Expiration,Strike,bid iv,ask iv,forward,spot\n"
    ...                         "2022-07-15,2023-07-15,380,0.24,0.25,385,384\n"
    ...                         "2022-07-15,2022-07-14,380,0.24,0.25,385,384\n")
    ...     chain = read_chain(path)
    >>> chain.maturity.tolist(), chain.volatility.tolist(), tuple(chain.rejected[0])
    ([1.0], [0.245], (3, 'expired'))
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"Expected a file named *.csv or *.parquet. Received: {path.name}")
    header, rows = readers[path.suffix.lower()](path)
    columns = _columns(header)
    row, kept, rejected, dates, spots = [], [], [], [], []
    for number, cells in enumerate(rows, start=2):
        try:
            quote, date, spot = _parse(cells, columns, len(header))
        except ValueError as error:
            rejected.append(Rejected(number, str(error)))
            continue
        row.append(number)
        kept.append(quote)
        dates.append(date)
        spots.append(spot)
    if not kept:
        reasons = "; ".join(f"row {x.row}: {x.reason}" for x in rejected[:3])
        raise ValueError(f"Expected rows with quotes. Received: none ({reasons or 'no rows'})")
    if len(set(dates)) > 1:
        found = ", ".join(map(str, sorted(set(dates))[:3]))
        raise ValueError(f"Expected quotes of one date. Received: {len(set(dates))} ({found}, ...)")
    quotes = {name: np.array([quote[name] for quote in kept]) for name in kept[0]}
    _from_percent(quotes)
    chain = OptionChain.from_quotes(**quotes, spot=_spot(spots), row=row, rejected=rejected)
    forward = chain.forward[np.argmin(chain.maturity)]
    if abs(math.log(forward / chain.spot)) > _LARGEST_CARRY:
        warnings.warn(
            f"the underlying, {chain.spot:g}, is far from the first forward, {forward:g}",
            stacklevel=2,
        )
    return chain


def _read_csv(path):
    """The names and an iterator over the rows, which leaves out empty lines at the end."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            delimiter = max(_DELIMITERS, key=first.count)
            file.seek(0)
            lines = list(csv.reader(file, delimiter=delimiter))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a CSV file in UTF-8. Received: {path.name}, {error}") from error
    while lines and not any(lines[-1]):
        lines.pop()
    if not lines:
        raise ValueError(f"Expected a row of names. Received: {path.name}, which is empty")
    return lines[0], lines[1:]


def _read_parquet(path):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need the package pyarrow") from error
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"Expected a Parquet file. Received: {path.name}, {error}") from error
    columns = (column.to_pylist() for column in table.columns)
    return table.column_names, list(zip(*columns, strict=True))


def _columns(header):
    """Where the columns are, by our names for them."""
    columns = {}
    for place, title in enumerate(header):
        words = "".join(x if x.isalnum() else " " for x in str(title).lower()).split()
        name = _NAMES.get("_".join(words))
        if name in columns:
            other = header[columns[name]]
            raise ValueError(f"Expected one column for {name}. Received: {other!r} and {title!r}")
        if name is not None:
            columns[name] = place
    missing = [name for name in ("date", "expiry", "strike") if name not in columns]
    if {"bid_iv", "ask_iv"} - columns.keys() and {"bid", "ask", "type"} - columns.keys():
        missing.append("bid_iv and ask_iv (or bid, ask and type)")
    if missing:
        found = textwrap.shorten(ascii(", ".join(map(str, header))), 200)
        raise ValueError(f"Expected columns {', '.join(missing)}. Received: {found}")
    return columns


def _parse(cells, columns, width):
    """A row's numbers by argument of `OptionChain.from_quotes`, its date and its spot.

    Raises:
        ValueError: with what is wrong with the row.
    """
    if len(cells) != width:
        raise ValueError(f"{len(cells)} cells under {width} names")
    cells = {name: cells[place] for name, place in columns.items()}
    date, expiry = (_date(name, cells[name]) for name in ("date", "expiry"))
    quote = {
        name: _number(name, cells[name])
        for name in ("strike", "bid", "ask", "bid_iv", "ask_iv", "forward", "discount")
        if name in cells
    }
    quote["maturity"] = (expiry - date).days / _DAYS_PER_YEAR
    if "type" in cells:
        quote["is_call"] = _type(cells["type"])
    return quote, date, _number("underlying", cells.get("underlying"))


def _date(name, cell):
    if isinstance(cell, datetime.datetime):
        return cell.date()
    if isinstance(cell, datetime.date):
        return cell
    text = "" if cell is None else str(cell).strip()
    if not text:
        raise ValueError(f"{name} is missing")
    try:
        return datetime.datetime.fromisoformat(text).date()
    except ValueError:
        raise ValueError(f"{name} is not YYYY-MM-DD: {text!r}") from None


def _number(name, cell):
    """A float, NaN for an empty cell."""
    text = "" if cell is None else str(cell).strip()
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise ValueError(f"{name} is not a number: {text!r}") from None


def _type(cell):
    text = "" if cell is None else str(cell).strip()
    if text.lower() not in _TYPES:
        raise ValueError(f"type is not call or put: {text!r}")
    return _TYPES[text.lower()]


def _from_percent(quotes):
    names = [name for name in ("bid_iv", "ask_iv") if name in quotes]
    volatilities = np.concatenate([quotes[name] for name in names]) if names else np.array([])
    volatilities = volatilities[volatilities > 0]
    if volatilities.size and np.median(volatilities) > _LARGEST_MEDIAN:
        warnings.warn(
            f"the implied volatilities, {np.median(volatilities):g} in the middle, seem to be in "
            "percent: they are divided by 100",
            stacklevel=3,
        )
        for name in names:
            quotes[name] = quotes[name] / 100.0


def _spot(spots):
    """The price of the underlying in the middle of its rows; None, with a warning, without any."""
    spots = np.array([spot for spot in spots if math.isfinite(spot) and spot > 0])
    if not spots.size:
        warnings.warn(
            "no price of the underlying: the forward of the first expiry stands for it",
            stacklevel=3,
        )
        return None
    return float(np.median(spots))
