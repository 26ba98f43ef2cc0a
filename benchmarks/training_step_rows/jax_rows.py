"""The row of JAX: `lax.scan` over time, compiled as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
from task import EPSILON, NUM_BLOCKS, NUM_INSTRUMENTS, RISK_AVERSION, UNITS


def step(weights, state, inputs):
    """One time step of the policy."""
    (inlet, inlet_bias), *blocks, (outlet, outlet_bias) = weights
    action, memory = state
    features, available = inputs
    x = jnp.concatenate([action, features], axis=-1) @ inlet + inlet_bias
    next_memory = []
    for (scale,), (kernel, bias), (hidden, carry) in zip(
        blocks[::2], blocks[1::2], memory, strict=True
    ):
        normalized = scale * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON)
        gates = jnp.concatenate([normalized, hidden], axis=-1) @ kernel + bias
        write, forget, candidate, read = jnp.split(gates, 4, axis=-1)
        carry = jax.nn.sigmoid(forget + 1.0) * carry + jax.nn.sigmoid(write) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(read) * jnp.tanh(carry)
        next_memory.append((hidden, carry))
        x = x + hidden
    logits = available * (x @ outlet + outlet_bias)
    action = jnp.sign(logits) * jnp.expm1(abs(logits))
    return (action, next_memory), action


def gradient_row(task):
    """A function that takes the gradient; time comes first in its data."""
    features, returns, payoff = task.data()
    features, returns = (np.ascontiguousarray(x.swapaxes(0, 1)) for x in (features, returns))
    batch = jax.tree.map(jnp.asarray, (features, returns, payoff))
    weights = jax.tree.map(jnp.asarray, task.weights())
    availability, costs = task.availability, task.costs

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(weights, features, returns, payoff):
        zeros = jnp.zeros([task.batch, UNITS])
        start = jnp.zeros([task.batch, NUM_INSTRUMENTS]), [(zeros, zeros)] * NUM_BLOCKS
        _, actions = jax.lax.scan(
            lambda state, inputs: step(weights, state, inputs), start, (features, availability)
        )
        pnl = jnp.einsum("tni,tni->n", actions, returns) - payoff
        cost = jnp.einsum("tni,i->n", abs(actions), costs)
        return RISK_AVERSION * jnp.var(pnl) + jnp.mean(cost)

    def take_step():
        loss, gradients = jax.block_until_ready(value_and_gradient(weights, *batch))
        return loss, jax.tree.leaves(gradients)

    return take_step


ROWS = {"jax": gradient_row}
