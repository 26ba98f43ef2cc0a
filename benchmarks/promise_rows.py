"""The measurements of `promises.py`: what M promises of a step, and what comes of it."""

import math

import numpy as np
import tensorflow as tf

from tfhedge.training.gauss_newton import linearization
from tfhedge.training.path_statistics import _single_gradients

GRADIENT_PATHS, RADIUS_TIMES = 256, 24


class Recorder:
    """Trains a hedger and measures each step.

    Args:
        hedger: A compiled `DeepHedger`.
        fresh: Paths that the training does not see, as `HedgingProblem.episodes` returns them.
    """

    def __init__(self, hedger, fresh):
        self.hedger, self.fresh = hedger, unpack(fresh)
        self.layers = [layer.name for layer in hedger.policy.cell.linear_layers]
        self.layer_of = [v.path.split("/")[-2] for v in hedger.trainable_variables]

    def step(self, number, batch):
        """Takes one step, and measures it.

        Args:
            number: Number of the step.
            batch: What `HedgingProblem.episodes` returns.

        Returns:
            The row, by the names of the module's docstring.
        """
        hedger, optimizer = self.hedger, self.hedger.optimizer
        batch_parts, damping = unpack(batch), float(optimizer.damping)
        row = {"step": number, "damping": damping}
        row |= {"gate_norms": self.gate_norms(), "loop_gain": self.loop_gain()}
        before = [tf.identity(v.value) for v in hedger.trainable_variables]
        trades, *outcome = self.outcome(*batch_parts)
        loss, fresh_loss = self.loss(*outcome), self.loss(*self.outcome(*self.fresh)[1:])
        if number % 10 == 0 or not math.isfinite(loss):
            row |= self.paths(*batch_parts)

        rejected = float(optimizer.rejected_steps)
        hedger.train_function(iter([batch]))
        rejected = float(optimizer.rejected_steps) > rejected
        delta = [v.value - x for v, x in zip(hedger.trainable_variables, before, strict=True)]
        moved = any(np.any(x) for x in delta)
        new_trades, *new_outcome = self.outcome(*batch_parts)
        new_fresh_loss = self.loss(*self.outcome(*self.fresh)[1:])

        after = [tf.identity(v.value) for v in hedger.trainable_variables]
        self.assign(before)
        row |= {
            "kind": ("taken back" if moved else "rejected") if rejected else "taken",
            "loss": loss,
            "length": math.nan if rejected else float(optimizer.length),
            "signal": float(optimizer.signal),
            **self.promise(batch_parts, outcome, delta),
            "batch": self.loss(*new_outcome) - loss,
            "fresh": new_fresh_loss - fresh_loss,
            "trades": rms(new_trades - trades),
            **self.few_paths(outcome, new_outcome),
        }
        self.assign(after)
        for name, promised in (
            ("same", "promised_same"),
            ("batch", "promised"),
            ("fresh", "promised"),
        ):
            row[f"ratio_{name}"] = row[name] / row[promised] if row[promised] else math.nan
        return tidy(row)

    def promise(self, batch, outcome, delta):
        """Computes what M says of a step, and its parts by layer; the weights are those before."""
        hedger, paths = self.hedger, self.hedger.optimizer.num_quadratic_paths
        features = batch[0]
        curvature = hedger.curvature(*batch, *outcome)
        parts = [
            [
                x if name == layer else tf.zeros_like(x)
                for x, name in zip(delta, self.layer_of, strict=True)
            ]
            for layer in self.layers
        ]
        slopes, gram = (np.float64(x) for x in curvature.quadratic(parts, paths)[:2])
        slope, curved = slopes.sum(), gram.sum()
        others = [x - y for x, y in zip(delta, parts[-1], strict=True)]
        *of_batch, kink = curvature.quadratic([delta], len(features))
        all_slope, all_curved = (float(np.sum(x)) for x in of_batch)
        shares = gram.sum(axis=1) / curved if curved else np.zeros(len(gram))
        _, (linear,) = linearization(hedger.policy).action_derivatives(
            hedger.policy, features, hedger.problem.availability, [delta]
        )
        linear = hedger.controls.trades(linear)
        return {
            "promised": all_slope + 0.5 * curved,
            "promised_same": slope + 0.5 * curved,
            "same": float(curvature.change(delta, paths)),
            "outlet_alone": float(curvature.change(parts[-1], paths)),
            "others_alone": float(curvature.change(others, paths)),
            "curved_same": curved,
            "curved_batch": all_curved,
            "trades_linear": rms(linear),
            "kink": float(kink(tf.ones([1]))),
            "layer": self.layers[int(np.argmax(shares))],
            "layer_share": shares.max(),
        }

    def few_paths(self, before, after):
        """Computes what the 1 % of the paths with the largest change contribute to a step."""
        objective = self.hedger.problem.objective
        before, after = ([np.float64(x) for x in pair] for pair in (before, after))
        threshold = objective.threshold(*before)
        losses = [np.asarray(objective.path_losses(*pair, threshold)) for pair in (before, after)]
        net = [pnl - cost for pnl, cost in (before, after)]
        _, weights = objective.path_curvature(*before)
        with np.errstate(invalid="ignore", over="ignore"):
            return {
                "top_pnl": top_share((net[1] - net[0]) ** 2),
                "top_loss": top_share(abs(losses[1] - losses[0])),
                "top_weight": top_share(np.asarray(weights)),
                "finite_paths": np.isfinite(net[1]).mean(),
            }

    def paths(self, features, returns, payoff):
        """Computes gradients of single paths by layer, and the growth along two of them."""
        hedger, problem = self.hedger, self.hedger.problem
        trades = hedger.actions(features, differentiable=False)
        with tf.GradientTape() as tape:
            tape.watch(trades)
            loss = problem.objective.loss(
                problem.pnl(trades, returns, payoff), problem.cost(trades)
            )
        slopes = len(features) * tape.gradient(loss, trades)
        pairs = linearization(hedger.policy).pseudo_gradients(
            hedger.policy,
            features[:GRADIENT_PATHS],
            problem.availability,
            hedger.controls.by_actions(slopes[:GRADIENT_PATHS]),
        )
        squares = {}
        for layer, (a, g) in zip(hedger.policy.cell.linear_layers, pairs, strict=True):
            gradients = [np.float64(x) for x in _single_gradients(layer, a, g)]
            squares[layer.name] = sum((x.reshape(len(x), -1) ** 2).sum(axis=1) for x in gradients)
        order = np.argsort(sum(squares.values()))
        chosen = [order[-1], order[len(order) // 2]]
        norms = {name: np.sqrt(x) for name, x in squares.items()}
        return {
            "gradients": {name: [x.max(), np.median(x)] for name, x in norms.items()},
            "growth": growth(hedger.policy, tf.gather(features, chosen), problem.availability),
        }

    def outcome(self, features, returns, payoff):
        """Returns trades, P&L and cost of paths."""
        problem = self.hedger.problem
        trades = self.hedger.actions(features, differentiable=False)
        return trades, problem.pnl(trades, returns, payoff), problem.cost(trades)

    def loss(self, pnl, cost):
        """Returns the loss of paths, a number."""
        return float(self.hedger.problem.objective.loss(pnl, cost))

    def gate_norms(self):
        """Returns the Frobenius norm of the gate kernel of each block."""
        cell = self.hedger.policy.cell
        kernels = [x.kernel for x in cell.linear_layers if x.name.startswith(cell.block_name)]
        return [float(tf.norm(x)) for x in kernels]

    def loop_gain(self):
        """Returns the spectral radius of the linear loop from last action to action."""
        inlet, *_, outlet = self.hedger.policy.cell.linear_layers
        past = np.float64(inlet.kernel)[: self.hedger.policy.cell.num_instruments]
        gain = past @ np.float64(outlet.kernel)
        return np.abs(np.linalg.eigvals(gain)).max() if np.all(np.isfinite(gain)) else math.nan

    def assign(self, weights):
        """Sets the weights."""
        for variable, value in zip(self.hedger.trainable_variables, weights, strict=True):
            variable.assign(value)


def unpack(batch):
    """Returns features, returns and payoff."""
    features, (returns, payoff) = batch
    return features, returns, payoff


def rms(x):
    """Computes the root mean square, in float64."""
    return float(np.sqrt(np.mean(np.float64(x) ** 2)))


def top_share(values):
    """Computes the share in the sum of values that is due to the largest 1 % of them."""
    count = max(1, len(values) // 100)
    return np.sort(values)[-count:].sum() / values.sum() if values.any() else math.nan


def growth(policy, features, availability):
    """Computes the growth of a change of the state along paths.

    Args:
        policy: A built `Policy`.
        features: `[num_paths, num_steps, num_features]`.
        availability: `[num_steps, num_instruments]`.

    Returns:
        By name, a number for each path.
    """
    inputs, cell = policy.cell_inputs(features, availability), policy.cell

    @tf.function(autograph=False)
    def step(inputs, state):
        with tf.GradientTape() as tape:
            tape.watch(state)
            _, states = cell(inputs, tf.split(state, cell.state_size, axis=1))
            next_state = tf.concat(states, axis=1)
        return next_state, tape.batch_jacobian(next_state, state)

    num_paths, num_steps = features.shape[:2]
    size, num_actions = sum(cell.state_size), cell.num_instruments
    state, product = tf.zeros([num_paths, size]), np.eye(size)
    norms, radii, actions = [], [], []
    nothing = [[math.nan] * num_paths]  # where the first step is not finite
    for t in range(num_steps):
        state, jacobian = step(inputs[:, t], state)
        jacobian = np.float64(jacobian)
        actions.append(np.abs(state[:, :num_actions]).max(axis=1))
        product = jacobian @ product
        if not np.all(np.isfinite(product)):
            break
        norms.append(np.linalg.norm(product, axis=(1, 2)))
        if t % max(1, num_steps // RADIUS_TIMES) == 0:
            radii.append(np.abs(np.linalg.eigvals(jacobian)).max(axis=1))
    return {
        "radius": np.max(radii or nothing, axis=0).tolist(),
        "log10_product": np.log10(np.max(norms or nothing, axis=0)).tolist(),
        "action": np.max(actions, axis=0).tolist(),
        "times": t + 1,
    }


def tidy(value):
    """Rounds numbers to four digits, and makes null of those that are not finite."""
    if isinstance(value, dict):
        return {name: tidy(x) for name, x in value.items()}
    if isinstance(value, list):
        return [tidy(x) for x in value]
    if isinstance(value, (str, int)):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else None
