"""The fp32 matrix product of the dense engine on a CPU: oneDNN's, with bias and ReLU in the same pass.

torch's default on x86 is MKL, which takes its AVX2 path on AMD processors, where oneDNN with AVX-512 is twice as fast; on Intel
processors both products are equally fast. On either, oneDNN saves the passes that torch's own linear layer makes over a
3 MB activation to add the bias and to apply ReLU.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


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
