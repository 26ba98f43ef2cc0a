"""Quotes become a chain: what is sound is used, what is not is reported with its row."""

import datetime
import math
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tfhedge.market.chain import OptionChain
from tfhedge.market.heston import Heston
from tfhedge.market.reading import ALIASES, read_chain

NAMES = "date,expiry,strike,type,bid,ask,underlying,forward,discount"
SOUND = "2022-07-15,2023-07-15,100,C,8.0,8.2,100,101,0.98"
OTHER = "2022-07-15,2023-07-15,105,C,6.0,6.2,100,101,0.98"


def write(tmp_path, *rows, names=NAMES):
    path = tmp_path / "chain.csv"
    path.write_text("\n".join([names, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2022-07-15,2023-07-15,100,C,8.4,8.2,100,101,0.98", "crossed: bid 8.4, ask 8.2"),
        ("2022-07-15,2023-07-15,100,C,0,8.2,100,101,0.98", "zero bid"),
        ("2022-07-15,2023-07-15,100,C,-1,8.2,100,101,0.98", "negative bid: -1.0"),
        ("2022-07-15,2022-07-15,100,C,8,8.2,100,101,0.98", "expired"),
        ("2022-07-15,2023-07-15,100,C,nan,8.2,100,101,0.98", "bid is missing"),
        ("2022-07-15,2023-07-15,100,C,8,inf,100,101,0.98", "ask is infinite"),
        ("2022-07-15,2023-07-15,,C,8,8.2,100,101,0.98", "strike is missing"),
        ("2022-07-15,2023-07-15,0,C,8,8.2,100,101,0.98", "strike is not positive: 0.0"),
        ("2022-07-15,2023-07-15,1 00,C,8,8.2,100,101,0.98", "strike is not a number: '1 00'"),
        ("2022-07-15,15.7.2023,100,C,8,8.2,100,101,0.98", "expiry is not YYYY-MM-DD: '15.7.2023'"),
        ("2022-07-15,2023-07-15,100,X,8,8.2,100,101,0.98", "type is not call or put: 'X'"),
        ("2022-07-15,2023-07-15,100,C,8", "5 cells under 9 names"),
        (
            "2022-07-15,2023-07-15,50,C,8,8.2,100,101,0.98",
            "mid price outside the bounds without arbitrage",
        ),
        (SOUND.replace("8.0", "7.9"), "the same option again: as in row 2"),
        ("2022-07-15,2023-07-15,100,P,8,8.2,100,101,0.001", "discount factor out of reason: 0.001"),
        (
            "2022-07-15,2023-07-15,101,C,8,8.2,100,,0.98",
            "no forward: not given, nor 3 pairs of call and put to imply it",
        ),
    ],
)
def test_a_bad_row_is_reported_with_its_number_and_reason(row, reason, tmp_path):
    chain = read_chain(write(tmp_path, SOUND, row, OTHER))
    assert [tuple(rejected) for rejected in chain.rejected] == [(3, reason)]
    assert len(chain) == 2
    assert reason.partition(":")[0] in chain.rejections()
    assert "row 3" in chain.rejections()


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([SOUND], NAMES.replace("strike", "price"), "columns strike"),
        ([SOUND], NAMES.replace("ask", "bidding"), "bid_iv and ask_iv"),
        ([SOUND], NAMES.replace("forward", "spot"), "one column for underlying"),
        ([], NAMES, "none"),
        ([SOUND, SOUND.replace("2022-07-15", "2022-07-16")], NAMES, "one date"),
        ([SOUND.replace("8.0", "0")], NAMES, "zero bid"),
        ([SOUND.replace(".", ",").replace("8,0", '"8,0"')], NAMES, "none"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(rows, names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_chain(write(tmp_path, *rows, names=names))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"\xff\xfe\x00", "UTF-8"),
        (bytes(1000), "columns date"),
        (b"a" * 200_000, "field limit"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content, message, tmp_path):
    path = tmp_path / "chain.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_chain(path)


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.csv or \*\.parquet"):
        read_chain(tmp_path / "chain.xlsx")


@pytest.mark.parametrize("name", ALIASES)
def test_columns_have_other_names(name, tmp_path):
    known = [*NAMES.split(","), "bid_iv", "ask_iv"]
    for alias in ALIASES[name].split(", "):
        titles = [alias.replace("_", " ").title() if x == name else x for x in known]
        chain = read_chain(write(tmp_path, SOUND + ",0.2,0.22", names=",".join(titles)))
        assert_allclose(chain.volatility, [0.21], rtol=1e-15)


@pytest.mark.parametrize(("old", "new"), [(",", ";"), (",", "\t"), ("\n", "\r\n"), ("", "")])
def test_csv_files_have_dialects(old, new, tmp_path):
    path = write(tmp_path, SOUND, OTHER)
    text = path.read_text().replace(old, new) if old else "\ufeff" + path.read_text()
    path.write_bytes(text.encode())
    assert read_chain(path).strike.tolist() == [100.0, 105.0]


def test_columns_of_volatilities_may_be_empty(tmp_path):
    path = write(tmp_path, SOUND + ",,", OTHER + ",,", names=NAMES + ",bid_iv,ask_iv")
    chain = read_chain(path)
    assert chain.rejected == ()
    assert (
        chain.volatility.tolist() == read_chain(write(tmp_path, SOUND, OTHER)).volatility.tolist()
    )


def test_an_underlying_in_another_unit_is_noticed(tmp_path):
    with pytest.warns(UserWarning, match="far from the first forward"):
        read_chain(write(tmp_path, SOUND.replace(",100,101", ",1,101")))


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="need the package pyarrow"):
        read_chain(tmp_path / "chain.parquet")


def test_percent_is_noticed(tmp_path):
    path = write(tmp_path, SOUND + ",20,22", names=NAMES + ",bid_iv,ask_iv")
    with pytest.warns(UserWarning, match="percent"):
        chain = read_chain(path)
    assert_allclose(chain.volatility, [0.21], rtol=1e-15)


def test_parity_finds_forwards_and_discounts_among_wrong_quotes(tmp_path):
    market = Heston(100.0, 0.04, 2.0, 0.05, 0.4, -0.6, rate=0.03, dividend_yield=0.01)
    rows = []
    for days in (91, 365):
        expiry = datetime.date(2022, 7, 15) + datetime.timedelta(days)
        for i, strike in enumerate(np.linspace(80, 120, 11)):
            for kind in "CP":
                price = float(market.vanilla_price(strike, days / 365, kind == "C"))
                price += 0.5 * (i % 5 == 1 and kind == "C")  # a stale quote in five
                quote = f"{price - 0.01},{price + 0.01}"
                rows.append(f"2022-07-15,{expiry},{strike},{kind},{quote},100")
    chain = read_chain(write(tmp_path, *rows, names="date,expiry,strike,type,bid,ask,spot"))
    assert_allclose(chain.discount, np.exp(-0.03 * chain.maturity), rtol=1e-9)
    assert_allclose(chain.forward, 100.0 * np.exp(0.02 * chain.maturity), rtol=1e-9)


def test_stochvolmodels_chains_are_taken():
    from stochvolmodels.data.option_chain import OptionChain as Theirs

    theirs = Theirs(
        ttms=np.array([0.1, 0.5]),
        forwards=np.array([100.0, 101.0]),
        ids=np.array(["near", "far"]),
        discfactors=np.array([0.99, 0.98]),
        strikes_ttms=(np.array([90.0, 100.0]), np.array([100.0, 100.0, 100.0])),
        optiontypes_ttms=(np.array(["P", "IC"]), np.array(["IP", "C", "IC"])),
        bid_ivs=(np.array([0.2, 0.2]), np.array([0.3, 0.31, 0.3])),
        ask_ivs=(np.array([0.22, 0.2]), np.array([0.32, 0.33, 0.32])),
    )
    theirs.bid_ivs[0][1] = math.nan
    chain = OptionChain.from_stochvolmodels(theirs)
    assert chain.maturity.tolist() == [0.1, 0.5, 0.5]
    assert chain.forward.tolist() == [100.0, 101.0, 101.0]
    assert_allclose(chain.volatility, [0.21, 0.31, 0.32], rtol=1e-15)
    expected = [(2, "bid_iv is missing"), (5, "the same option again: as in row 4")]
    assert [tuple(x) for x in chain.rejected] == expected
    theirs.optiontypes_ttms = (np.array(["P", "X"]), np.array(["IP", "C", "IC"]))
    with pytest.raises(ValueError, match="type='X'"):
        OptionChain.from_stochvolmodels(theirs)


@pytest.mark.parametrize(
    "wrong",
    [{"maturity": [0.5]}, {"forward": 101.0}, {"ask_iv": [[0.2, 0.2]]}, {"row": [1, 2, 3]}],
)
def test_columns_of_different_shapes_are_refused(wrong):
    columns = {
        name: [value] * 2
        for name, value in {
            "maturity": 0.5,
            "strike": 100.0,
            "bid_iv": 0.2,
            "ask_iv": 0.2,
            "forward": 101.0,
        }.items()
    }
    with pytest.raises(ValueError, match="one number for each quote"):
        OptionChain.from_quotes(**columns | wrong)
    with pytest.raises(ValueError, match="one number for each quote"):
        OptionChain.from_quotes(**dict.fromkeys(columns, 1.0))


@pytest.mark.parametrize("is_call", [[1, -1], [0.6, 0], [True, 2], [math.inf, 1]])
def test_an_option_is_a_call_or_a_put(is_call):
    columns = {name: [1.0, 1.0] for name in ("maturity", "strike", "forward", "discount")}
    with pytest.raises(ValueError, match="Expected `is_call` to be 1 or 0 in each row"):
        OptionChain.from_quotes(is_call=is_call, bid=[0.1, 0.1], ask=[0.2, 0.2], **columns)


def test_parquet_says_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    csv_chain = read_chain(write(tmp_path, SOUND, SOUND.replace("8.0", "9.0")))
    values = SOUND.split(",")
    rows = [values, [*values[:4], "9.0", *values[5:]]]
    table = {
        name: [
            datetime.date.fromisoformat(x) if i < 2 else x if i == 3 else float(x) for x in column
        ]
        for i, (name, column) in enumerate(
            zip(NAMES.split(","), zip(*rows, strict=True), strict=True)
        )
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "chain.parquet")
    chain = read_chain(tmp_path / "chain.parquet")
    assert chain.volatility.tolist() == csv_chain.volatility.tolist()
    assert chain.rejected == csv_chain.rejected


CELL = st.one_of(
    st.sampled_from(
        [
            "",
            "nan",
            "inf",
            "-1",
            "0",
            "100",
            "1e308",
            "1e-308",
            "C",
            "put",
            "2022-07-15",
            "2023-07-15",
        ]
    ),
    st.text(st.characters(exclude_characters='",\r\n', exclude_categories=["Cs"]), max_size=6),
    st.floats().map(repr),
)


@settings(max_examples=60)
@given(rows=st.lists(st.lists(CELL, max_size=10), max_size=5))
def test_nonsense_is_reported_and_never_fails(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("nonsense") / "chain.csv"
    lines = [NAMES, SOUND, *(",".join(row) for row in rows), OTHER]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            chain = read_chain(path)
        except ValueError as error:
            assert "one date" in str(error)  # noqa: PT017
            return
    assert len(chain) + len(chain.rejected) == len(lines) - 1
    assert len({row for row, _ in chain.rejected}) == len(chain.rejected)
    assert all(reason for _, reason in chain.rejected)
