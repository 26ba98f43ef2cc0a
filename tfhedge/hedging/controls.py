"""What the actions of a policy are: trades, or positions."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfhedge import checks

# What a policy may decide on.
CONTROLS = ("positions", "trades")


@dataclasses.dataclass(frozen=True, eq=False)
class Controls:
    r"""Turns the actions y of a policy into trades u.

    An instrument that is the same contract at every time can be held. In such a one an action is
    the position, eq. (4), and in others a trade:

        u_t = n (y_t - k_t y_{t-1}),        k_0 = 0,

    with the notional n of the claim, so that the actions are of one size whatever the notional; and
    with k_t = 1 where a position is carried on, in the underlying e^q with the dividend yield q of
    a step, since dividends are invested in it; and 0 elsewhere. Where all actions are trades,
    k = 0. The paper calls both equivalent (footnote 2), and they are in what they can express. They
    are not in how fast they are learned: a position earns the return of its own day, and those of
    different days are uncorrelated, whereas the returns to the horizon of trades on different days
    share all days to come.

    Attributes:
        carried: k, `[num_steps, num_instruments]`.
        notional: n.

    Example:
    >>> controls = Controls(carried=np.float32([[0, 0], [1, 0], [1, 0]]))
    >>> controls.trades(tf.constant([[[0.5, 2.0], [0.75, 0.0], [0.0, 1.0]]])).numpy().tolist()
    [[[0.5, 2.0], [0.25, 0.0], [-0.75, 1.0]]]
    """

    carried: np.ndarray
    notional: float = 1.0

    @classmethod
    def of(cls, problem, kind):
        """The controls of a problem.

        Args:
            problem: A `HedgingProblem`; where its claim has a `notional`, that is n, and else 1.
            kind: `"positions"` or `"trades"`.

        Raises:
            ValueError: If `kind` is something else, or the notional is not positive.
        """
        checks.one_of("controls", kind, CONTROLS)
        notional = checks.positive("notional", getattr(problem.claim, "notional", 1.0))
        carried = problem.availability * problem.instruments.held * (kind == "positions")
        carried[0] = 0.0
        carried[:, 0] *= np.exp(problem.market.dividend_yield * problem.dt)
        return cls(np.float32(carried), notional)

    def trades(self, actions):
        """The trades that come of actions, each `[num_paths, num_steps, num_instruments]`."""
        before = tf.pad(actions[:, :-1], [[0, 0], [1, 0], [0, 0]])
        return self.trades_between(before, actions, self.carried)

    def trades_between(self, before, actions, carried):
        """The trades u_t that lead from the actions y_{t-1} to y_t, given the k_t of their times.

        All three have the instruments along the last axis.
        """
        return self.notional * (actions - tf.cast(carried, actions.dtype) * before)

    def by_actions(self, by_trades):
        """The gradient by the actions of what has a gradient by the trades, of the same shape."""
        passed_on = tf.cast(self.carried, by_trades.dtype) * by_trades
        return self.notional * (by_trades - tf.pad(passed_on[:, 1:], [[0, 0], [0, 1], [0, 0]]))
