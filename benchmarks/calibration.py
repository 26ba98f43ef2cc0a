"""Calibration beside StochVolModels on its SPY chain, and beside QuantLib on the DAX surface.

Run with `python benchmarks/calibration.py`; needs the test dependencies, writes
`benchmarks/results/calibration.json`. Times are medians of runs in turn, the first one of each
(which compiles) apart. Errors of all are measured with our prices, over all quotes alike.

- SPY, 15 July 2022: `stochvolmodels.data.sample_option_chains`. Its calibration always demands
  Feller's condition, so ours is run with and without.
- DAX, 5 July 2002: Schoutens, Simons and Tistaert, as in QuantLib's test suite, hestonmodel.cpp,
  testDAXCalibration, with its model, engine, optimizer and start; the quotes are in
  `benchmarks/data`.
"""

import contextlib
import io
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import QuantLib as ql
from stochvolmodels.data.sample_option_chains import get_spy_test_chain_data
from stochvolmodels.pricers.heston_pricer import HestonPricer

from tfhedge.market.calibration import calibrate
from tfhedge.market.chain import OptionChain
from tfhedge.market.coordinates import PARAMETERS
from tfhedge.market.fourier import heston_price
from tfhedge.market.implied import implied_volatility
from tfhedge.market.reading import read_chain

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "calibration.json"
DAX = HERE / "data" / "dax_2002-07-05.csv"
NUM_RUNS = 3


def main():
    """Runs both comparisons, prints and writes them."""
    spy_theirs = get_spy_test_chain_data()
    spy, dax = OptionChain.from_stochvolmodels(spy_theirs), read_chain(DAX)
    dax_theirs = quantlib_problem(dax)
    results = {
        "dax": compare(
            dax,
            {
                "quantlib": lambda: quantlib_fit(*dax_theirs),
                "tfhedge, equal": lambda: our_fit(dax, "equal"),
            },
        ),
        "spy": compare(
            spy,
            {
                "stochvolmodels": lambda: stochvolmodels_fit(spy_theirs),
                "tfhedge, vega": lambda: our_fit(spy, "vega"),
                "tfhedge, vega, Feller": lambda: our_fit(spy, "vega", feller=True),
                "tfhedge, equal": lambda: our_fit(spy, "equal"),
            },
        ),
    }
    for chain, rows in results.items():
        print(f"\n{chain:<24}{'IV RMSE':>10}{'seconds':>10}{'first':>8}{'CPU':>8}{'ratio':>8}")
        for name, row in rows.items():
            print(
                f"{name:<24}{row['rmse']:>10.6f}{row['seconds']:>10.3f}{row['first_seconds']:>8.2f}"
                f"{row['cpu_seconds']:>8.3f}{row['peer_time_over_this']:>8.2f}"
            )
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "runs": NUM_RUNS}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")


def compare(chain, fits):
    """Errors and times of fits, the first of them being the peer."""
    runs = {name: [] for name in fits}
    for _ in range(1 + NUM_RUNS):
        for name, fit in fits.items():  # in turn, so that a busy machine is as busy for all
            wall, cpu = time.perf_counter(), time.process_time()
            parameters = fit()
            runs[name].append((time.perf_counter() - wall, time.process_time() - cpu, parameters))
    rows = {}
    for name, (first, *others) in runs.items():
        parameters = others[-1][2]
        seconds, cpu_seconds = (statistics.median(run[i] for run in others) for i in (0, 1))
        peer_seconds = next(iter(rows.values()))["seconds"] if rows else seconds
        rows[name] = {
            "rmse": rmse(chain, parameters),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "first_seconds": first[0],
            "peer_time_over_this": peer_seconds / seconds,
            "parameters": parameters,
        }
    return rows


def rmse(chain, parameters):
    """Root mean square error in implied volatility, the same measure for all."""
    k, maturity = chain.log_moneyness, chain.maturity
    price = heston_price(np.exp(k), maturity, k >= 0, 1.0, **parameters)
    model = implied_volatility(price, 1.0, np.exp(k), maturity, k >= 0)
    return float(np.sqrt(np.mean((model - chain.volatility) ** 2)))


def our_fit(chain, weights, feller=False):
    """The parameters that `calibrate` finds."""
    market = calibrate(chain, weights, feller).market
    return {name: getattr(market, name) for name in PARAMETERS}


def stochvolmodels_fit(chain):
    """Those that StochVolModels finds from its own start."""
    with contextlib.redirect_stdout(io.StringIO()):
        fit = HestonPricer().calibrate_model_params_to_chain(chain)
    values = (fit.v0, fit.kappa, fit.theta, fit.volvol, fit.rho)
    return dict(zip(PARAMETERS, map(float, values), strict=True))


def quantlib_problem(chain):
    """QuantLib's curves and helpers for the DAX surface."""
    today = ql.Date(5, 7, 2002)
    ql.Settings.instance().evaluationDate = today
    days = np.rint(365 * chain.maturity).astype(int).tolist()
    rates = (-np.log(chain.discount) / chain.maturity).tolist()
    curve = dict(sorted(zip(days, rates, strict=True)))
    day_count = ql.Actual365Fixed()
    dates = [today, *(today + day for day in curve)]
    zeros = [next(iter(curve.values())), *curve.values()]
    discount = ql.YieldTermStructureHandle(ql.ZeroCurve(dates, zeros, day_count))
    dividend = ql.YieldTermStructureHandle(ql.FlatForward(today, 0.0, day_count))
    helpers = [
        ql.HestonModelHelper(
            ql.Period(day, ql.Days),
            ql.NullCalendar(),
            chain.spot,
            strike,
            ql.QuoteHandle(ql.SimpleQuote(volatility)),
            discount,
            dividend,
            ql.BlackCalibrationHelper.ImpliedVolError,
        )
        for day, strike, volatility in zip(
            days, chain.strike.tolist(), chain.volatility.tolist(), strict=True
        )
    ]
    return discount, dividend, chain.spot, helpers


def quantlib_fit(discount, dividend, spot, helpers):
    """The parameters that QuantLib finds from the start of its test."""
    start = 0.1, 1.0, 0.1, 0.5, -0.5
    spot = ql.QuoteHandle(ql.SimpleQuote(spot))
    model = ql.HestonModel(ql.HestonProcess(discount, dividend, spot, *start))
    engine = ql.AnalyticHestonEngine(model, 64)
    for helper in helpers:
        helper.setPricingEngine(engine)
    end = ql.EndCriteria(400, 40, 1e-8, 1e-8, 1e-8)
    model.calibrate(helpers, ql.LevenbergMarquardt(1e-8, 1e-8, 1e-8), end)
    values = (model.v0(), model.kappa(), model.theta(), model.sigma(), model.rho())
    return dict(zip(PARAMETERS, values, strict=True))


if __name__ == "__main__":
    main()
