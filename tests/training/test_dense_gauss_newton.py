"""B = E[J' H_u J] of a small policy, dense, by automatic differentiation of the Keras layer.

All of it is in float64: the products with B, the second moments of the pseudo-gradients within and
across the layers, and the blocks where theory says that Kronecker factors are exact.
"""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

import tfhedge as th
from tfhedge.curvature.kronecker import DiagonalBlock, KroneckerBlock, shrink
from tfhedge.hedging.controls import Controls
from tfhedge.policy.linearize import action_derivatives
from tfhedge.training.gauss_newton import GaussNewton

NUM_PATHS, NUM_STEPS, NUM_FEATURES, NUM_INSTRUMENTS = 4, 4, 2, 3
NUM_NORMALS = 1 + NUM_STEPS * NUM_INSTRUMENTS  # that a pseudo-gradient takes
EXACT = {"rtol": 1e-10, "atol": 1e-12}
NUM_ERRORS = 4.5
RNG = np.random.default_rng(0)
# What a Gauss-Newton matrix takes of a hedging problem.
PROBLEM = types.SimpleNamespace(
    objective=th.MeanVariance(risk_aversion=10.0),
    availability=(np.arange(NUM_STEPS)[:, None] < [4, 3, 1]).astype(np.float64),
    costs=np.tile([0.01, 0.2, 0.1], [NUM_STEPS, 1]),
)
# Positions in the first and the last instrument, trades in the other.
CARRIED = PROBLEM.availability * [1.0, 0.0, 1.0]
QUADRATIC_COST = 8.0
FEATURES = tf.constant(RNG.normal(size=[NUM_PATHS, NUM_STEPS, NUM_FEATURES]))
RETURNS = tf.constant(RNG.normal(0.0, 0.3, [NUM_PATHS, NUM_STEPS, NUM_INSTRUMENTS]))
POLICIES = {
    "one block": (th.RecurrentPolicy, 3, 1),
    "two blocks": (th.RecurrentPolicy, 2, 2),
    "dense": (th.DensePolicy, 3, 2),
}


def new_policy(policy_class, *args, seed=1):
    policy = policy_class(*args, dtype="float64")
    policy.build(FEATURES.shape, PROBLEM.availability.shape)
    rng = np.random.default_rng(seed)
    policy.set_weights([rng.normal(0.0, 0.3, w.shape) for w in policy.weights])
    return policy


def trades_jacobian(policy, features, problem=PROBLEM):
    """J of each path, the derivatives of the trades by all weights in their order."""
    with tf.GradientTape(persistent=True) as tape:
        actions = tf.reshape(policy(features, problem.availability), [len(features), -1])
    weights = [w.value for w in policy.trainable_variables]
    jacobian = tape.jacobian(actions, weights, experimental_use_pfor=False)
    J = np.concatenate([np.reshape(j, [*actions.shape, -1]) for j in jacobian], axis=-1)
    carried = np.diag(CARRIED[1 : problem.availability.shape[0]].ravel(), -NUM_INSTRUMENTS)
    return (np.eye(J.shape[1]) - carried) @ J


def dense_by_path(policy, features, returns, problem=PROBLEM, k=20.0, w=1.0):
    """J' H_u J of each path, eq. (12).

    The numbers k and w, perhaps of each path, are those of a mean and variance with gamma = 10.
    """
    J = trades_jacobian(policy, features, problem)
    k, w = (np.reshape(x, [-1, 1, 1]) for x in (k, w))
    c, r = problem.costs.ravel(), np.reshape(returns, J.shape[:2])
    H = k * np.einsum("ni,nj->nij", r, r) + 2.0 * w * np.diag(QUADRATIC_COST * c)
    return J.transpose(0, 2, 1) @ H @ J


def of_threshold(policy, returns, flat, k, counts):
    """What the threshold takes from v' J' H_u J v, summed with counts: (E[k D])^2 / E[k]."""
    J = trades_jacobian(policy, FEATURES)
    gains = np.einsum("nu,nuw,kw->kn", np.reshape(returns, J.shape[:2]), J, flat)
    k = np.asarray(k) * counts / np.sum(counts)
    return np.outer(gains @ k, gains @ k) / np.sum(k)


# What the P&L is does not matter to the mean and variance.
OUTCOME = np.zeros([2, NUM_PATHS])


