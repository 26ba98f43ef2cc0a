"""One time step of a hedging policy."""

import keras
from keras import ops

from tfhedge import checks
from tfhedge.numerics import symexp, symlog

# What a policy may see of its past actions.
OBSERVABLE = ("log_action", "last_action", "nothing")


def seen(observes, action):
    """Returns what a policy sees of its last action, of the shape of the action."""
    if observes == "log_action":
        return symlog(action)
    return action if observes == "last_action" else ops.zeros_like(action)


class Scale(keras.layers.Layer):
    """Multiplies each feature by a trainable scale: the gain of an RMSNorm."""

    def build(self, input_shape):
        """Creates the scale, one number for each feature, initially 1."""
        self.scale = self.add_weight(shape=input_shape[-1:], initializer="ones", name="scale")

    def call(self, inputs):
        """Scales `inputs`, `[..., num_features]`."""
        return inputs * self.scale


class Cell(keras.layers.Layer):
    r"""Residual blocks with recurrence in the actions and a masked head; a subclass is the block.

    With availability mask m_t and the state h_t of the blocks,

        x_0 = W^I I_t + W^u symlog(u_{t-1}) + b
        x_l = x_{l-1} + block_l( RMSNorm_l(x_{l-1}), h_{t-1} ),      l = 1..num_blocks
        u_t = symexp( m_t * (W x_L + b) ).

    The last layer starts with zero bias and He weights scaled by 1e-3, so that an untrained policy
    hardly trades. What an action means, a trade or a position, is not for the cell to know.

    The policy sees the symmetric logarithm of its last action. The paper feeds back the action
    itself: then every pass through symexp multiplies a change of the action by exp|symlog(u)|, and
    the actions of an option on a large notional, or after one long step of an optimizer, grow
    without bound within a few time steps. The logarithm undoes that factor, and is the identity for
    small actions such as the paper's.

    All weights sit in layers that apply one matrix or one scale to an input a_t:
    `step` hands out these inputs, and lets the caller add a probe to each product s_t = W a_t,
    which is all that Kronecker-factored curvature needs to know of the network.

    Args:
        num_instruments: Number of instruments d.
        units: Width of the blocks.
        num_blocks: Number of residual blocks.
        observes: What the cell sees of its last action: `"log_action"`, the symmetric logarithm;
            `"last_action"`, the action itself, as in the paper; or `"nothing"`, zeros.

    Call arguments:
        inputs: Availability and features side by side,
            `[num_paths, num_instruments + num_features]`.
        states: The last action, then the state of each block.

    Returns:
        The action, `[num_paths, num_instruments]`, and the next states.

    Reference: Mueller et al., section 4.1; Zhang and Sennrich (2019) for RMSNorm; Hafner et al.
    (2023) for symexp.
    """

    # Name, inputs and outputs of a block's matrix, the sizes in units, and names of its states.
    block_name, block_inputs, block_outputs, block_states = "block", 1, 1, ()

    def __init__(self, num_instruments, units=32, num_blocks=4, observes="log_action", **kwargs):
        super().__init__(**kwargs)
        self.num_instruments = checks.positive_integer("num_instruments", num_instruments)
        self.units = checks.positive_integer("units", units)
        self.num_blocks = checks.positive_integer("num_blocks", num_blocks)
        self.observes = checks.one_of("observes", observes, OBSERVABLE)
        self.state_size = [num_instruments] + [units] * len(self.block_states) * num_blocks
        self.output_size = num_instruments

        def dense(size, name, **options):
            return keras.layers.Dense(size, dtype=self.dtype_policy, name=name, **options)

        he_scaled_by_1e_3 = keras.initializers.VarianceScaling(2.0 * 1e-3**2, mode="fan_in")
        self.linear_layers = [dense(units, "inlet")]
        for block in range(num_blocks):
            self.linear_layers += [
                Scale(dtype=self.dtype_policy, name=f"scale_{block}"),
                dense(self.block_outputs * units, f"{self.block_name}_{block}"),
            ]
        self.linear_layers += [
            dense(num_instruments, "outlet", kernel_initializer=he_scaled_by_1e_3)
        ]

    def block(self, linear, x, state):
        """One step of a block.

        Args:
            linear: Applies the block's matrix.
            x: `[num_paths, units]`.
            state: The block's state, a list of tensors `[num_paths, units]`.

        Returns:
            What is added to the residual stream, `[num_paths, units]`, and the next state.
        """
        raise NotImplementedError

    @property
    def state_names(self):
        """Names of the states: the last action, and what each block remembers."""
        numbers = range(1, self.num_blocks + 1)
        memory = [f"{name}_{number}" for number in numbers for name in self.block_states]
        return ["prev_action", *memory]

    @property
    def linear_sizes(self):
        """The output sizes of the linear layers."""
        blocks = [self.units, self.block_outputs * self.units] * self.num_blocks
        return [self.units, *blocks, self.num_instruments]

    def build(self, input_shape):
        """Creates the weights for inputs of `[num_paths, num_instruments + num_features]`."""
        # Availability and features come in; the last action and features enter the first layer.
        blocks = [self.units, self.block_inputs * self.units] * self.num_blocks
        sizes = [input_shape[-1], *blocks, self.units]
        for layer, size in zip(self.linear_layers, sizes, strict=True):
            layer.build((None, size))

    def call(self, inputs, states):
        """The action and the next states."""
        action, states, _ = self.step(inputs, states)
        return action, states

    def step(self, inputs, states, probes=None):
        """One step that also hands out the input a_t of every linear layer.

        Args:
            inputs: As for a call.
            states: As for a call.
            probes: Tensors to add to the linear layers' products, in the order of `linear_layers`.

        Returns:
            action, states, and the list of layer inputs.
        """
        layer_inputs = []

        def linear(a):
            index = len(layer_inputs)
            layer_inputs.append(a)
            product = self.linear_layers[index](a)
            return product if probes is None else product + probes[index]

        past, *memory = states
        available, features = ops.split(inputs, [self.num_instruments], axis=-1)
        x = linear(ops.concatenate([seen(self.observes, past), features], axis=-1))
        num_states, next_memory = len(self.block_states), []
        for block in range(self.num_blocks):
            state = memory[num_states * block : num_states * (block + 1)]
            change, state = self.block(linear, linear(ops.rms_normalization(x)), state)
            next_memory += state
            x = x + change
        action = symexp(available * linear(x))
        return action, [action, *next_memory], layer_inputs

    def get_config(self):
        """The arguments that make this cell again."""
        return {
            **super().get_config(),
            "num_instruments": self.num_instruments,
            "units": self.units,
            "num_blocks": self.num_blocks,
            "observes": self.observes,
        }


