"""One network group and its optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparse_offline_rl.agents.adam import Adam


class Learner:
    """Adam on the parameters of ``module``."""

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float) -> None:
        self.parameters: list[Tensor] = list(module.parameters())
        self.adam = Adam(self.parameters, learning_rate, weight_decay)

    def step(self, loss: Tensor) -> None:
        """One Adam step on ``loss``, with gradients for these parameters and for nothing else."""
        self.adam.step(torch.autograd.grad(loss, self.parameters))

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the last step's gradients, a scalar tensor."""
        return torch.nn.utils.get_total_norm(self.adam.gradients)


class PolyakAverage:
    """``target <- (1 - tau) target + tau online``, parameter by parameter."""

    def __init__(self, targets: Sequence[nn.Module], onlines: Sequence[nn.Module], tau: float) -> None:
        self._targets: list[Tensor] = [p for module in targets for p in module.parameters()]
        self._onlines: list[Tensor] = [p for module in onlines for p in module.parameters()]
        self._tau = tau

    @torch.no_grad()
    def step(self) -> None:
        """One step of every target."""
        torch._foreach_lerp_(self._targets, self._onlines, self._tau)


@contextmanager
def frozen(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Within the block no gradient is computed for ``parameters`` (gradients still flow through their network)."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
