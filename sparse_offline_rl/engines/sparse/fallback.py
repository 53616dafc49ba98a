"""What a sparse MLP computes without its kernels: dense products with the weights scattered into matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from sparse_offline_rl.engines.sparse.plan import LayerPlan, SparsePlan


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
