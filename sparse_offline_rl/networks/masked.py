"""The one masked linear layer under every network, and the fp32 matrix product that it runs on.

On a CPU the product is oneDNN's, with bias and ReLU in the same pass. torch's default on x86 is MKL, which takes its AVX2 path
on AMD processors, where oneDNN with AVX-512 is twice as fast; on Intel processors both products are equally fast. On either,
oneDNN saves the passes that torch's own linear layer makes over a 3 MB activation to add the bias and to apply ReLU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@functools.cache
def has_onednn() -> bool:
    """Whether this torch can call oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear_product(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """``x Wᵀ + b``, then ReLU if asked for: ``[B, in]``, ``[out, in]``, ``[out]`` to ``[B, out]``."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and has_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")
        return product
    product = torch.nn.functional.linear(x, weight, bias)
    return product.relu_() if relu else product


class _MaskedProduct(torch.autograd.Function):
    """``x Wᵀ + b``, perhaps with ReLU, whose weight gradient is masked, so that no optimiser can ever move a pruned weight.

    The weights themselves are kept exactly zero where pruned (:meth:`MaskedLinear.set_mask`), so the forward pass needs no
    multiplication by the mask. The backward pass is made of differentiable operations: GraSP differentiates it again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, relu: bool) -> Tensor:
        out = linear_product(x, weight, bias, relu)
        ctx.save_for_backward(x, weight, keep, out if relu else None)
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        x, weight, keep, out = ctx.saved_tensors
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        needs_x, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        grad_x = grad @ weight if needs_x else None
        grad_weight = None
        if needs_weight:
            grad_weight = grad.t() @ x
            if keep is not None:
                grad_weight = grad_weight * keep
        return grad_x, grad_weight, grad.sum(0) if needs_bias else None, None, None


def masked_product(x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, relu: bool) -> Tensor:
    """``x Wᵀ + b``, then ReLU if asked for; the gradient of W is masked with ``keep`` ``[out, in]``, if given."""
    product: Tensor = _MaskedProduct.apply(x, weight, bias, keep, relu)  # type: ignore[no-untyped-call]
    return product


# What a layer computes, as :func:`masked_product` does it.
Product = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


def initial_parameters(
    out_features: int, in_features: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Weight ``[out, in]`` and bias ``[out]`` drawn as torch does for ``nn.Linear``: uniform in ±1/sqrt(in), on the CPU."""
    bound = 1 / math.sqrt(in_features)
    shapes = ((out_features, in_features), (out_features,))
    weight, bias = (torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in shapes)
    return weight, bias


class MaskedLinear(nn.Module):
    """Linear layer ``[B, in] -> [B, out]`` some of whose weights are held at exactly zero.

    ``mask`` is a boolean buffer ``[out, in]`` (True = kept), so it survives ``deepcopy``, ``state_dict`` and ``to(device)``.
    Biases are never pruned. Initial values are those of :func:`initial_parameters`.

    ``product`` is what the layer computes: :func:`masked_product`, or for a while something that learns beside the weights.
    """

    mask: Tensor
    _keep: Tensor | None  # the mask as float32, to multiply gradients with; None where nothing is pruned

    def __init__(
        self, in_features: int, out_features: int, generator: torch.Generator | None = None, draw: bool = True
    ) -> None:
        """Without ``draw`` the values are arbitrary: somebody loads others."""
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.product: Product = masked_product
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.register_buffer("mask", torch.ones(out_features, in_features, dtype=torch.bool))
        self.register_buffer("_keep", None, persistent=False)
        if draw:
            self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Redraw weights and bias from a CPU ``generator``, so alike on every device; pruned positions stay zero."""
        drawn = initial_parameters(self.out_features, self.in_features, generator)
        for parameter, value in zip((self.weight, self.bias), drawn, strict=True):
            parameter.copy_(value)
        if self._keep is not None:
            self.weight.masked_fill_(~self.mask, 0.0)

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Prune: keep the weights where ``mask`` ``[out, in]`` is True and set all others to exactly zero."""
        if mask.shape != self.weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"a boolean mask of shape {tuple(self.weight.shape)} is needed, not {mask.dtype} {tuple(mask.shape)}"
            )
        self.mask.copy_(mask)
        self.weight.masked_fill_(~self.mask, 0.0)
        self._follow_mask()

    def forward(self, x: Tensor, relu: bool = False, shift: Tensor | None = None) -> Tensor:
        """Map ``x`` ``[B, in]`` to ``[B, out]``, through ReLU if asked for, with ``shift`` ``[out]`` added to the bias."""
        bias = self.bias if shift is None else self.bias + shift
        return self.product(x, self.weight, bias, self._keep, relu)

    def _follow_mask(self) -> None:
        self._keep = None if bool(self.mask.all()) else self.mask.to(self.weight.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._follow_mask()

    def extra_repr(self) -> str:
        """Sizes and survivors, for ``print(network)``."""
        return f"{self.in_features} -> {self.out_features}, kept {int(self.mask.sum())} of {self.mask.numel()}"
