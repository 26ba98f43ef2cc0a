"""All settings of a training run, with their defaults, help texts and presets.

Nothing heavy is imported here, so that the command line can explain itself at once.
"""

import dataclasses
import math

from tfhedge import checks

# The learning rate that each optimizer starts from or rises to, where none is given.
OPTIMIZERS = {"dh-kfac": 0.8, "adam": 0.001}

# The options that can be traded.
GRIDS = ("floating", "fixed")

# Under these headings the command line explains the settings.
TRAINING = "training"
POLICY = "policy"
MARKET = "market (Heston, annual units)"
CLAIM = "cliquet, costs and objective"


def _setting(group, default, text, choices=None):
    metadata = {"group": group, "help": text, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The settings of `tfhedge train`; the defaults are those of the paper, section 4.1.

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
    learning_rate: float | None = _setting(
        TRAINING,
        None,
        "dh-kfac: initial share of the minimizing step; adam: peak learning rate (default: "
        + ", ".join(f"{name} {rate}" for name, rate in OPTIMIZERS.items())
        + ")",
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
    spot: float = _setting(MARKET, 1.0, "initial price of the underlying")
    v0: float = _setting(MARKET, 0.0625, "initial variance")
    kappa: float = _setting(MARKET, 8.0, "speed of mean reversion")
    theta: float = _setting(MARKET, 0.0625, "long-run variance")
    xi: float = _setting(MARKET, 1.0, "volatility of variance")
    rho: float = _setting(MARKET, -0.7, "correlation of spot and variance")
    num_steps: int = _setting(CLAIM, 240, "maturity T of the cliquet in time steps")
    period: int = _setting(CLAIM, 20, "time steps between its resets")
    cap: float = _setting(CLAIM, 0.015, "cap on the return of a period")
    steps_per_year: float = _setting(CLAIM, 250.0, "time steps in a year")
    grid: str = _setting(
        CLAIM,
        "floating",
        "options traded: floating, those of the paper; fixed, contracts expiring at each quarter "
        "of the maturity, which the policy sees its holdings of",
        GRIDS,
    )
    spot_cost: float = _setting(CLAIM, 1e-4, "cost of trading one unit of the underlying")
    option_cost: float = _setting(CLAIM, 1e-2, "cost of trading one option")
    risk_aversion: float = _setting(CLAIM, 1000.0, "weight gamma of the variance in the loss")

    def __post_init__(self):
        checks.one_of("optimizer", self.optimizer, tuple(OPTIMIZERS))
        checks.one_of("grid", self.grid, GRIDS)
        for field in dataclasses.fields(self):
            if field.type is int and field.name != "seed":
                checks.positive_integer(field.name, getattr(self, field.name))
        checks.positive("steps_per_year", self.steps_per_year)
        if self.target_loss is not None:
            checks.positive("target_loss", self.target_loss)
        if self.learning_rate is not None:
            largest = 1.0 if self.optimizer == "dh-kfac" else math.inf
            checks.in_range("learning_rate", self.learning_rate, 0.0, largest, closed="right")
        if self.seed not in range(2**31 - 1):
            raise ValueError(f"Expected `seed` to be in [0, 2^31 - 2]. Received: seed={self.seed}")
        if self.num_steps % self.period:
            raise ValueError(
                "Expected `num_steps` to be a multiple of `period`. "
                f"Received: num_steps={self.num_steps}, period={self.period}"
            )


PRESETS = {
    "paper": RunConfig(),
    "demo": RunConfig(steps=60, batch_size=1024, validation_paths=4096, test_paths=20_000),
}