def gauss_newton(policy, features, returns, copies=1, problem=PROBLEM, outcome=OUTCOME):
    features, returns, *outcome = (
        np.repeat(x, copies, axis=0) for x in (features, returns, np.zeros(len(features)), *outcome)
    )
    return GaussNewton(
        problem,
        policy,
        Controls(CARRIED[: problem.availability.shape[0]]),
        QUADRATIC_COST,
        tf.constant(features),
        tf.constant(returns),
        *map(tf.constant, outcome),
    )


def weight_gradient(a, g, use_bias):
    """DW of each path, `[num_paths, ...]`: sum_t [a_t; 1] g_t' or, for a scale, sum_t a_t g_t."""
    if not use_bias:
        return np.einsum("nti,nti->ni", a, g)
    return np.einsum("nti,nto->nio", np.append(a, np.ones_like(a[..., :1]), axis=-1), g)


def pseudo_gradients(policy, curvature, seed=(1, 2)):
    """The pseudo-gradient of all weights of each path, `[num_paths, num_weights]`."""
    sample = curvature.sample(len(curvature.features), seed)
    parts = [
        weight_gradient(a.numpy(), g.numpy(), len(layer.weights) == 2)
        for layer, (a, g) in zip(policy.cell.linear_layers, sample, strict=True)
    ]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=-1)


def new_state(shape, initializer, name):
    return tf.Variable(keras.initializers.get(initializer)(shape, "float64"), name=name)


def curvature_blocks(policy, curvature):
    """For each layer its block, once it has seen the sample of all paths."""
    sample = curvature.sample(len(curvature.features), seed=(1, 2))
    for layer, (a, g) in zip(policy.cell.linear_layers, sample, strict=True):
        if len(layer.weights) == 2:
            block = KroneckerBlock(layer.kernel.shape, True, new_state)
        else:
            block = DiagonalBlock(layer.scale.shape[0], new_state)
        block.update_factors_by_path(a, g, 0.0)
        block.update_eigenbasis()
        block.update_diagonal(a, g, 0.0)
        yield layer, block


@pytest.fixture(scope="module", params=POLICIES.values(), ids=POLICIES)
def policy(request):
    return new_policy(*request.param)


@pytest.fixture(params=["of the cell", "compiled"])
def route(request, policy, monkeypatch):
    if request.param == "compiled" and policy.compiled.obstacle():
        pytest.skip(policy.compiled.obstacle())
    obstacle = "this test" if request.param == "of the cell" else None
    monkeypatch.setattr(policy.compiled, "obstacle", lambda: obstacle)


@pytest.fixture(scope="module")
def dense(policy):
    return dense_by_path(policy, FEATURES, RETURNS)


@pytest.mark.usefixtures("route")
def test_gram_is_that_of_the_dense_matrix(policy, dense):
    rng = np.random.default_rng(2)
    directions = [[rng.normal(size=w.shape) for w in policy.trainable_variables] for _ in range(3)]
    flat = np.stack([np.concatenate([x.ravel() for x in d]) for d in directions])
    tensors = [[tf.constant(x) for x in d] for d in directions]
    _, gram, _ = gauss_newton(policy, FEATURES, RETURNS).quadratic(tensors, NUM_PATHS)
    expected = flat @ dense.mean(axis=0) @ flat.T
    expected -= of_threshold(policy, RETURNS, flat, 20.0, np.ones(NUM_PATHS))
    assert_allclose(gram, expected, **EXACT)


@pytest.mark.parametrize("policy", [POLICIES["two blocks"]], ids=["two blocks"], indirect=True)
def test_a_path_with_a_loss_counts_for_more_by_exponential_utility(policy, unit_noise):
    problem = types.SimpleNamespace(**vars(PROBLEM) | {"objective": th.EntropicRisk(50.0)})
    pnl, cost = np.array([[-0.04, 0.01, 0.0, 0.03], [0.0, 0.002, 0.01, 0.0]])
    w = np.exp(50.0 * (cost - pnl))
    w /= w.mean()
    by_path = dense_by_path(policy, FEATURES, RETURNS, problem, 50.0 * w, w)
    dense, outcome = by_path.mean(axis=0), (pnl, cost)
    curvature = gauss_newton(policy, FEATURES, RETURNS, problem=problem, outcome=outcome)
    direction = [np.random.default_rng(2).normal(size=x.shape) for x in policy.trainable_variables]
    flat = np.concatenate([x.ravel() for x in direction])
    along = np.einsum("i,nij,j->n", flat, by_path, flat)
    _, gram, _ = curvature.quadratic([direction], NUM_PATHS)
    shift = of_threshold(policy, RETURNS, flat[np.newaxis], 50.0 * w, np.ones(NUM_PATHS))
    assert_allclose(gram, along.mean() - shift, **EXACT)
    # Two of the paths, by their weights: the first has more than half of them.
    assert w[0] > 0.5 * w.sum()
    last = np.searchsorted(np.cumsum(w / w.mean() / 2.0), 1.5)
    _, gram, _ = curvature.quadratic([direction], 2)
    counts = np.zeros(NUM_PATHS)
    counts[[0, last]] = 1.0 / w[[0, last]]
    counts /= np.sum(counts * w)
    shift = of_threshold(policy, RETURNS, flat[np.newaxis], 50.0 * w * np.sum(counts), counts)
    assert_allclose(gram, np.sum(counts * along) - shift, **EXACT)
    unit_noise(NUM_NORMALS)
    curvature = gauss_newton(policy, FEATURES, RETURNS, NUM_NORMALS, problem, outcome)
    x = pseudo_gradients(policy, curvature)
    assert_allclose(x.T @ x / len(x), dense, **EXACT)


