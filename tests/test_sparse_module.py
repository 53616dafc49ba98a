"""SparseMLP: the same numbers as the dense masked MLP, through torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.sparse.module import SparseMLP

BATCHES = [1, 15, 16, 17, 63, 64, 65, 100, 112, 113, 1000]


def pruned_mlp(density: float, seed: int = 0, hidden: tuple[int, ...] = (40, 30)) -> MLP:
    generator = torch.Generator().manual_seed(seed)
    mlp = MLP(9, hidden, {"mean": 4, "log_std": 2}, generator)
    for layer in mlp.layers().values():
        layer.set_mask(torch.rand(layer.weight.shape, generator=generator) < density)
    return mlp


def inputs(batch: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 6, generator=generator), torch.randn(batch, 3, generator=generator)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_forward_and_gradients_equal_float64_dense(batch: int, density: float) -> None:
    mlp = pruned_mlp(density)
    sparse = SparseMLP.from_mlp(mlp)
    a, b = inputs(batch)
    a.requires_grad_()
    b.requires_grad_()
    out = sparse(a, b)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    got = torch.autograd.grad((out * weight).sum(), [sparse.values, a, b])
    exact = mlp.double()
    x, y = a.detach().double().requires_grad_(), b.detach().double().requires_grad_()
    want_out = exact(x, y)
    parameters = list(exact.parameters())
    *want, want_x, want_y = torch.autograd.grad((want_out * weight).sum(), [*parameters, x, y])
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(out.double(), want_out, **close)
    torch.testing.assert_close(got[0].double(), mlp.pack(want), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got[1].double(), want_x, **close)
    torch.testing.assert_close(got[2].double(), want_y, **close)
    with torch.no_grad():
        torch.testing.assert_close(sparse(a, b), out, rtol=1e-5, atol=1e-5)
