"""`DHKFAC.paper()` against a plain transcription of Algorithm 1, written from the paper alone.

But for the start, of which the paper says nothing. The transcription itself is held against two
cases worked out by hand.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import tfhedge as th
from tfhedge.curvature.dhkfac import DHKFAC

EXACT = {"rtol": 0.0, "atol": 1e-10}

# --- the oracle ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Layer:
    """What Algorithm 1 keeps of a layer s_t = W a_t, W of `[outputs, inputs]`.

    An elementwise layer s_t = w * a_t has a W of one column, and Q = I for good: a diagonal block.
    """

    W: np.ndarray
    elementwise: bool = False
    A: np.ndarray | None = None
    G: np.ndarray | None = None
    D: np.ndarray | None = None

    def __post_init__(self):
        self.Q_G, self.Q_A = (np.eye(n) for n in self.W.shape)
        self.average = np.zeros_like(self.W)

    def mat(self, a, g):
        """DW of one path, from a_t and g_t: section 3.2, RNN-KFAC."""
        return np.sum(a * g, axis=0)[:, None] if self.elementwise else g.T @ a


def second_moment(x):
    """T^(-1/2) sum_t E[x_t x_t'] of `[num_paths, num_steps, size]`."""
    T = x.shape[1]
    return T**-0.5 * sum(x[:, t].T @ x[:, t] / len(x) for t in range(T))


def initialize(layers, batch, rho=0.0):
    """How A, G, D and the bases start, of which the paper says nothing: with a first estimate.

    To each D comes rho times the mean of all entries of all of them.

    Args:
        layers: The state, which is changed.
        batch: For each layer the inputs a_t of all paths, and the pseudo-gradients of some,
            `[num_initial_paths, num_steps, outputs]`.
    """
    for layer, (a, g) in zip(layers, batch, strict=True):
        if not layer.elementwise:
            layer.A, layer.G = second_moment(a), second_moment(g)
            layer.Q_A, layer.Q_G = (np.linalg.eigh(x)[1] for x in (layer.A, layer.G))
        layer.D = np.mean(
            [
                (layer.Q_G.T @ layer.mat(a_of_path, g_of_path) @ layer.Q_A) ** 2
                for a_of_path, g_of_path in zip(a, g, strict=False)
            ],
            axis=0,
        )
    mean = np.mean(np.concatenate([layer.D.ravel() for layer in layers]))
    for layer in layers:
        layer.D = layer.D + rho * mean


def moving_average(old, new, beta):
    """What lines 5, 11 and 12 say."""
    return beta * old + (1.0 - beta) * new


def iterate(
    i,
    layers,
    batch,
    gradients,
    *,
    N_cov,
    N_evd,
    beta_TR,
    rho_TR,
    beta_F,
    beta_D,
    beta_mom,
    rho,
    eta_max,
):
    """Iteration i of Algorithm 1.

    The paper's listing has lost its indentation: here lines 4 to 12 belong to the branch of line 3,
    and line 14 to that of line 13. As printed, D is measured in the bases that there are before
    line 14 renews them, and stays as it is when they change.

    Args:
        i: Number of the iteration.
        layers: The state, which is changed.
        batch: For each layer the inputs a_t of all paths of the mini-batch,
            `[num_paths, num_steps, inputs]`, and the pseudo-gradients g_t of its first path,
            `[num_steps, outputs]`, which lines 6 to 9 make.
        gradients: For each layer the gradient of the loss, of the shape of W.

    Returns:
        eta.
    """
    if i % N_cov == 0:  # 3
        for layer, (a, _) in zip(layers, batch, strict=True):  # 4
            if not layer.elementwise:
                layer.A = moving_average(layer.A, second_moment(a), beta_F)  # 5
        for layer, (a, g) in zip(layers, batch, strict=True):  # 10
            if not layer.elementwise:
                layer.G = moving_average(layer.G, len(g) ** -0.5 * g.T @ g, beta_F)  # 11
            D = (layer.Q_G.T @ layer.mat(a[0], g) @ layer.Q_A) ** 2
            layer.D = moving_average(layer.D, D, beta_D)  # 12
    if i % N_evd == 0:  # 13
        for layer in layers:
            if not layer.elementwise:
                layer.Q_A, layer.Q_G = (np.linalg.eigh(x)[1] for x in (layer.A, layer.G))  # 14
    preconditioned = []
    for layer, gradient in zip(layers, gradients, strict=True):  # 16
        pre = layer.Q_G.T @ gradient @ layer.Q_A  # 17
        pre = pre / ((1.0 - rho) * layer.D + rho * np.mean(layer.D))  # 18
        preconditioned.append(layer.Q_G @ pre @ layer.Q_A.T)  # 19
    slope = sum(np.sum(pre * g) for pre, g in zip(preconditioned, gradients, strict=True))
    eta = min(np.sqrt(beta_TR**i * rho_TR / slope), eta_max)  # 20, with rho_TR of line 21
    for layer, pre in zip(layers, preconditioned, strict=True):
        layer.average = beta_mom * layer.average + pre  # 22
        layer.W = layer.W - eta * layer.average  # 23
    return eta


# --- the oracle against paper and pencil ---------------------------------------------------------


def test_three_iterations_of_one_weight():
    """T = 4, so that T^(-1/2) = 1/2; for one weight, Q = 1, and shrinkage has nothing to do."""
    layer = Layer(np.array([[10.0]]))
    options = dict(N_cov=2, N_evd=1, beta_TR=0.5, rho_TR=4.0, beta_F=0.5, beta_D=0.75)
    options |= dict(beta_mom=0.5, rho=0.1, eta_max=0.6)

    def step(i, inputs, pseudo_gradients, gradient):
        a, g = np.array(inputs, float)[..., None], np.array(pseudo_gradients, float)[..., None]
        if i == 0:
            initialize([layer], [(a, g[np.newaxis])])
        iterate(i, [layer], [(a, g)], [np.array([[gradient]])], **options)

    # The start is that of the first path, which the first iteration finds again:
    # A = 1/2 (4 + 4) / 2, G = 1/2 (1 + 1), D = (1 + 1)^2. The preconditioned gradient is 8 / 4, and
    # eta = (4 / (2 * 8))^(1/2) = 1/2.
    step(0, [[1, 1, 1, 1], [2, 0, 0, 0]], [1, 0, 0, 1], 8.0)
    assert_allclose([layer.A.item(), layer.G.item(), layer.D.item()], [2.0, 1.0, 4.0], rtol=1e-15)
    assert_allclose(layer.W, [[10.0 - 0.5 * 2.0]], rtol=1e-15)
    # No new curvature. 4 / 4 with momentum is 1/2 * 2 + 1; eta_max < (2 / 4)^(1/2).
    step(1, [[9, 9, 9, 9], [9, 9, 9, 9]], [9, 9, 9, 9], 4.0)
    assert_allclose([layer.A.item(), layer.G.item(), layer.D.item()], [2.0, 1.0, 4.0], rtol=1e-15)
    assert_allclose(layer.W, [[9.0 - 0.6 * 2.0]], rtol=1e-15)
    # A = (2 + 1/2 (4 + 12) / 2) / 2, G = (1 + 1/2 * 10) / 2, D = (3 * 4 + (1 + 3)^2) / 4.
    # The preconditioned gradient is 14 / 7, with momentum 3; eta = (1 / (2 * 14))^(1/2).
    step(2, [[1, 1, 1, 1], [3, 1, 1, 1]], [1, 0, 3, 0], 14.0)
    assert_allclose([layer.A.item(), layer.G.item(), layer.D.item()], [3.0, 3.0, 7.0], rtol=1e-15)
    assert_allclose(layer.W, [[7.8 - 3.0 / np.sqrt(28.0)]], rtol=1e-15)


def test_first_iteration_of_two_weights_whose_basis_turns():
    """D is measured in the old basis, and goes with the new eigenvectors as they come, not along.

    It starts with inputs (2, 0), so that A has the eigenvectors (0, 1) and (1, 0), in the order of
    their eigenvalues 0 and 4, and D is (0, 4). The next inputs are (3, 4), whose squares in this
    basis are (16, 9), and which have the eigenvectors (-4, 3) / 5 and (3, 4) / 5.
    """
    layer = Layer(np.zeros([1, 2]))
    a, g = np.array([[[3.0, 4.0]]]), np.array([[1.0]])
    initialize([layer], [(np.array([[[2.0, 0.0]]]), g[np.newaxis])])
    assert_allclose(layer.D, [[0.0, 4.0]], rtol=1e-15)
    gradient = np.array([[1.0, 7.0]])  # (17, 31) / 5 in the eigenbasis
    options = dict(N_cov=1, N_evd=1, beta_TR=0.5, rho_TR=1e6, beta_F=0.0, beta_D=0.5)
    options |= dict(beta_mom=0.5, rho=0.5, eta_max=1.0)
    iterate(0, [layer], [(a, g)], [gradient], **options)
    assert_allclose(layer.D, [[8.0, 6.5]], rtol=1e-15)
    shrunk = [0.5 * 8.0 + 0.5 * 7.25, 0.5 * 6.5 + 0.5 * 7.25]
    expected = 17 / 5 / shrunk[0] * np.array([-4, 3]) / 5
    expected += 31 / 5 / shrunk[1] * np.array([3, 4]) / 5
    assert_allclose(layer.W, [-expected], rtol=1e-14)


# --- the optimizer against the oracle ------------------------------------------------------------

# Name, number of inputs, number of outputs, whether there is a bias; a scale has no inputs.
LAYERS = [("inlet", 4, 3, True), ("scale", None, 3, False), ("linear", 3, 2, False)]
NUM_PATHS, NUM_STEPS, NUM_INITIAL_PATHS = 6, 5, 4


def new_layers():
    rng = np.random.default_rng(0)
    return [
        Layer(rng.normal(size=[outputs, (inputs or 1) + use_bias]), elementwise=inputs is None)
        for _, inputs, outputs, use_bias in LAYERS
    ]


def in_keras(matrices):
    """Matrices of the shape of W as Keras has them: kernels `[inputs, outputs]`, biases, scales."""
    for (_, inputs, _, use_bias), W in zip(LAYERS, matrices, strict=True):
        if use_bias:
            yield from (W[:, :-1].T, W[:, -1])
        else:
            yield W[:, 0] if inputs is None else W.T


def new_variables():
    values, variables = in_keras(layer.W for layer in new_layers()), []
    for name, _, _, use_bias in LAYERS:
        with keras.name_scope(name):
            for part in ("kernel", "bias")[: 1 + use_bias]:
                variables.append(keras.Variable(next(values), dtype="float64", name=part))
    return variables


def new_batch(i):
    """Inputs a_t and pseudo-gradients g_t of batch i for each layer, of all its paths."""
    rng = np.random.default_rng([1, i])
    a = [rng.normal(size=[NUM_PATHS, NUM_STEPS, n or m]) for _, n, m, _ in LAYERS]
    return a, [rng.normal(0.0, 0.3, [NUM_PATHS, NUM_STEPS, m]) for _, _, m, _ in LAYERS]


def homogeneous(a):
    return tf.concat([a, tf.ones_like(a[..., :1])], axis=-1)


@dataclasses.dataclass
class Curvature:
    """A batch as the optimizer asks for it; no seed changes the pseudo-gradients."""

    a: list
    g: list

    def input_moments(self):
        a = [homogeneous(a) for a in self.a]
        return [tf.einsum("nti,ntj->ij", x, x) / (NUM_PATHS * NUM_STEPS**0.5) for x in a]

    def sample(self, num_paths, seed):
        return [(a[:num_paths], g[:num_paths]) for a, g in zip(self.a, self.g, strict=True)]


def new_gradients(layers):
    """The gradient of a quadratic loss, which has nothing to do with the batch."""
    rng, w = np.random.default_rng(2), np.concatenate([layer.W.ravel() for layer in layers])
    root = rng.normal(size=[w.size, w.size])
    gradient = root @ (root.T @ w) / w.size + 0.1 * w - rng.normal(size=w.size)
    parts = np.split(gradient, np.cumsum([layer.W.size for layer in layers])[:-1])
    return [part.reshape(layer.W.shape) for part, layer in zip(parts, layers, strict=True)]


# What the package calls them.
NAMES = {
    "N_cov": "factor_interval",
    "N_evd": "eigenbasis_interval",
    "beta_TR": "trust_region_decay",
    "rho_TR": "trust_region",
    "beta_F": "factor_decay",
    "beta_D": "diagonal_decay",
    "beta_mom": "momentum",
    "rho": "shrinkage",
    "eta_max": "learning_rate",
}
PAPER = dict(N_cov=5, N_evd=25, beta_TR=0.997, rho_TR=1e-3, beta_F=0.95, beta_D=0.95)
PAPER |= dict(beta_mom=0.92, rho=5e-4)
SHORT = PAPER | dict(N_cov=2, N_evd=3, beta_F=0.5, beta_D=0.7)


@pytest.mark.parametrize(
    ("options", "num_updates", "capped"),
    [
        (dict(eta_max=2.0**-10), 30, [False, True]),
        (SHORT | dict(eta_max=2.0**-10), 7, [False, True]),
        (SHORT | dict(eta_max=1.0, beta_TR=0.5, rho=0.3), 7, [False]),
        (SHORT | dict(N_cov=3, N_evd=2, beta_mom=0.0, eta_max=2.0**-10), 7, [False, True]),
    ],
    ids=["as in the paper", "short intervals", "trust region", "no momentum"],
)
def test_updates_equal_algorithm1(options, num_updates, capped):
    named = {NAMES[symbol]: value for symbol, value in options.items()}
    optimizer = DHKFAC.paper(**named, num_initial_paths=NUM_INITIAL_PATHS)
    options = PAPER | options
    variables, layers, etas = new_variables(), new_layers(), []
    optimizer.build(variables)

    @tf.function(autograph=False)
    def update(gradients, a, g):
        optimizer.apply(gradients, variables, curvature=Curvature(a, g))

    for i in range(num_updates):
        gradients, (a, g) = new_gradients(layers), new_batch(i)
        update(*tf.nest.map_structure(tf.constant, (list(in_keras(gradients)), a, g)))
        inputs = [
            homogeneous(x).numpy() if use_bias else x
            for (_, _, _, use_bias), x in zip(LAYERS, a, strict=True)
        ]
        if i == 0:
            first = [(x, y[:NUM_INITIAL_PATHS]) for x, y in zip(inputs, g, strict=True)]
            initialize(layers, first, options["rho"])
        batch = [(x, y[0]) for x, y in zip(inputs, g, strict=True)]
        etas.append(iterate(i, layers, batch, gradients, **options))
        expected = in_keras(layer.W for layer in layers)
        for variable, value in zip(variables, expected, strict=True):
            assert_allclose(variable, value, **EXACT)
    assert sorted({eta == options["eta_max"] for eta in etas}) == capped


# --- a hedger against the oracle -----------------------------------------------------------------

PROBLEM = th.HedgingProblem(
    market=th.Heston.from_paper(),
    claim=th.Cliquet(num_periods=2, period=4, cap=0.015),
    instruments=th.FloatingGrid(maturities=(2,), strikes=(1.01,)),
    objective=th.MeanVariance(risk_aversion=10.0),
)


def fixed_normal(shape, seed, dtype):
    """Normal numbers that depend on their shape alone."""
    return tf.constant(np.random.default_rng(7).normal(size=np.array(shape)), dtype)


def unroll(cell, features, products):
    """Actions and inputs of each layer, `[num_paths, num_steps, size]`, time step by time step.

    Args:
        cell: The policy's cell.
        features: `[num_paths, num_steps, num_features]`.
        products: For each time step a list with what is added to the product of each layer.
    """
    states = [tf.zeros([len(features), size], tf.float64) for size in cell.state_size]
    actions, inputs = [], []
    for available, x, probes in zip(
        PROBLEM.availability, tf.unstack(features, axis=1), products, strict=True
    ):
        available = np.broadcast_to(available, [len(x), len(available)]).astype(np.float64)
        action, states, layer_inputs = cell.step(tf.concat([available, x], axis=-1), states, probes)
        actions.append(action)
        inputs.append(layer_inputs)
    inputs = [np.stack(x, axis=1) for x in zip(*inputs, strict=True)]
    return tf.stack(actions, axis=1), inputs


def batch_of(hedger, features, returns, num_paths):
    """For each layer its inputs on all paths and, by lines 6 to 9, the g_t of the first ones."""
    cell, num_steps = hedger.policy.cell, PROBLEM.num_steps
    products = [
        [tf.zeros([len(features), size], tf.float64) for size in cell.linear_sizes]
        for _ in range(num_steps)
    ]
    with tf.GradientTape() as tape:
        tape.watch(products)
        actions, inputs = unroll(cell, features, products)
        # A root of H_u = 2 gamma r r' + 2 diag(c~), c~ = 8 c, that is not the Cholesky factor.
        r = returns[:num_paths]
        e, z = (fixed_normal(shape, None, tf.float64) for shape in ([num_paths], r.shape))
        LZ = np.sqrt(20.0) * e[:, None, None] * r + np.sqrt(16.0 * np.float64(PROBLEM.costs)) * z
        model_output = tf.reduce_sum(LZ * actions[:num_paths])
    by_product = tape.gradient(model_output, products)
    for layer, a, *g in zip(cell.linear_layers, inputs, *by_product, strict=True):
        a = homogeneous(a).numpy() if len(layer.weights) == 2 else a
        yield a, np.stack(g, axis=1)[:num_paths]


def sampled_first(x, num_paths):
    """The paths of a batch, those of a systematic sample first."""
    sums = np.cumsum(np.full(len(x), num_paths / len(x)))
    paths = np.searchsorted(sums, np.arange(num_paths) + 0.5)
    return tf.gather(x, [*paths, *np.setdiff1d(np.arange(len(x)), paths)])


def by_layer(cell, values):
    """Kernels with their biases, and scales, of the shape of W."""
    values = iter(values)
    for layer in cell.linear_layers:
        kernel = np.asarray(next(values))
        if len(layer.weights) == 2:
            yield np.append(kernel.T, np.asarray(next(values))[:, None], axis=1)
        else:
            yield kernel[:, None]


def test_steps_of_a_hedger_equal_algorithm1(monkeypatch):
    hedger = th.DeepHedger(PROBLEM, th.RecurrentPolicy(2, 1, dtype="float64"), controls="trades")
    options = SHORT | dict(eta_max=2.0**-8, rho=0.01)
    named = {NAMES[symbol]: value for symbol, value in options.items()}
    optimizer = DHKFAC.paper(**named, num_initial_paths=NUM_INITIAL_PATHS)
    hedger.compile(optimizer, run_eagerly=True)
    rng, cell = np.random.default_rng(0), hedger.policy.cell
    hedger.set_weights([rng.normal(0.0, 0.2, w.shape) for w in hedger.weights])
    layers = [
        Layer(W, elementwise=len(layer.weights) == 1)
        for layer, W in zip(cell.linear_layers, by_layer(cell, hedger.weights), strict=True)
    ]
    paths = [PROBLEM.episodes(NUM_PATHS, seed=i) for i in range(4)]
    monkeypatch.setattr(tf.random, "stateless_normal", fixed_normal)
    for i, batch in enumerate(paths):
        features, (returns, payoff) = tf.nest.map_structure(lambda x: tf.cast(x, tf.float64), batch)
        if i == 0:
            inputs = (sampled_first(x, NUM_INITIAL_PATHS) for x in (features, returns))
            first = list(batch_of(hedger, *inputs, NUM_INITIAL_PATHS))
            initialize(layers, first, options["rho"])
        inputs = (sampled_first(x, 1) for x in (features, returns))
        sample = [(a, g[0]) for a, g in batch_of(hedger, *inputs, 1)]
        with tf.GradientTape() as tape:  # 15
            trades = hedger(features)
            pnl, cost = PROBLEM.pnl(trades, returns, payoff), PROBLEM.cost(trades)
            loss = 10.0 * tf.math.reduce_variance(pnl) + tf.reduce_mean(cost)
        gradients = by_layer(cell, tape.gradient(loss, hedger.trainable_variables))
        iterate(i, layers, sample, list(gradients), **options)
        hedger.train_on_batch(features, (returns, payoff))
        for layer, W in zip(layers, by_layer(cell, hedger.weights), strict=True):
            assert_allclose(W, layer.W, rtol=1e-8, atol=1e-10)


def test_quadratic_costs_are_those_of_the_paper():
    """c~ = 8 c, section 3.3."""
    assert DHKFAC.paper().quadratic_cost_ratio == 8.0
