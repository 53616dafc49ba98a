"""Exact compaction: the same function with fewer units, for runtimes that know dense layers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyNetwork
from sparse_offline_rl.types import FloatArray


@dataclass(frozen=True, eq=False)
class DenseLayer:
    """``y = weight @ x + bias``, perhaps with ReLU."""

    weight: FloatArray  # [out, in]
    bias: FloatArray  # [out]
    relu: bool


def require_finite(network: PolicyNetwork) -> None:
    """Raise UserError if ``network`` holds a value that is not finite."""
    if not all(np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all() for layer in network.layers):
        raise UserError(
            f"network {network.name} has weights that are not finite, its training diverged: it cannot be exported or compressed."
        )


def compact(network: PolicyNetwork) -> tuple[DenseLayer, ...]:
    """Layers of the same function as ``network``; in the last one the heads are stacked.

    Units that read nothing are constants, ``relu(bias)`` or the bias, and move into the next bias, which changes results by rounding
    only; units that nobody reads are dropped. Inputs all stay. If nothing of the input reaches the output one layer is left. Raises
    UserError for a value that is not finite.
    """
    require_finite(network)
    weights = [*(layer.weight for layer in network.hidden), np.concatenate([head.weight for head in network.heads])]
    biases = [*(layer.bias for layer in network.hidden), np.concatenate([head.bias for head in network.heads])]
    rectified, last = network.topology.rectified, len(weights) - 1
    for i in range(last):  # from input to output: a fold can leave units of the next layer with nothing to read
        reads = (weights[i] != 0).any(1)
        constants = biases[i][~reads].astype(np.float64)
        constants = np.maximum(constants, 0) if rectified[i] else constants
        biases[i + 1] = (biases[i + 1] + weights[i + 1][:, ~reads].astype(np.float64) @ constants).astype(np.float32)
        weights[i], biases[i], weights[i + 1] = weights[i][reads], biases[i][reads], weights[i + 1][:, reads]
    for i in reversed(range(last)):  # from output to input: a drop can leave units before it unread
        read = (weights[i + 1] != 0).any(0)
        weights[i], biases[i], weights[i + 1] = weights[i][read], biases[i][read], weights[i + 1][:, read]
    if any(len(bias) == 0 for bias in biases[:last]):
        return (DenseLayer(np.zeros((network.out_features, network.in_features), np.float32), biases[last], False),)
    return tuple(DenseLayer(*it) for it in zip(weights, biases, rectified, strict=True))