OBJECTIVES = {"variance": th.MeanVariance(10.0), "entropic": th.EntropicRisk(50.0)}


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("num_paths", [NUM_PATHS, 100])
def test_slope_and_change_are_those_of_the_loss(policy, objective, num_paths):
    """On all paths: the slope by automatic differentiation, the change by two losses."""
    hedging = th.HedgingProblem(
        th.Heston.from_paper(),
        th.Cliquet(2, 2, 0.015),
        th.FloatingGrid((2, 1), (1.0, 1.01)),
        objective,
    )
    payoff = tf.constant([0.01, 0.0, 0.03, 0.02], tf.float64)
    controls, weights = Controls(CARRIED), policy.trainable_variables
    with tf.GradientTape() as tape:
        trades = controls.trades(policy(FEATURES, hedging.availability))
        pnl, cost = hedging.pnl(trades, RETURNS, payoff), hedging.cost(trades)
        loss = objective.loss(pnl, cost)
    gradient = tape.gradient(loss, [w.value for w in weights])
    curvature = GaussNewton(
        hedging, policy, controls, QUADRATIC_COST, FEATURES, RETURNS, payoff, pnl, cost
    )
    rng = np.random.default_rng(3)
    update = [tf.constant(1e-3 * rng.normal(size=w.shape)) for w in weights]
    slopes, gram, kink = curvature.quadratic([update], num_paths)
    expected = sum(np.sum(g * x) for g, x in zip(gradient, update, strict=True))
    assert_allclose(slopes, [expected], rtol=1e-9)

    before = policy.get_weights()
    policy.set_weights([w + x for w, x in zip(before, update, strict=True)])
    trades = controls.trades(policy(FEATURES, hedging.availability))
    after = hedging.pnl(trades, RETURNS, payoff), hedging.cost(trades)
    policy.set_weights(before)
    change = objective.loss(*after) - loss
    assert_allclose(curvature.change(update, num_paths), change, rtol=1e-8)

    # With true costs the model is the loss of linearized trades, where that is quadratic otherwise.
    length = 100.0
    changes = action_derivatives(policy, FEATURES, hedging.availability, [update])[1]
    trades = controls.trades(policy(FEATURES, hedging.availability) + length * changes[0])
    linearized = hedging.pnl(trades, RETURNS, payoff), hedging.cost(trades)
    model = length * slopes[0] + 0.5 * length**2 * gram[0, 0]
    model += kink(tf.constant([length], tf.float64))
    if isinstance(objective, th.MeanVariance):
        assert_allclose(model, objective.loss(*linearized) - loss, rtol=1e-6)

    assert_allclose(curvature.risk_after(update), objective.risk(*after), rtol=1e-10)
    assert_allclose(curvature.risk, objective.risk(pnl, cost), rtol=1e-12)


@pytest.mark.usefixtures("route")
def test_pseudo_gradients_have_the_dense_matrix_as_second_moment(policy, dense, unit_noise):
    """All of it, within the layers and across them."""
    unit_noise(NUM_NORMALS)
    x = pseudo_gradients(policy, gauss_newton(policy, FEATURES, RETURNS, NUM_NORMALS))
    assert np.mean(np.diag(dense.mean(axis=0)) > 1e-10) > 0.95
    assert_allclose(x.T @ x / len(x), dense.mean(axis=0), **EXACT)


