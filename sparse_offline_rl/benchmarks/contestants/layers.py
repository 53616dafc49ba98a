"""One linear layer ``y = x Wᵀ + b`` of which few weights survive, by every library at hand.

``x`` and ``y`` are row-major ``[batch, width]`` for all, as in a network; a library that computes ``y`` transposed may leave
it so. Each contestant's forward and gradients are compared with dense ones before anything is timed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparse_offline_rl.benchmarks.contestant import Contestant, Unavailable
from sparse_offline_rl.training.process import prepare_process


@dataclass(frozen=True)
class Case:
    """The layer, its input and the gradient of its output; about ``density`` of the weights are not zero."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    mask: Tensor
    grad: Tensor


@dataclass(frozen=True)
class Layer:
    """``forward`` gives y; ``both`` runs forward and backward and gives dx and dW, as a matrix or at the mask's positions."""

    forward: Callable[[], Tensor]
    both: Callable[[], tuple[Tensor, Tensor]]


def layer(kind: str, batch: int, width: int, density: float, backward: bool, threads: int) -> Contestant:
    """A forward, or a forward and a backward, by the library ``kind``."""
    prepare_process(threads)
    torch.set_deterministic_debug_mode("default")  # not every library has deterministic operations
    draws = torch.Generator().manual_seed(0)
    mask = torch.rand(width, width, generator=draws) < density
    weight = torch.randn(width, width, generator=draws) / (density * width) ** 0.5 * mask
    x, grad = (torch.randn(batch, width, generator=draws) for _ in range(2))
    case = Case(x, weight, torch.randn(width, generator=draws), mask, grad)
    made = KINDS[kind](case)
    _check(case, made)

    @torch.no_grad()
    def forward() -> Tensor:
        return made.forward()

    facts = {"version": version("sparseprop")} if kind == "sparseprop" else {}
    return Contestant(made.both if backward else forward, lambda: facts)


def _check(case: Case, made: Layer) -> None:
    with torch.no_grad():
        torch.testing.assert_close(
            made.forward(), functional.linear(case.x, case.weight, case.bias), rtol=1e-3, atol=1e-3
        )
    dx, dw = made.both()
    dw = dw[case.mask] if dw.shape == case.mask.shape else dw
    torch.testing.assert_close(dx, case.grad @ case.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(dw, (case.grad.t() @ case.x)[case.mask], rtol=1e-3, atol=1e-2)


def _trained(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias as autograd sees them in training."""
    return case.x.clone().requires_grad_(), case.weight.clone().requires_grad_(), case.bias.clone().requires_grad_()


def _ours(case: Case) -> Layer:
    from sparse_offline_rl.engines.sparse.module import SparseMLP
    from sparse_offline_rl.networks.packing import Topology

    topology = Topology({}, {"out": case.mask.numpy()})
    module = SparseMLP(topology, topology.pack([case.weight.numpy(), case.bias.numpy()]))
    x = case.x.clone().requires_grad_()

    def both() -> tuple[Tensor, Tensor]:
        dx, dv = torch.autograd.grad(module(x), (x, module.values), case.grad)
        return dx, dv[topology.spans["out"].values]

    return Layer(lambda: module(case.x), both)


def _dense(case: Case) -> Layer:
    x, weight, bias = _trained(case)

    def both() -> tuple[Tensor, Tensor]:
        dx, dw, _ = torch.autograd.grad(functional.linear(x, weight, bias), (x, weight, bias), case.grad)
        return dx, dw

    return Layer(lambda: functional.linear(case.x, case.weight, case.bias), both)


def _our_dense(case: Case) -> Layer:
    from sparse_offline_rl.networks.masked import MaskedLinear

    module = MaskedLinear(case.weight.shape[1], case.weight.shape[0])
    module.load_state_dict({"weight": case.weight, "bias": case.bias, "mask": case.mask})
    x = case.x.clone().requires_grad_()

    def both() -> tuple[Tensor, Tensor]:
        dx, dw, _ = torch.autograd.grad(module(x), (x, module.weight, module.bias), case.grad)
        return dx, dw

    return Layer(lambda: module(case.x), both)


def _onednn(case: Case) -> Layer:
    if not torch.backends.mkldnn.is_available():
        raise Unavailable("this torch has no oneDNN")

    def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y

    def both() -> tuple[Tensor, Tensor]:
        product(case.x, case.weight, case.bias)
        case.grad.sum(0)
        return product(case.grad, case.weight.t()), product(case.grad.t(), case.x.t())

    return Layer(lambda: product(case.x, case.weight, case.bias), both)


def _torch_csr(case: Case) -> Layer:
    warnings.filterwarnings("ignore", message=".*Sparse CSR.*")
    weight, transposed = case.weight.to_sparse_csr(), case.weight.t().contiguous().to_sparse_csr()

    def forward() -> Tensor:
        return torch.addmm(case.bias[:, None], weight, case.x.t()).t()

    def both() -> tuple[Tensor, Tensor]:
        forward()
        case.grad.sum(0)
        dw = torch.sparse.sampled_addmm(weight, case.grad.t(), case.x, beta=0.0)
        return torch.sparse.mm(transposed, case.grad.t()).t(), dw.values()

    return Layer(forward, both)


def _scipy(case: Case) -> Layer:
    from scipy.sparse import csr_matrix

    weight, transposed = csr_matrix(case.weight.numpy()), csr_matrix(case.weight.t().numpy())
    x, grad, bias = case.x.numpy(), case.grad.numpy(), case.bias.numpy()[:, None]
    kept = np.nonzero(case.mask.numpy())

    def forward() -> Any:
        return weight @ x.T + bias

    def both() -> tuple[Tensor, Tensor]:
        forward()
        grad.sum(0)
        dw = (grad.T @ x)[kept]  # scipy has no product sampled at the mask
        return torch.from_numpy(transposed @ grad.T).t(), torch.from_numpy(dw)

    return Layer(lambda: torch.from_numpy(forward()).t(), both)


def _sparseprop(case: Case) -> Layer:
    from sparseprop.modules.linear import SparseLinear

    module = SparseLinear(case.weight, torch.nn.Parameter(case.bias.clone()))
    x = case.x.clone().requires_grad_()

    def both() -> tuple[Tensor, Tensor]:
        dx, dw, _ = torch.autograd.grad(module(x), (x, module.W_val, module.bias), case.grad)
        return dx, dw

    return Layer(lambda: module(case.x), both)


KINDS: dict[str, Callable[[Case], Layer]] = {
    "sparse engine": _ours,
    "our dense": _our_dense,
    "torch dense": _dense,
    "oneDNN dense": _onednn,
    "torch CSR": _torch_csr,
    "scipy CSR": _scipy,
    "sparseprop": _sparseprop,
}
