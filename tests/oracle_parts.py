"""What the NumPy oracles share: networks, Adam and targets in float64, with no line shared with the package.

A network is a list of layers ``(W [out, in], b [out])``: ReLU between them, the last one linear. Gradients have the same form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ActionBounds:
    """Numbers, or arrays [A]."""

    low: float | np.ndarray = -1.0
    high: float | np.ndarray = 1.0

    @property
    def center(self):
        """The middle of the actions' range."""
        return (np.asarray(self.high) + np.asarray(self.low)) / 2

    @property
    def scale(self):
        """Half of the actions' range."""
        return (np.asarray(self.high) - np.asarray(self.low)) / 2


def forward(net, x):
    """The input of each layer and the output [B, out]."""
    inputs = []
    for i, (w, b) in enumerate(net):
        inputs.append(x)
        x = x @ w.T + b
        if i < len(net) - 1:
            x = np.maximum(x, 0)
    return inputs, x


def backward(net, inputs, grad):
    """Gradients of all (W, b), and with respect to the input; ``grad`` [B, out] is that of the output."""
    grads = []
    for i in reversed(range(len(net))):
        w, _ = net[i]
        grads.insert(0, (grad.T @ inputs[i], grad.sum(0)))
        grad = grad @ w
        if i > 0:
            grad = grad * (inputs[i] > 0)
    return grads, grad


def critic_step(critic, observations, actions, y):
    """Mean squared error of one critic against y [B, 1], and its gradients."""
    inputs, q = forward(critic, np.hstack([observations, actions]))
    return np.mean((q - y) ** 2), backward(critic, inputs, 2 * (q - y) / len(y))[0]


def masked(grads, masks):
    """Gradients of the surviving weights; ``masks`` is one boolean array a layer, or None."""
    if masks is None:
        return grads
    return [(gw * mask, gb) for (gw, gb), mask in zip(grads, masks, strict=True)]


class Adam:
    """Adam (Kingma & Ba 2015) with the usual constants, for a list of tuples of arrays."""

    def __init__(self, parameters):
        self.steps = 0
        self.m = [tuple(np.zeros_like(p) for p in layer) for layer in parameters]
        self.v = [tuple(np.zeros_like(p) for p in layer) for layer in parameters]

    def step(self, parameters, grads, rate, beta1=0.9, beta2=0.999, eps=1e-8):
        """The new parameters."""
        self.steps += 1
        self.m = _each(lambda m, g: beta1 * m + (1 - beta1) * g, self.m, grads)
        self.v = _each(lambda v, g: beta2 * v + (1 - beta2) * g**2, self.v, grads)

        def moved(p, m, v):
            m_hat, v_hat = m / (1 - beta1**self.steps), v / (1 - beta2**self.steps)
            return p - rate * m_hat / (np.sqrt(v_hat) + eps)

        return _each(moved, parameters, self.m, self.v)


def polyak(target, online, tau):
    """The target moved by ``tau`` towards the online network."""
    return _each(lambda old, new: (1 - tau) * old + tau * new, target, online)


def _each(function, *lists):
    """``function`` of the arrays that stand at the same place."""
    return [tuple(function(*arrays) for arrays in zip(*layers, strict=True)) for layers in zip(*lists, strict=True)]
