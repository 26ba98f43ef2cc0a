"""The rows of TensorFlow: Keras' own loop over time, and what tfhedge trains with."""

import keras
import tensorflow as tf
from task import NUM_BLOCKS, NUM_FEATURES, OPTION_COST, RISK_AVERSION, SPOT_COST, UNITS

import tfhedge as th


def make_problem(task):
    """The problem that has the task's sizes and costs."""
    maturities = task.maturities
    return th.HedgingProblem(
        market=th.Heston.from_paper(),
        claim=th.Cliquet(num_periods=1, period=task.steps, cap=0.015),
        instruments=th.FloatingGrid(maturities, [1.0] * len(maturities), SPOT_COST, OPTION_COST),
        objective=th.MeanVariance(RISK_AVERSION),
    )


def set_weights(policy, task):
    """Gives a built policy the task's weights."""
    for layer, weights in zip(policy.cell.linear_layers, task.weights(), strict=True):
        layer.set_weights(weights)


def gradient_row(task, outcome, jit_compile=False):
    """A function that takes the gradient through P&L and cost of each path."""
    problem, policy = make_problem(task), th.RecurrentPolicy(UNITS, NUM_BLOCKS)
    policy.build((None, task.steps, NUM_FEATURES), problem.availability.shape)
    set_weights(policy, task)
    batch = [tf.constant(x) for x in task.data()]

    @tf.function(autograph=False, jit_compile=jit_compile)
    def value_and_gradient(features, returns, payoff):
        with tf.GradientTape() as tape:
            loss = problem.objective.loss(*outcome(problem, policy, features, returns, payoff))
        return loss, tape.gradient(loss, policy.trainable_variables)

    return lambda: value_and_gradient(*batch)


def plain_keras(problem, policy, features, returns, payoff):
    """One `keras.layers.RNN` over the cell."""
    actions = policy(features, problem.availability)
    return problem.pnl(actions, returns, payoff), problem.cost(actions)


def ours(problem, policy, features, returns, payoff):
    """The policy as `DeepHedger.train_step` calls it; actions are trades, as in the other rows."""
    forward_pass = policy.compiled.forward(features, problem.availability)
    nothing_carried = tf.zeros_like(problem.costs)
    gains, cost = forward_pass.gains_and_costs(returns, problem.costs, nothing_carried)
    return gains - payoff, cost


def training_row(task, optimizer):
    """A function that takes a whole step of `fit`."""
    hedger = th.DeepHedger(make_problem(task), th.RecurrentPolicy(UNITS, NUM_BLOCKS))
    set_weights(hedger.policy, task)
    hedger.compile(optimizer=optimizer)
    features, *target = (tf.constant(x) for x in task.data())

    def take_step():
        hedger.reset_metrics()
        return hedger.train_on_batch(features, target, return_dict=True)["loss"], None

    return take_step


ROWS = {
    "keras": lambda task: gradient_row(task, plain_keras),
    "keras-xla": lambda task: gradient_row(task, plain_keras, jit_compile=True),
    "ours": lambda task: gradient_row(task, ours),
    "ours-adam": lambda task: training_row(task, keras.optimizers.Adam()),
    "ours-dhkfac": lambda task: training_row(task, th.DHKFAC()),
}
