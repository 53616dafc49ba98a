"""Adam (Kingma and Ba 2015) in one pass over memory, for the flat vectors of a pruned network and for dense ones alike.

``torch.optim.Adam`` keeps so many books that, on 60,000 surviving weights, it takes longer around the step than for it. On
the CPU this is the same arithmetic as torch's fused kernel, compiled by Numba; elsewhere it is torch's own function.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam

from sparse_offline_rl.tracing import current_tracer as recorder

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8  # torch's defaults and the BCQ authors'


class Adam:
    """The moments of ``parameters`` and the step that uses them; ``steps`` counts the steps taken."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.exp_avg = [torch.zeros_like(p) for p in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(p) for p in self.parameters]
        self.steps = 0
        self.gradients: Sequence[Tensor] = ()  # of the last step
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        self.factors = array("f", [0, 0, weight_decay])  # what the kernel needs to know of a step
        self._numbers = np.frombuffer(self.factors, np.float32)
        on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in self.parameters)
        self._kernel = _compiled() if on_cpu else None
        if self._kernel is not None:
            # NumPy views of the same memory: to hand them over costs a fraction of what a tensor does.
            places = (self.parameters, self.exp_avg, self.exp_avg_sq)
            self._views = [tuple(x.detach().view(-1).numpy() for x in row) for row in zip(*places, strict=True)]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by one step along ``gradients``, one for each."""
        self.advance()
        self.gradients = gradients = [gradient.contiguous() for gradient in gradients]
        if self._kernel is None:
            self._torch_step(gradients)
            return
        listener = recorder()
        if listener is not None:
            listener.adam(self, gradients)
        for views, gradient in zip(self._views, gradients, strict=True):
            self._kernel(*views, gradient.view(-1).numpy(), self._numbers)

    def advance(self) -> None:
        """Count a step and put its bias corrections into ``factors``."""
        self.steps += 1
        self.factors[0] = self._learning_rate / (1 - _BETA1**self.steps)
        self.factors[1] = 1 / math.sqrt(1 - _BETA2**self.steps)

    def _torch_step(self, gradients: Sequence[Tensor]) -> None:
        before = [torch.full((), float(self.steps - 1), device=p.device) for p in self.parameters]
        torch_adam(
            self.parameters,
            list(gradients),
            self.exp_avg,
            self.exp_avg_sq,
            [],
            before,
            fused=True,
            amsgrad=False,
            beta1=_BETA1,
            beta2=_BETA2,
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=_EPS,
            maximize=False,
        )


def _compiled() -> Callable[..., None] | None:
    """The kernel, or None where Numba cannot be imported (the sparse engine warns of that)."""
    try:
        from sparse_offline_rl.agents.adam_kernel import adam_step
    except Exception:  # not installed, broken, or nowhere to keep compiled code: torch's own function does it
        return None
    kernel: Callable[..., None] = adam_step
    return kernel
