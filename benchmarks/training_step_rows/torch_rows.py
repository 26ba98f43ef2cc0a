"""The rows of PyTorch: a loop over time of LSTMCells, eager or with the time step compiled."""

import torch
from task import EPSILON, NUM_BLOCKS, NUM_INSTRUMENTS, RISK_AVERSION, UNITS


class HedgeCell(torch.nn.Module):
    """One time step of the policy."""

    def __init__(self, weights):
        super().__init__()
        inlet, *blocks, outlet = weights
        self.inlet, self.outlet = linear(*inlet), linear(*outlet)
        self.scales = torch.nn.ParameterList(torch.from_numpy(scale) for (scale,) in blocks[::2])
        self.lstms = torch.nn.ModuleList(lstm_cell(*gates) for gates in blocks[1::2])

    def forward(self, features, available, action, states):
        """The action and the next states."""
        x = self.inlet(torch.cat([action, features], dim=-1))
        next_states = []
        for scale, lstm, state in zip(self.scales, self.lstms, states, strict=True):
            normalized = torch.nn.functional.rms_norm(x, [UNITS], scale, EPSILON)
            next_states.append(lstm(normalized, state))
            x = x + next_states[-1][0]
        logits = available * self.outlet(x)
        return torch.sign(logits) * torch.expm1(abs(logits)), next_states


def linear(kernel, bias):
    """A dense layer with these weights."""
    layer = torch.nn.Linear(*kernel.shape)
    set_weights(layer, weight=kernel.T, bias=bias)
    return layer


def lstm_cell(kernel, bias):
    """An LSTMCell with these weights; of its two biases, the second is a constant."""
    cell = torch.nn.LSTMCell(UNITS, UNITS)
    second = torch.zeros(4 * UNITS)
    second[UNITS : 2 * UNITS] = 1.0
    weight_ih, weight_hh = kernel[:UNITS].T, kernel[UNITS:].T
    set_weights(cell, weight_ih=weight_ih, weight_hh=weight_hh, bias_ih=bias, bias_hh=second)
    cell.bias_hh.requires_grad_(False)
    return cell


@torch.no_grad()
def set_weights(module, **weights):
    """Copies the weights into the module's parameters of these names."""
    for name, value in weights.items():
        getattr(module, name).copy_(torch.as_tensor(value))


def gradient_row(task, compiled):
    """A function that takes the gradient; time comes first in its data."""
    cell = HedgeCell(task.weights())
    parameters = [parameter for parameter in cell.parameters() if parameter.requires_grad]
    step = torch.compile(cell) if compiled else cell
    features, returns, payoff = (torch.from_numpy(x) for x in task.data())
    features, returns = (x.transpose(0, 1).contiguous() for x in (features, returns))
    availability, costs = torch.from_numpy(task.availability), torch.from_numpy(task.costs)

    def value_and_gradient():
        action = torch.zeros(task.batch, NUM_INSTRUMENTS)
        states = [(torch.zeros(task.batch, UNITS),) * 2] * NUM_BLOCKS
        actions = []
        for x, available in zip(features, availability, strict=True):
            action, states = step(x, available, action, states)
            actions.append(action)
        actions = torch.stack(actions)
        pnl = torch.einsum("tni,tni->n", actions, returns) - payoff
        cost = torch.einsum("tni,i->n", abs(actions), costs)
        loss = RISK_AVERSION * torch.var(pnl, correction=0) + torch.mean(cost)
        return loss.detach(), torch.autograd.grad(loss, parameters)

    return value_and_gradient


ROWS = {
    "torch-eager": lambda task: gradient_row(task, compiled=False),
    "torch-compile": lambda task: gradient_row(task, compiled=True),
}