@pytest.mark.parametrize("policy", [POLICIES["two blocks"]], ids=["two blocks"], indirect=True)
def test_second_moments_converge_at_the_monte_carlo_rate(policy, dense):
    """Given its path p, DW is normal with covariance B_p = J' H_u J. So n paths have moments with

    n Var = mean of B_p,ii B_p,jj + B_p,ij^2

    over p, entry by entry, and the sum of that is n times the mean squared error in the Frobenius
    norm, whatever n: a bias would make it grow.
    """
    num_copies = 8_000
    x = pseudo_gradients(policy, gauss_newton(policy, FEATURES, RETURNS, num_copies))
    B, diagonals = dense.mean(axis=0), np.diagonal(dense, axis1=1, axis2=2)
    variance = np.mean(np.einsum("pi,pj->pij", diagonals, diagonals) + dense**2, axis=0)
    errors = np.abs(x.T @ x / len(x) - B)
    assert np.all(errors <= NUM_ERRORS * np.sqrt(variance / len(x)))

    x = x.reshape(NUM_PATHS, num_copies, len(B))
    for copies in (5, 20, 80):
        batches = x.reshape(NUM_PATHS, -1, copies, len(B)).swapaxes(0, 1)
        batches = batches.reshape(-1, NUM_PATHS * copies, len(B))
        moments = batches.swapaxes(1, 2) @ batches / batches.shape[1]
        squared_error = np.mean(np.sum((moments - B) ** 2, axis=(1, 2)))
        ratio = squared_error * batches.shape[1] / np.sum(variance)
        # The square of one normal number, with relative variance 2, varies as much as any such sum.
        assert abs(ratio - 1.0) < NUM_ERRORS * np.sqrt(2.0 / len(batches))


def test_one_step_from_one_state_has_blocks_that_are_kronecker_products(unit_noise):
    """All paths then share their a, which are independent of g: A kron G is the dense block."""
    problem = types.SimpleNamespace(
        objective=PROBLEM.objective,
        availability=np.ones([1, NUM_INSTRUMENTS]),
        costs=PROBLEM.costs[:1],
    )
    policy = new_policy(th.RecurrentPolicy, 2, 2)
    features, returns = np.repeat(FEATURES[:1, :1], NUM_PATHS, axis=0), RETURNS[:, :1]
    dense = dense_by_path(policy, features, returns, problem).mean(axis=0)
    unit_noise(1 + NUM_INSTRUMENTS)
    curvature = gauss_newton(policy, features, returns, 1 + NUM_INSTRUMENTS, problem)
    start = 0
    for layer, block in curvature_blocks(policy, curvature):
        end = start + sum(int(np.prod(w.shape)) for w in layer.weights)
        if isinstance(block, KroneckerBlock):
            factors = np.kron(block.input_factor, block.output_factor)
            assert_allclose(factors, dense[start:end, start:end], **EXACT)
        start = end
    assert start == len(dense)


@pytest.mark.parametrize("seed", range(4))
def test_rescaled_blocks_underestimate_the_curvature_along_their_own_step(seed, unit_noise):
    """The step -v that they propose, v = B_hat^-1 g, makes the quadratic model worse.

    For that says v'Bv > 2 g'v, where g'v = v' B_hat v. And that with D as exact as can be: what
    couples the layers, and the axes within a layer, is left out. So `DHKFAC` asks B itself for the
    length of its step.
    """
    policy = new_policy(th.RecurrentPolicy, 2, 1, seed=seed)
    payoff = np.array([0.1, -0.1, 0.3, 0.0])
    with tf.GradientTape() as tape:
        actions = Controls(CARRIED).trades(policy(FEATURES, PROBLEM.availability))
        pnl = tf.einsum("nti,nti->n", actions, RETURNS) - payoff
        cost = tf.einsum("nti,ti->n", tf.abs(actions), PROBLEM.costs)
        loss = PROBLEM.objective.loss(pnl, cost)
    weights = [w.value for w in policy.trainable_variables]
    gradient = iter(tape.gradient(loss, weights))
    unit_noise(NUM_NORMALS)
    curvature = gauss_newton(policy, FEATURES, RETURNS, NUM_NORMALS)
    slope, direction = 0.0, []
    for layer, block in curvature_blocks(policy, curvature):
        parts = [next(gradient) for _ in layer.weights]
        preconditioned = block.precondition(
            parts, shrink(block.diagonal, 5e-4, tf.reduce_mean(block.diagonal))
        )
        slope += sum(np.sum(x * y) for x, y in zip(parts, preconditioned, strict=True))
        direction += preconditioned
    v = np.concatenate([np.ravel(x) for x in direction])
    B = dense_by_path(policy, FEATURES, RETURNS).mean(axis=0)
    assert v @ B @ v > 2.0 * slope > 0.0
