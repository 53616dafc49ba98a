"""One network group and its optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Learner:
    """Adam on the parameters of ``module``; keeps the last gradients so that their norm can be logged when asked for."""

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float) -> None:
        self.parameters = list(module.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)

    def step(self, loss: Tensor) -> None:
        """One Adam step on ``loss``, with gradients for these parameters and for nothing else."""
        for parameter, gradient in zip(self.parameters, torch.autograd.grad(loss, self.parameters), strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the last step's gradients, a scalar tensor."""
        return torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])


@torch.no_grad()
def polyak_average(target: nn.Module, online: nn.Module, tau: float) -> None:
    """``target <- (1 - tau) target + tau online``, parameter by parameter."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block no gradient is computed for the parameters of ``module`` (gradients still flow through it)."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
