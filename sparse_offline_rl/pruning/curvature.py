"""Curvature of a network: what its layers read, the gradients of what they give, and the least squares that follow from the two.

The Fisher information of a layer is approximated by ``A ⊗ G`` (K-FAC; Martens and Grosse 2015). With ``ã`` for a layer's inputs and
a constant 1, which its bias reads, and ``g`` for the gradient of one sample's loss by the layer's outputs before ReLU, A is
``E[ã ãᵀ]`` and G is ``E[g gᵀ]``. All in float64 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.mlp import repeat_first
from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.types import Objective

Fisher = Literal["sampled", "empirical"]


@dataclass(frozen=True)
class CurvatureSettings:
    """How curvature is gathered: from how many batches, which Fisher information, and how much is added to its eigenvalues."""

    batches: int = 10
    fisher: Fisher = "sampled"
    damping: float = 1e-3  # in units of a matrix's mean eigenvalue


class Pass(NamedTuple):
    """What a network read in one call, and the gradient of each row's own loss by its outputs."""

    inputs: Tensor  # [n, in]
    gradients: Tensor  # [n, sum(heads)]


@dataclass(frozen=True)
class Curvature:
    """Second moments by layer name, heads last; ``squares`` is the diagonal of the Fisher information without the approximation."""

    inputs: Mapping[str, Tensor]  # A, [in + 1, in + 1]; the constant comes last
    outputs: Mapping[str, Tensor]  # G, [out, out]
    squares: Mapping[str, Tensor]  # E[g_j² a_i²], [out, in]
    damping: float

    def damped_inputs(self, layer: str) -> Tensor:
        """A with the damping, positive definite."""
        return self._damped(self.inputs[layer])

    def damped_outputs(self, layer: str) -> Tensor:
        """G with the damping, positive definite."""
        return self._damped(self.outputs[layer])

    def _damped(self, matrix: Tensor) -> Tensor:
        smallest = torch.finfo(matrix.dtype).tiny  # where no output has a gradient
        added = (self.damping * matrix.diagonal().mean()).clamp(min=smallest)
        return matrix + added * torch.eye(len(matrix), dtype=matrix.dtype)


def passes(objective: Objective, fisher: Fisher, draws: torch.Generator) -> Iterator[Pass]:
    """The calls of its network that an objective's loss learns from.

    The true Fisher information of a regression samples the target from a unit Gaussian around the output, so that the gradient is
    standard normal noise from ``draws`` (``sampled``). ``empirical`` takes the gradients of the loss, a mean over the rows, itself.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def note(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            calls.append((torch.cat(repeat_first(inputs), dim=1).detach(), output))

    hook = objective.network.register_forward_hook(note)
    try:
        loss = objective.loss()
    finally:
        hook.remove()
    outputs = [output for _, output in calls]
    if fisher == "sampled":
        gradients = [torch.randn(it.shape, generator=draws, device=draws.device) for it in outputs]
    else:
        gradients = [len(it) * it for it in torch.autograd.grad(loss, outputs)]
    for (inputs, _), gradient in zip(calls, gradients, strict=True):
        yield Pass(inputs.cpu().double(), gradient.cpu().double())


def gather(network: NetworkState, seen: Iterable[Pass], damping: float) -> Curvature:
    """Second moments of ``network``, with its own values, over all rows that were ``seen``.

    Raises UserError naming the layer where they are not finite.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    rows = 0
    for one in seen:
        rows += len(one.inputs)
        for name, (read, gradient) in _layers(network, one).items():
            found = (read.T @ read, gradient.T @ gradient, gradient.square().T @ read[:, :-1].square())
            for sums, addend in zip((inputs, outputs, squares), found, strict=True):
                sums[name] = sums[name] + addend if name in sums else addend
    for name in network.topology.layers:
        for sums in (inputs, outputs, squares):
            sums[name] /= rows
            if not bool(torch.isfinite(sums[name]).all()):
                raise UserError(
                    f"the curvature of layer {name} is not finite: the loss overflowed on the pruning batches; check the dataset, "
                    "or lower the learning rates."
                )
    return Curvature(inputs, outputs, squares, damping)


