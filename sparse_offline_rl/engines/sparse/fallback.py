"""What a sparse MLP computes without its kernels: dense products with the weights scattered into matrices."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from sparse_offline_rl.engines.sparse.plan import LayerPlan, SparsePlan

if TYPE_CHECKING:
    from sparse_offline_rl.engines.sparse.engine import KernelEngine


@functools.cache
def engine_factory() -> Callable[[SparsePlan], KernelEngine] | None:
    """The constructor of kernel engines, or None, after one warning, where Numba cannot be imported or cannot compile."""
    try:
        from sparse_offline_rl.engines.sparse.engine import KernelEngine

        plan = SparsePlan.from_masks([np.ones((1, 1), bool)])
        KernelEngine(plan).act(np.ones(2, np.float32), np.ones((2, 1), np.float32))
    except Exception as error:
        warnings.warn(
            f"the sparse kernels are not available ({type(error).__name__}: {next(iter(str(error).splitlines()), '')}); sparse networks run on dense "
            "matrices: the same results, but no faster than engine=dense. Reinstall numba to get the speed.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return KernelEngine


def dense_weight(values: Tensor, layer: LayerPlan) -> Tensor:
    """The weights ``[out, in]`` of one layer, zero where pruned; differentiable in ``values`` (all parameters, ``[n]``)."""
    rows = torch.from_numpy(layer.rows()).to(values.device, torch.long)
    columns = torch.from_numpy(layer.columns).to(values.device, torch.long)
    zeros = values.new_zeros(layer.out_features, layer.in_features)
    return zeros.index_put((rows, columns), values[layer.values])


def dense_forward(values: Tensor, plan: SparsePlan, inputs: Sequence[Tensor]) -> Tensor:
    """The MLP's output ``[B, out]`` by dense products on any device, for parameters ``values`` ``[n]``."""
    x = inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), 1)
    for layer in plan.layers:
        x = linear(x, dense_weight(values, layer), values[layer.bias])
        if layer.relu:
            x = torch.relu(x)
    return x
