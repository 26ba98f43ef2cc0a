"""DH-KFAC as an optimizer, on a quadratic loss whose curvature and samples are known.

Section by section: whole runs against a transcription of the algorithm in
NumPy and float64; what happens to numbers that are not finite; what Keras expects of an optimizer.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from tfhedge.curvature.dhkfac import DHKFAC
from tfhedge.curvature.kronecker import homogeneous, second_moment
from tfhedge.curvature.report import CurvatureReport

# --- whole runs ----------------------------------------------------------------------------------

# Name, number of inputs, number of outputs, whether there is a bias; a scale has no inputs.
LAYERS = [("inlet", 4, 3, True), ("scale", None, 3, False), ("linear", 3, 2, False)]
NUM_PATHS, NUM_STEPS = 6, 4


def shapes():
    for _, inputs, outputs, use_bias in LAYERS:
        yield (outputs,) if inputs is None else (inputs, outputs)
        if use_bias:
            yield (outputs,)


def new_variables(dtype="float32"):
    rng, variables = np.random.default_rng(0), []
    for name, inputs, outputs, use_bias in LAYERS:
        with keras.name_scope(name):
            shape = (outputs,) if inputs is None else (inputs, outputs)
            variables.append(keras.Variable(rng.normal(size=shape), dtype=dtype, name="kernel"))
            if use_bias:
                variables.append(
                    keras.Variable(rng.normal(size=[outputs]), dtype=dtype, name="bias")
                )
    return variables


def flat(tensors):
    return np.concatenate([np.ravel(x) for x in tensors]).astype(np.float64)


class Quadratic:
    """The loss w'Bw / 2 - b'w, and samples that have little to do with B."""

    def __init__(self, dtype="float32", noise=0.0):
        self.dtype, rng = dtype, np.random.default_rng(1)
        sizes, draw = [np.prod(shape) for shape in shapes()], np.random.default_rng(2)
        self.noise = noise * draw.normal(size=sum(sizes))
        size = sum(np.prod(shape) for shape in shapes())
        root = rng.normal(size=[size, size])
        self.matrix = root @ root.T / size + 0.1 * np.eye(size)
        self.vector = rng.normal(size=size)
        self.risk = tf.constant(2.0, dtype)

    def loss(self, weights):
        return 0.5 * weights @ self.matrix @ weights - self.vector @ weights

    def gradients(self, variables):
        self.variables = variables
        return self.parts(self.matrix @ flat(variables) - self.vector)

    @property
    def half_gradients(self):
        """Those of two halves that miss the gradient by as much, to either side."""
        if not np.any(self.noise):
            return None
        matrix, vector = (tf.constant(x, self.dtype) for x in (self.matrix, self.vector))
        gradient = tf.linalg.matvec(matrix, joined(self.variables)) - vector
        noise = tf.constant(self.noise, self.dtype)
        return self.parts(gradient + noise), self.parts(gradient - noise)

    def parts(self, vector):
        parts = tf.split(tf.cast(vector, self.dtype), [np.prod(shape) for shape in shapes()])
        return [tf.reshape(x, shape) for x, shape in zip(parts, shapes(), strict=True)]

    def sample(self, num_paths, seed):
        def draw(size, stream):
            key = tf.random.fold_in(tf.cast(seed, tf.int64), stream)
            noise = tf.random.stateless_normal([NUM_PATHS, NUM_STEPS, size], key, dtype=self.dtype)
            return tf.cumsum(noise, axis=1)[:num_paths]

        return [
            (draw(inputs or outputs, 2 * i), 0.1 * draw(outputs, 2 * i + 1))
            for i, (_, inputs, outputs, _) in enumerate(LAYERS)
        ]

    def quadratic(self, directions, num_paths):
        v = tf.stack([joined(d) for d in directions])
        matrix, vector = (tf.constant(x, self.dtype) for x in (self.matrix, self.vector))
        gradient = tf.linalg.matvec(matrix, joined(self.variables)) - vector
        kink = lambda coefficients: tf.zeros_like(coefficients[0])  # noqa: E731
        return tf.linalg.matvec(v, gradient), v @ matrix @ tf.transpose(v), kink

    def change(self, update, num_paths):
        slopes, gram, _ = self.quadratic([update], num_paths)
        return slopes[0] + 0.5 * gram[0, 0]

    def risk_after(self, update):
        return self.risk


def joined(tensors):
    return tf.concat([tf.reshape(x, [-1]) for x in tensors], axis=0)


class Transcription:
    """The algorithm as the docstrings of `DHKFAC` and `KroneckerBlock` tell it, one layer a loop.

    Every matrix of a layer is dense: D is a vector and Q a Kronecker product.
    """

    def __init__(self, problem, options):
        self.problem, self.options = problem, DHKFAC(**options).get_config()
        self.learning_rate = options.get("learning_rate", np.float32(1.0))  # as Keras keeps it
        self.weights = flat(new_variables(problem.dtype))
        self.previous, self.iteration, self.signals = np.zeros_like(self.weights), 0, []
        self.A, self.G, self.Q, self.D = ([0.0] * len(LAYERS) for _ in range(4))

    def step(self):
        options, i = self.options, self.iteration
        sample = []
        if i % options["factor_interval"] == 0:
            sample = self.problem.sample(options["num_curvature_paths"], (options["seed"], i))
        past = i // options["factor_interval"]
        for layer, (a, g) in enumerate(sample):
            self.update_factors(layer, *self.inputs(layer, a, g), past / (past + 1))
        if i % options["eigenbasis_interval"] == 0:
            for layer in range(len(LAYERS)):
                self.renew_basis(layer)
        for layer, (a, g) in enumerate(sample):
            self.update_diagonal(layer, *self.inputs(layer, a, g), past / (past + 1))

        gradient = self.problem.matrix @ self.weights - self.problem.vector
        direction, noise = self.precondition(gradient), self.problem.noise
        self.signals.append(1.0 - noise @ self.precondition(noise) / (gradient @ direction))
        # A plain mean: there are fewer terms than the decay gives weight to.
        self.take_step(direction, gradient, max(np.mean(self.signals), 0.0))

    def inputs(self, layer, a, g):
        a, g, use_bias = (
            a.numpy().astype(np.float64),
            g.numpy().astype(np.float64),
            LAYERS[layer][3],
        )
        return (np.append(a, np.ones_like(a[..., :1]), axis=-1) if use_bias else a), g

    def update_factors(self, layer, a, g, plain_mean):
        if LAYERS[layer][1] is None:
            return
        beta = min(self.options["factor_decay"], plain_mean)
        per_path = [a_n.T @ g_n for a_n, g_n in zip(a, g, strict=True)]
        scale = np.sqrt(np.mean([np.sum(DW**2) for DW in per_path]))
        for factors, moments in (
            (self.A, [DW @ DW.T for DW in per_path]),
            (self.G, [DW.T @ DW for DW in per_path]),
        ):
            moment = np.mean(moments, axis=0) / scale
            factors[layer] = beta * factors[layer] + (1.0 - beta) * moment

    def renew_basis(self, layer):
        if LAYERS[layer][1] is None:
            self.Q[layer] = np.eye(LAYERS[layer][2])
            return
        Q_A, Q_G = (np.linalg.eigh(factors[layer])[1] for factors in (self.A, self.G))
        old, self.Q[layer] = self.Q[layer], np.kron(Q_A, Q_G)
        if self.iteration > 0:
            rotation = self.Q[layer].T @ old
            self.D[layer] = np.diag(rotation @ np.diag(self.D[layer]) @ rotation.T)

    def update_diagonal(self, layer, a, g, plain_mean):
        beta = min(self.options["diagonal_decay"], plain_mean)
        outer = "nti,nti->ni" if LAYERS[layer][1] is None else "nti,nto->nio"
        per_path = np.einsum(outer, a, g).reshape(len(a), -1) @ self.Q[layer]
        self.D[layer] = beta * self.D[layer] + (1.0 - beta) * np.mean(per_path**2, axis=0)

    def precondition(self, gradient):
        # The damping starts at 100, unless D were then shrunk by more than all of it.
        rho, blocks = self.options["shrinkage"], []
        rho = max(min(100.0 * rho, 1.0) * 0.9**self.iteration, rho)
        shared = 0.9**self.iteration * np.concatenate(self.D).mean()
        for Q, D in zip(self.Q, self.D, strict=True):
            block, gradient = gradient[: len(D)], gradient[len(D) :]
            blocks.append(Q @ (Q.T @ block / ((1.0 - rho) * D + rho * (D.mean() + shared))))
        return np.concatenate(blocks)

    def take_step(self, direction, gradient, signal):
        options, i, matrix = self.options, self.iteration, self.problem.matrix
        rate = self.learning_rate
        rate = rate(i) if callable(rate) else rate
        for momentum in (options["momentum"], 0.0):
            onward = momentum * self.previous
            alpha = direction @ (signal * gradient + matrix @ onward)
            alpha = max(alpha / (direction @ matrix @ direction), 0.0)
            update = onward - float(rate) * alpha * direction
            if gradient @ onward - float(rate) * alpha * signal * (gradient @ direction) <= 0.0:
                break
        risk = 2.0 * signal**2
        within = np.sqrt(options["trust_region"] * risk / (update @ matrix @ update))
        fall = float(rate) * alpha * signal * (gradient @ direction) - gradient @ onward
        update *= min(1.0, within, 2.0 * risk / fall)
        self.weights, self.previous, self.iteration = self.weights + update, update, i + 1


OPTIONS = {
    "defaults": {"trust_region": 1e6},
    "no momentum": {"momentum": 0.0, "trust_region": 1e6},
    "full steps": {
        "learning_rate": 1.0,
        "shrinkage": 0.1,
        "trust_region": 1e6,
    },
    "small trust region": {"trust_region": 1e-2},
    "rare curvature": {"factor_interval": 2, "eigenbasis_interval": 4, "num_curvature_paths": 5},
    "little memory": {"factor_decay": 0.3, "diagonal_decay": 0.0, "eigenbasis_interval": 1},
    "schedule": {
        "learning_rate": keras.optimizers.schedules.ExponentialDecay(0.8, 2, 0.5),
        "seed": 3,
    },
    "unaligned intervals": {"factor_interval": 2, "eigenbasis_interval": 3},
}


def graph_step(optimizer, problem, variables):
    """One step as a function, compiled once."""
    gradients = tf.function(lambda *g: optimizer.apply(g, variables, problem), autograph=False)
    return lambda: gradients(*problem.gradients(variables))


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-4), ("float64", 1e-8)])
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_steps_equal_the_transcription(options, noise, dtype, atol):
    problem, variables = Quadratic(dtype, noise), new_variables(dtype)
    optimizer, expected = DHKFAC(**options), Transcription(problem, options)
    optimizer.build(variables)
    assert {v.dtype for v in optimizer.variables if len(v.shape) == 2} == {dtype}
    step = graph_step(optimizer, problem, variables)
    for _ in range(7):
        step()
        expected.step()
        assert_allclose(flat(variables), expected.weights, rtol=0, atol=atol)
        assert_allclose(flat(optimizer.momentums), expected.previous, rtol=0, atol=atol)
    assert int(optimizer.iterations) == 7
    assert float(optimizer.rejected_steps) == 0.0


def test_a_step_is_the_same_without_a_graph():
    problem, runs = Quadratic(), []
    for in_graph in (True, False):
        variables, optimizer = new_variables(), DHKFAC()
        optimizer.build(variables)
        step = graph_step(optimizer, problem, variables)
        for _ in range(3):
            if in_graph:
                step()
            else:
                optimizer.apply(problem.gradients(variables), variables, problem)
        runs.append(flat(variables))
    assert_allclose(*runs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_quadratic_is_minimized(momentum):
    problem, variables = Quadratic(), new_variables()
    optimizer = DHKFAC(1.0, momentum=momentum, trust_region=1e6)
    optimizer.build(variables)
    step, losses = graph_step(optimizer, problem, variables), [problem.loss(flat(variables))]
    least = problem.loss(np.linalg.solve(problem.matrix, problem.vector))
    for _ in range(60):
        step()
        losses.append(problem.loss(flat(variables)))
    assert momentum > 0.0 or np.all(np.diff(losses) < 1e-5)
    assert losses[-1] - least < 1e-2 * (losses[0] - least)


def test_the_trust_region_bounds_the_step():
    problem, variables = Quadratic(), new_variables()
    schedule = keras.optimizers.schedules.ExponentialDecay(5e-4, 1, 0.5)
    optimizer = DHKFAC(trust_region=schedule)
    optimizer.build(variables)
    step = graph_step(optimizer, problem, variables)
    for i in range(4):
        step()
        update = flat(optimizer.momentums)
        assert_allclose(update @ problem.matrix @ update, 1e-3 * 0.5**i, rtol=1e-4)


def test_no_step_is_taken_where_the_gradient_is_noise():
    """The halves then point away from each other."""
    problem, variables = Quadratic(), new_variables()
    before, optimizer = flat(variables), DHKFAC()
    optimizer.build(variables)
    gradients = problem.gradients(variables)
    problem.noise = 1.01 * flat(gradients)
    optimizer.apply(gradients, variables, problem)
    assert_array_equal(flat(variables), before)
    assert float(optimizer.signal) == pytest.approx(1.0 - 1.01**2, rel=1e-4)
    problem.noise = 0.5 * problem.noise
    optimizer.apply(gradients, variables, problem)
    assert np.any(flat(variables) != before)


def test_momentum_that_goes_uphill_is_dropped():
    problem, runs = Quadratic(), []
    for scale in (0.0, 1.0):
        variables, optimizer = new_variables(), DHKFAC()
        optimizer.build(variables)
        gradients = problem.gradients(variables)
        for slot, gradient in zip(optimizer.momentums, gradients, strict=True):
            slot.assign(scale * gradient)
        optimizer.apply(gradients, variables, problem)
        runs.append(flat(variables))
    assert_array_equal(*runs)
    assert np.any(runs[0] != flat(new_variables()))


# --- steps that M is wrong about -----------------------------------------------------------------


class Bent(Quadratic):
    """A loss that is the quadratic for small updates, and rises beyond."""

    def __init__(self, radius, dtype="float32"):
        super().__init__(dtype)
        self.radius = radius

    def change(self, update, num_paths):
        size = tf.norm(joined(update))
        change = super().change(update, num_paths)
        return tf.where(size > self.radius, np.nan if self.radius == 0.0 else 1e3, change)


def test_a_step_is_halved_until_the_loss_agrees():
    """To the longest of 1, 1/2, 1/4, ... within the range of the quadratic."""
    steps = []
    for problem in (Quadratic(), Bent(radius=0.1)):
        variables, optimizer = new_variables(), DHKFAC()
        optimizer.build(variables)
        graph_step(optimizer, problem, variables)()
        steps.append((flat(optimizer.momentums), float(optimizer.damping)))
    (whole, damping), (halved, more_damping) = steps
    length = 0.5 ** np.ceil(np.log2(np.linalg.norm(whole) / 0.1))
    assert length < 0.5
    assert_allclose(halved, length * whole, rtol=1e-5)
    assert_allclose(damping, 90.0, rtol=1e-6)
    assert_allclose(more_damping, 100.0 / np.sqrt(length), rtol=1e-6)


def test_where_no_length_will_do_the_step_is_rejected():
    problem, variables, optimizer = Bent(radius=0.0), new_variables(), DHKFAC()
    optimizer.build(variables)
    weights, step = flat(variables), graph_step(optimizer, problem, variables)
    for _ in range(3):
        step()
    assert_array_equal(flat(variables), weights)
    assert float(optimizer.rejected_in_a_row) == float(optimizer.rejected_steps) == 3.0
    assert not np.any(flat(optimizer.momentums))


class Shifting(Quadratic):
    """A quadratic whose batches have risks that are set, now and before the last step."""

    def __init__(self):
        super().__init__()
        self.risk, self.before = tf.Variable(2.0), tf.Variable(2.0)

    def risk_after(self, update):
        return tf.identity(self.before)


@pytest.mark.parametrize(
    ("risk", "before", "is_taken_back"),
    [
        (2.9, 0.1, False),  # as usual
        (3.1, 2.9, False),  # a batch of bad paths, the last step had no part in it
        (3.1, 2.0, True),
        (3.1, np.nan, False),
        (np.inf, 2.0, True),
        (np.nan, 2.0, True),
    ],
)
def test_a_step_that_did_harm_is_taken_back(risk, before, is_taken_back):
    problem, variables, optimizer = Shifting(), new_variables(), DHKFAC()
    optimizer.build(variables)
    step, weights = graph_step(optimizer, problem, variables), []
    for _ in range(2):
        weights.append(flat(variables))
        step()
    damping = float(optimizer.damping)
    problem.risk.assign(risk)
    problem.before.assign(before)
    step()
    assert float(optimizer.rejected_steps) == is_taken_back
    if is_taken_back:
        assert_allclose(flat(variables), weights[-1], rtol=1e-6, atol=1e-6)
        assert not np.any(flat(optimizer.momentums))
        assert_allclose(float(optimizer.damping), 10.0 * damping, rtol=1e-6)
    problem.risk.assign(2.0)
    step()
    assert float(optimizer.rejected_steps) == is_taken_back
    assert int(optimizer.iterations) == 4


@pytest.mark.parametrize(("dtype", "least"), [("float32", "1.19e-07"), ("float64", "2.22e-16")])
def test_a_shrinkage_below_the_rounding_of_the_weights_is_refused(dtype, least):
    with pytest.raises(ValueError, match=f"`shrinkage` to be at least {least}.*shrinkage=1e-17"):
        DHKFAC(shrinkage=1e-17).build(new_variables(dtype))


# --- numbers that are not finite -----------------------------------------------------------------


class Broken(Quadratic):
    """A quadratic that goes wrong in one place while `bad` is not zero."""

    def __init__(self, place):
        super().__init__()
        self.place, self.bad = place, tf.Variable(0.0)

    def spoil(self, place, x):
        is_bad = (self.bad > 0.0) & (place == self.place)
        return tf.where(is_bad, tf.constant(np.nan, x.dtype), x)

    def gradients(self, variables):
        first, *rest = super().gradients(variables)
        return [self.spoil("gradient", first), *rest]

    def sample(self, num_paths, seed):
        *rest, (a, g) = super().sample(num_paths, seed)
        return [*rest, (a, self.spoil("sample", g))]

    def input_moments(self):
        sample = super().sample(NUM_PATHS, (0, 0))
        return [self.spoil("moments", second_moment(homogeneous(a))) for a, _ in sample]

    def quadratic(self, directions, num_paths):
        slopes, gram, kink = super().quadratic(directions, num_paths)
        return slopes, self.spoil("gram", gram), kink

    def change(self, update, num_paths):
        return self.spoil("change", super().change(update, num_paths))


def curvature_state(optimizer):
    return flat(
        [x for block in optimizer.blocks for x in vars(block).values() if hasattr(x, "path")]
    )


@pytest.mark.parametrize(
    ("make", "place"),
    [(DHKFAC, x) for x in ("gradient", "gram", "change", "sample", "eigenvectors")]
    + [(DHKFAC.paper, x) for x in ("gradient", "moments", "sample", "eigenvectors")],
)
@pytest.mark.parametrize("first", [0, 2], ids=["at once", "later"])
def test_bad_numbers_do_no_lasting_harm(make, place, first, monkeypatch):
    """The step is not taken, nor a sample that is not finite taken in; damping is raised."""
    problem, variables = Broken(place), new_variables()
    interval = 1 if place == "eigenvectors" else 5
    optimizer = make(factor_interval=1, eigenbasis_interval=interval)
    optimizer.build(variables)
    eigh = tf.linalg.eigh
    monkeypatch.setattr(
        tf.linalg, "eigh", lambda x: [problem.spoil("eigenvectors", y) for y in eigh(x)]
    )
    step = graph_step(optimizer, problem, variables)
    for _ in range(first):
        step()
    weights, diagonal = flat(variables), optimizer.blocks[-1].diagonal.numpy()
    damping = min(100.0 * float(optimizer.damping), 1.0 / optimizer.shrinkage)
    problem.bad.assign(1.0)
    for _ in range(2):
        step()
    assert float(optimizer.rejected_steps) == 2.0
    assert_allclose(float(optimizer.damping), damping, rtol=1e-6)
    assert float(optimizer.rejected_in_a_row) == 2.0
    assert_array_equal(flat(variables), weights)
    assert np.all(np.isfinite(curvature_state(optimizer)))
    if place == "sample" and first:
        assert_array_equal(optimizer.blocks[-1].diagonal, diagonal)
    problem.bad.assign(0.0)
    before = problem.loss(flat(variables))
    for _ in range(3):
        step()
    assert np.all(np.isfinite(flat(variables)))
    assert problem.loss(flat(variables)) < before
    assert float(optimizer.rejected_steps) == 2.0
    assert float(optimizer.rejected_in_a_row) == 0.0
    assert_allclose(float(optimizer.damping), damping * 0.9**3, rtol=1e-6)
    assert int(optimizer.iterations) == first + 5


def test_a_block_that_damping_flattens_is_reported_as_such():
    problem, variables, optimizer = Broken("gradient"), new_variables(), DHKFAC()
    optimizer.build(variables)
    step = graph_step(optimizer, problem, variables)
    step()
    assert "none" not in {block.treatment for block in CurvatureReport.of(optimizer).blocks}
    problem.bad.assign(1.0)
    for _ in range(6):
        step()
    assert {block.treatment for block in CurvatureReport.of(optimizer).blocks} == {"none"}


def test_damping_is_at_most_what_replaces_all_of_the_diagonal():
    problem, variables, optimizer = Broken("gradient"), new_variables(), DHKFAC()
    optimizer.build(variables)
    step = graph_step(optimizer, problem, variables)
    problem.bad.assign(1.0)
    for _ in range(6):
        step()
    assert_allclose(float(optimizer.damping), 1.0 / optimizer.shrinkage, rtol=1e-6)


# --- as Keras expects it -------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_configuration_makes_the_optimizer_again(options):
    optimizer = DHKFAC(name="mine", **options)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is DHKFAC
    assert again.get_config() == optimizer.get_config()
    for name, value in options.items():
        if not isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
            assert_allclose(again.get_config()[name], value, rtol=1e-7)


def test_a_run_goes_on_from_its_saved_state():
    problem, variables, optimizer = Quadratic(), new_variables(), DHKFAC(eigenbasis_interval=2)
    optimizer.build(variables)
    step, state = graph_step(optimizer, problem, variables), {}
    for _ in range(3):
        step()
    optimizer.save_own_variables(state)
    weights = [v.numpy() for v in variables]
    for _ in range(2):
        step()

    others, other = new_variables(), DHKFAC(eigenbasis_interval=2)
    for variable, value in zip(others, weights, strict=True):
        variable.assign(value)
    other.build(others)
    other.load_own_variables({name: np.array(value) for name, value in state.items()})
    step = graph_step(other, problem, others)
    for _ in range(2):
        step()
    assert_allclose(flat(others), flat(variables), rtol=1e-6, atol=1e-7)
    assert int(other.iterations) == 5


@pytest.mark.parametrize(
    ("name", "value", "expectation"),
    [
        *[
            (name, value, r"a number in \[0.0, 1.0\]")
            for name in ("learning_rate momentum factor_decay diagonal_decay").split()
            for value in (-0.1, 1.1, float("nan"), "0.5", None)
        ],
        *[
            (name, value, r"a number in \(0.0, 1.0\]")
            for name in ("shrinkage",)
            for value in (-0.5, 0.0, 1.5)
        ],
        *[
            (name, value, "a positive number")
            for name in ("trust_region",)
            for value in (0.0, -1.0, float("inf"))
        ],
        *[
            (name, value, "a positive integer")
            for name in (
                "factor_interval eigenbasis_interval num_curvature_paths num_quadratic_paths"
            ).split()
            for value in (0, 1.5, True)
        ],
        *[("seed", value, "an integer from 0 to") for value in (-1, 1.5, None, "1", 2**70)],
    ],
)
def test_bad_arguments_are_refused(name, value, expectation):
    message = f"Expected `{name}` to be {expectation}.* Received: {name}={value!r}"
    with pytest.raises(ValueError, match=message):
        DHKFAC(**{name: value})


@pytest.mark.parametrize("make", [DHKFAC, DHKFAC.paper])
def test_a_learning_rate_can_be_set_to_what_an_optimizer_can_be_made_with(make):
    optimizer = make()
    for value in (0.5, np.float32(0.25), 0.0):  # zero may be the last of a schedule
        optimizer.learning_rate = value
        assert float(optimizer.learning_rate) == value
        assert float(type(optimizer).from_config(optimizer.get_config()).learning_rate) == value
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Expected `learning_rate` to be a"):
            optimizer.learning_rate = value
    assert float(optimizer.learning_rate) == 0.0


def test_whole_numbers_are_numbers():
    assert float(DHKFAC(learning_rate=1).learning_rate) == 1.0


def test_a_step_without_curvature_is_refused():
    variables = new_variables()
    with pytest.raises(
        ValueError, match=r"Expected the `curvature` of .* Received: curvature=None"
    ):
        DHKFAC().apply(Quadratic().gradients(variables), variables)


def test_a_layer_that_is_no_matrix_and_no_vector_is_refused():
    with keras.name_scope("convolution"):
        kernel = keras.Variable(np.zeros([3, 2, 2]), name="kernel")
    with pytest.raises(ValueError, match=r"'convolution' with weights of shapes \[\(3, 2, 2\)\]"):
        DHKFAC().build([kernel])
