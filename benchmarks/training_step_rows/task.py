"""The training step that every row computes: its sizes, data and weights, all in NumPy.

It is the value and the gradient of gamma Var(P&L) + E[cost] of a policy: `tfhedge.policy.cell`,
with weights by which it trades, and an untrained one hardly does. The data are random, as no time
depends on them, and the same for all rows.
"""

import dataclasses
import math

import numpy as np

NUM_INSTRUMENTS, NUM_FEATURES, UNITS, NUM_BLOCKS = 20, 10, 32, 4
RISK_AVERSION, SPOT_COST, OPTION_COST = 1000.0, 1e-4, 1e-2
EPSILON = 1e-7  # of the RMSNorm, as in Keras


@dataclasses.dataclass(frozen=True)
class Task:
    """A training step on a batch.

    Args:
        batch: Number of paths.
        steps: Number of time steps.
    """

    batch: int
    steps: int

    @property
    def maturities(self):
        """Life of each option in steps: that of the paper's grid, as a share of the horizon."""
        days = [10] * 3 + [20] * 5 + [40] * 3 + [80] * 3 + [120] * 5
        return tuple(max(1, day * self.steps // 240) for day in days)

    @property
    def availability(self):
        """Where a trade is possible: 1 or 0, `[steps, instruments]`."""
        left = self.steps - np.arange(self.steps)[:, None]
        return np.float32(left >= np.array([0, *self.maturities]))

    @property
    def costs(self):
        """Cost per unit traded, `[instruments]`."""
        return np.float32([SPOT_COST] + [OPTION_COST] * (NUM_INSTRUMENTS - 1))

    def data(self):
        """Features `[batch, steps, features]`, returns `[batch, steps, instruments]`, payoffs."""
        rng = np.random.default_rng(1)
        features = normal(rng, self.batch, self.steps, NUM_FEATURES)
        returns = normal(rng, self.batch, self.steps, NUM_INSTRUMENTS)
        returns *= np.float32(0.02) * self.availability
        return features, returns, np.float32(0.02) * abs(normal(rng, self.batch))

    def weights(self):
        """The weights of each layer in turn: inlet; scale and gates of each block; outlet.

        Kernels are `[inputs, outputs]`. Before the nonlinearities of the gates (write, forget,
        candidate, read), 1 is added to that of the forget gate.
        """
        rng = np.random.default_rng(2)

        def dense(inputs, outputs, size):
            kernel = np.float32(size / math.sqrt(inputs)) * normal(rng, inputs, outputs)
            return [kernel, np.float32(0.1 * size) * normal(rng, outputs)]

        (inlet, *gates, outlet) = kernel_shapes()
        layers = [dense(*inlet, 1.0)]
        for shape in gates:
            layers += [[1.0 + np.float32(0.1) * normal(rng, UNITS)], dense(*shape, 1.0)]
        return [*layers, dense(*outlet, 0.1)]

    @property
    def products(self):
        """The matrix products of the step: the shape of each kernel, and how often it is applied.

        The backward pass takes two more products of the same size for each of these.
        """
        return [(shape, self.batch * self.steps) for shape in kernel_shapes()]

    @property
    def flops(self):
        """Floating point operations of all products, forward and backward."""
        return sum(3 * 2 * math.prod(shape) * times for shape, times in self.products)

    @property
    def num_transcendentals(self):
        """Sigmoids, tanh and exp of the forward pass; the backward pass needs only their values."""
        return self.batch * self.steps * (5 * UNITS * NUM_BLOCKS + NUM_INSTRUMENTS)


def kernel_shapes():
    """Inputs and outputs of the inlet, the gates of each block, and the outlet."""
    gates = [(2 * UNITS, 4 * UNITS)] * NUM_BLOCKS
    return [(NUM_INSTRUMENTS + NUM_FEATURES, UNITS), *gates, (UNITS, NUM_INSTRUMENTS)]


def normal(rng, *shape):
    """Standard normal float32 numbers."""
    return rng.standard_normal(shape, np.float32)