class HedgeCell(Cell):
    """The recurrent policy (u_t, h_t) = pi(I_t, u_{t-1}, h_{t-1}) of section 4.1.

    A `Cell` whose blocks are LSTMs, their states hidden state and carry.

    Reference: Mueller et al., section 4.1; Hochreiter and Schmidhuber (1997).
    """

    block_name, block_inputs, block_outputs, block_states = "gates", 2, 4, ("h", "c")

    def block(self, linear, x, state):
        """One step of an LSTM."""
        hidden, carry = state
        hidden, carry = lstm(linear(ops.concatenate([x, hidden], axis=-1)), carry)
        return hidden, [hidden, carry]


class DenseCell(Cell):
    """A feed-forward policy u_t = pi(I_t, u_{t-1}), whose only memory is of its last action.

    A `Cell` whose blocks are silu(W x + b).

    Reference: Buehler et al. (2019), Deep Hedging, for such policies.
    """

    block_name = "dense"

    def block(self, linear, x, state):
        """A matrix and a nonlinearity."""
        return ops.silu(linear(x)), state


def lstm(gates, carry):
    """The LSTM's nonlinearity: from the products of its four gates to hidden state and carry.

    The forget gate's bias counts from 1, as is usual, so that memory persists at the start.
    """
    write, forget, candidate, read = ops.split(gates, 4, axis=-1)
    carry = ops.sigmoid(forget + 1.0) * carry + ops.sigmoid(write) * ops.tanh(candidate)
    return ops.sigmoid(read) * ops.tanh(carry), carry
