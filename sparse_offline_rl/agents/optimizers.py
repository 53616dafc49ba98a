"""Adam in one pass over memory, the Polyak average of targets, and learning rates that change with time.

``torch.optim.Adam`` keeps so many books that, on 60,000 surviving weights, it takes longer around the step than for it. On
the CPU this is the same arithmetic as torch's fused kernel, compiled by Numba; elsewhere it is torch's own function.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam as torch_adam

from sparse_offline_rl.tracing import current_tracer

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults and those of all authors whose agents are here

LearningRate = float | Callable[[int], float]  # constant, or a function of the number of steps taken before


class Companion(Protocol):
    """What is trained down the same loss as the parameters of an :class:`Adam`, or acts on these after its steps."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What needs a gradient of the loss beside the optimiser's own parameters."""

    def penalty(self) -> Tensor | None:
        """A scalar that is added to the loss."""

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Called after the optimiser's step with the gradients of :attr:`parameters`."""


class Adam:
    """Adam (Kingma and Ba 2015) on ``parameters``: the moments, and the step that uses them.

    The learning rate may be a function of the steps taken; it is asked before each step, also where the
    update around it is replayed.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: LearningRate, weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.exp_avg = [torch.zeros_like(p) for p in self.parameters]
        self.exp_avg_sq = [torch.zeros_like(p) for p in self.parameters]
        self._steps = 0
        self.gradients: Sequence[Tensor] = ()  # of the last step; a session empties it before each update
        self.companions: list[Companion] = []
        self._learning_rate, self._weight_decay = learning_rate, weight_decay
        # What the kernel needs to know of a step: its size and the scale of √v, which `advance` sets, and the constants.
        self.factors = array("f", [0, 0, weight_decay, 1 - BETA1, BETA2, 1 - BETA2, EPSILON])
        self._numbers = np.frombuffer(self.factors, np.float32)
        on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in self.parameters)
        self._kernel = _compiled() if on_cpu else None
        if self._kernel is not None:
            # NumPy views of the same memory: to hand them over costs a fraction of what a tensor does.
            places = (self.parameters, self.exp_avg, self.exp_avg_sq)
            self._views = [tuple(x.detach().view(-1).numpy() for x in row) for row in zip(*places, strict=True)]

    @property
    def steps(self) -> int:
        """Steps taken. An update that is traced may not decide anything by it: that is what ``Agent.phase`` is for."""
        tracer = current_tracer()
        if tracer is not None:
            tracer.steps_read()
        return self._steps

    @steps.setter
    def steps(self, count: int) -> None:
        self._steps = count

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self._rate

    def minimize(self, loss: Tensor) -> None:
        """One step down the gradient of ``loss``, which is computed for these parameters, and for those of companions."""
        if not self.companions:
            self.step(torch.autograd.grad(loss, self.parameters))
            return
        penalties = [companion.penalty() for companion in self.companions]
        loss = torch.stack([loss, *(penalty for penalty in penalties if penalty is not None)]).sum()
        groups = [self.parameters, *(companion.parameters for companion in self.companions)]
        gradients = iter(torch.autograd.grad(loss, [parameter for group in groups for parameter in group]))
        own, *others = ([next(gradients) for _ in group] for group in groups)
        self.step(own)
        for companion, found in zip(self.companions, others, strict=True):
            companion.step(found)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters by one step along ``gradients``, one for each."""
        self.advance()
        self.gradients = gradients = [gradient.contiguous() for gradient in gradients]
        if self._kernel is None:
            self._torch_step(gradients)
            return
        tracer = current_tracer()
        if tracer is not None:
            tracer.adam(self, gradients)
        for views, gradient in zip(self._views, gradients, strict=True):
            self._kernel(*views, gradient.view(-1).numpy(), self._numbers)

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the last step's gradients, a scalar tensor."""
        return torch.nn.utils.get_total_norm(self.gradients)

    def advance(self) -> None:
        """Count a step and put its rate and bias corrections into ``factors``."""
        rate = self._learning_rate(self._steps) if callable(self._learning_rate) else self._learning_rate
        self._steps += 1
        self.factors[0] = rate / (1 - BETA1**self._steps)
        self.factors[1] = 1 / math.sqrt(1 - BETA2**self._steps)
        self._rate = rate

    def _torch_step(self, gradients: Sequence[Tensor]) -> None:
        before = [torch.full((), float(self._steps - 1), device=p.device) for p in self.parameters]
        torch_adam(
            self.parameters,
            list(gradients),
            self.exp_avg,
            self.exp_avg_sq,
            [],
            before,
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self._rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )


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


def cosine_decay(rate: float, steps: int) -> Callable[[int], float]:
    """A learning rate that falls from ``rate`` to 0 along half a cosine over ``steps`` steps (Loshchilov and Hutter 2017)."""
    return lambda taken: rate * 0.5 * (1 + math.cos(math.pi * min(taken, steps) / steps))


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block no gradient is computed for the parameters of ``module`` (gradients still flow through it)."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in module.parameters():
            parameter.requires_grad_(True)


def _compiled() -> Callable[..., None] | None:
    """The kernel, or None where Numba cannot be imported (the sparse engine warns of that)."""
    try:
        from sparse_offline_rl.agents.adam_kernel import adam_step
    except Exception:  # not installed, broken, or nowhere to keep compiled code: torch's own function does it
        return None
    kernel: Callable[..., None] = adam_step
    return kernel
