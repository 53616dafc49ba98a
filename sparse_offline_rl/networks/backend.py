"""Which fp32 matrix product the dense engine uses on this CPU.

torch's default on x86 is MKL, which takes its AVX2 path on AMD processors; oneDNN uses AVX-512 there and is about twice as
fast. On Intel processors MKL is the faster one. The choice follows the CPU's vendor and not a start-up measurement, so
that it is the same at every start and a resumed run stays bit-identical.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor


@functools.cache
def cpu_backend() -> str:
    """``onednn`` or ``mkl``: the library behind the dense products on this CPU."""
    try:
        vendor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        vendor = ""
    return "onednn" if "AuthenticAMD" in vendor and torch.backends.mkldnn.is_available() else "mkl"


def linear_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x Wᵀ + b``: ``[B, in]``, ``[out, in]``, ``[out]`` to ``[B, out]``."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and cpu_backend() == "onednn":
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return torch.nn.functional.linear(x, weight, bias)