def _layers(network: NetworkState, one: Pass) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer what it reads ``[n, in + 1]`` and the gradient of what it gives ``[n, out]``."""
    topology = network.topology
    parameters = {name: tuple(map(torch.from_numpy, it)) for name, it in network.layers().items()}
    matrices = {name: torch.cat([weight, bias[:, None]], 1).double() for name, (weight, bias) in parameters.items()}
    constant = torch.ones(len(one.inputs), 1, dtype=torch.float64)
    reads: dict[str, Tensor] = {}
    signal = torch.cat([one.inputs, constant], 1)
    for name in topology.hidden:
        reads[name] = signal
        signal = signal @ matrices[name].T
        signal = torch.cat([signal if name in topology.linear else signal.relu(), constant], 1)
    reads |= dict.fromkeys(topology.heads, signal)
    widths = [len(mask) for mask in topology.heads.values()]
    gradients = dict(zip(topology.heads, one.gradients.split(widths, 1), strict=True))
    back = torch.stack([gradients[name] @ matrices[name][:, :-1] for name in topology.heads]).sum(0)
    for name in reversed(list(topology.hidden)):
        gradients[name] = back if name in topology.linear else back * (signal[:, :-1] > 0)
        signal, back = reads[name], gradients[name] @ matrices[name][:, :-1]
    return {name: (reads[name], gradients[name]) for name in topology.layers}


class Rows(NamedTuple):
    """Rows of a layer that keep the same weights."""

    rows: Tensor  # their numbers
    kept: Tensor  # numbers of the inputs that they read, the constant among them
    gone: Tensor  # … and of those that they do not


def alike(mask: Tensor) -> list[Rows]:
    """The rows of a mask ``[out, in]`` in groups with the same weights, so that each system of equations is solved once."""
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(mask.numpy()):
        groups.setdefault(row.tobytes(), []).append(number)
    found = []
    for numbers in groups.values():
        row = mask[numbers[0]]
        kept = torch.cat([row.nonzero().flatten(), torch.tensor([mask.shape[1]])])
        found.append(Rows(torch.tensor(numbers), kept, (~row).nonzero().flatten()))
    return found


class LeastSquares:
    """Questions to a quadratic ``½ Δᵀ H Δ`` of which some coordinates are held, for a positive definite H ``[n, n]``.

    Each is answered by way of the coordinates that are free or of those that are held, whichever are fewer.
    """

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix
        self._inverse = torch.cholesky_inverse(_factor(matrix))

    def costs(self, free: Tensor, held: Tensor) -> Tensor:
        """``1 / [H_ff⁻¹]_qq`` of each free coordinate: twice the least that a unit step of it costs if the others may follow."""
        inverse = self._inverse
        if len(held) < len(free):
            factor = _factor(inverse[held][:, held])
            shared: Tensor = torch.linalg.solve_triangular(factor, inverse[held][:, free], upper=False)
            return (inverse.diagonal()[free] - shared.square().sum(0)).reciprocal()
        return torch.cholesky_inverse(_factor(self._matrix[free][:, free])).diagonal().reciprocal()

    def follow(self, free: Tensor, held: Tensor, steps: Tensor) -> Tensor:
        """Steps ``[k, free]`` of the free coordinates that cost least when the held ones make ``steps`` ``[k, held]``."""
        inverse, matrix = self._inverse, self._matrix
        if len(held) < len(free):
            return _solve(inverse[held][:, held], steps.T).T @ inverse[held][:, free]
        return -_solve(matrix[free][:, free], matrix[free][:, held] @ steps.T).T


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right, _factor(matrix))


def _factor(matrix: Tensor) -> Tensor:
    """Its Cholesky factor. Raises UserError where it has none."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():
        raise UserError(
            "the curvature has no inverse, as units of a layer say the same on the batches that it is from: raise prune.damping, or "
            "prune.batches."
        )
    return factor
