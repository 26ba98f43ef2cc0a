"""Deep hedging in TensorFlow and Keras, with a second-order optimizer that makes it fast.

The names below are imported when they are first used, so that `import tfhedge`, and with it
`tfhedge --help`, does not wait for TensorFlow.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers and editors read; a test keeps it equal to `_HOMES`
    from tfhedge.curvature.dhkfac import DHKFAC as DHKFAC
    from tfhedge.evaluation.comparison import compare_hedges as compare_hedges
    from tfhedge.evaluation.comparison import run_hedges as run_hedges
    from tfhedge.hedging.claims import Cliquet as Cliquet
    from tfhedge.hedging.cliquet_greeks import CliquetGreeks as CliquetGreeks
    from tfhedge.hedging.cliquet_price import CliquetPricer as CliquetPricer
    from tfhedge.hedging.instruments import FixedGrid as FixedGrid
    from tfhedge.hedging.instruments import FloatingGrid as FloatingGrid
    from tfhedge.hedging.objectives import EntropicRisk as EntropicRisk
    from tfhedge.hedging.objectives import MeanVariance as MeanVariance
    from tfhedge.hedging.problem import HedgingProblem as HedgingProblem
    from tfhedge.hedging.strategies import DeltaHedge as DeltaHedge
    from tfhedge.hedging.strategies import DeltaVegaHedge as DeltaVegaHedge
    from tfhedge.hedging.strategies import MinimumVarianceHedge as MinimumVarianceHedge
    from tfhedge.market.calibration import calibrate as calibrate
    from tfhedge.market.chain import OptionChain as OptionChain
    from tfhedge.market.heston import Heston as Heston
    from tfhedge.market.implied import black_price as black_price
    from tfhedge.market.implied import implied_volatility as implied_volatility
    from tfhedge.market.reading import read_chain as read_chain
    from tfhedge.market.simulation import simulate as simulate
    from tfhedge.policy.rollout import DensePolicy as DensePolicy
    from tfhedge.policy.rollout import RecurrentPolicy as RecurrentPolicy
    from tfhedge.serialization import serializable as serializable
    from tfhedge.serving.client import HedgeClient as HedgeClient
    from tfhedge.serving.export import export as export
    from tfhedge.training.callbacks import OptimizerStatistics as OptimizerStatistics
    from tfhedge.training.guard import TrainingError as TrainingError
    from tfhedge.training.hedger import DeepHedger as DeepHedger

_HOMES = {
    "DHKFAC": "tfhedge.curvature.dhkfac",
    "Cliquet": "tfhedge.hedging.claims",
    "CliquetGreeks": "tfhedge.hedging.cliquet_greeks",
    "CliquetPricer": "tfhedge.hedging.cliquet_price",
    "DeepHedger": "tfhedge.training.hedger",
    "DeltaHedge": "tfhedge.hedging.strategies",
    "DeltaVegaHedge": "tfhedge.hedging.strategies",
    "DensePolicy": "tfhedge.policy.rollout",
    "EntropicRisk": "tfhedge.hedging.objectives",
    "FixedGrid": "tfhedge.hedging.instruments",
    "FloatingGrid": "tfhedge.hedging.instruments",
    "HedgeClient": "tfhedge.serving.client",
    "HedgingProblem": "tfhedge.hedging.problem",
    "Heston": "tfhedge.market.heston",
    "MeanVariance": "tfhedge.hedging.objectives",
    "MinimumVarianceHedge": "tfhedge.hedging.strategies",
    "OptimizerStatistics": "tfhedge.training.callbacks",
    "OptionChain": "tfhedge.market.chain",
    "RecurrentPolicy": "tfhedge.policy.rollout",
    "TrainingError": "tfhedge.training.guard",
    "black_price": "tfhedge.market.implied",
    "calibrate": "tfhedge.market.calibration",
    "compare_hedges": "tfhedge.evaluation.comparison",
    "export": "tfhedge.serving.export",
    "implied_volatility": "tfhedge.market.implied",
    "read_chain": "tfhedge.market.reading",
    "run_hedges": "tfhedge.evaluation.comparison",
    "serializable": "tfhedge.serialization",
    "simulate": "tfhedge.market.simulation",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    if name == "__version__":
        value = version("tfhedge")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'tfhedge' has no attribute {name!r}")
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__():
    return sorted({*globals(), *__all__})
