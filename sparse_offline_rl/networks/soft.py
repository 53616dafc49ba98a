"""Soft activations and skips for the first updates of a sparse network (the pruning pipeline's post-pruning training)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sparse_offline_rl.networks.masked import masked_product


class SoftLayers:
    """What hidden layers compute in the place of ``relu(x Wᵀ + b)``: ``PSwish(x Wᵀ + b) + γ x``.

    ``PSwish(t) = t σ(β t)`` is half the identity for β = 0 and ReLU for β → ∞. Where a layer's width differs from that of its input, the
    input is interpolated. Layers without an activation (heads) are as ever.
    """

    def __init__(self) -> None:
        self.beta, self.gamma = 0.0, 0.0

    def product(self, x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, relu: bool) -> Tensor:
        """As :func:`~sparse_offline_rl.networks.masked.masked_product`."""
        if not relu:
            return masked_product(x, weight, bias, keep, False)
        before = masked_product(x, weight, bias, keep, False)
        out = before * torch.sigmoid(self.beta * before)
        return out + self.gamma * _resized(x, out.shape[1]) if self.gamma else out


def _resized(x: Tensor, width: int) -> Tensor:
    """``x`` ``[B, n]`` with ``width`` columns, between which it is interpolated linearly."""
    return x if x.shape[1] == width else x @ _interpolation(x.shape[1], width, x.device)


@functools.cache
def _interpolation(inputs: int, width: int, device: torch.device) -> Tensor:
    """Matrix ``[inputs, width]``. A product has a deterministic gradient on every device, which torch's own interpolation has not."""
    matrix: Tensor = interpolate(torch.eye(inputs)[:, None, :], size=width, mode="linear", align_corners=True)[:, 0, :]
    return matrix.to(device)
