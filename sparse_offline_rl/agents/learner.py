"""One network group and its optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

_BETAS, _EPS = (0.9, 0.999), 1e-8  # torch's and the BCQ authors' defaults


class Learner:
    """Adam on the parameters of ``module``; keeps the last gradients so that their norm can be logged when asked for.

    This is ``torch.optim.Adam``'s own function without the optimiser object around it, whose bookkeeping would take longer
    than the step itself on a pruned network. The moments lie beside the parameters, ready for a checkpoint.
    """

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float) -> None:
        self.parameters: list[Tensor] = list(module.parameters())
        self.exp_avg = [torch.zeros_like(p) for p in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]
        self._gradients: Sequence[Tensor] = ()
        self._learning_rate, self._weight_decay = learning_rate, weight_decay

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """One Adam step on ``loss``, with gradients for these parameters and for nothing else."""
        self._gradients = torch.autograd.grad(loss, self.parameters)
        adam(
            self.parameters,
            list(self._gradients),
            self.exp_avg,
            self.exp_avg_sq,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=_EPS,
            maximize=False,
        )

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the last step's gradients, a scalar tensor."""
        return torch.nn.utils.get_total_norm(self._gradients)


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
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block no gradient is computed for the parameters of ``module`` (gradients still flow through it)."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
