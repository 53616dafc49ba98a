"""Initial weights other than torch's: ``init=sparse``, ``init=zero`` and ``init=isometry``, as functions of a network's state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from sparse_offline_rl.networks.state import AgentState, NetworkState, with_values
from sparse_offline_rl.types import BoolArray, FloatArray

_STEPS = 100  # of L-BFGS


def zero(network: NetworkState) -> NetworkState:
    """ZerO (Zhao et al. 2021, algorithm 1): identities and Hadamard matrices instead of random numbers; biases are zero.

    A layer that does not widen is a partial identity. One that does is ``I H I`` for a Hadamard matrix H of size
    ``2^m, m = ⌈log2 out⌉``, divided by ``2^(m/2)``. Nearly all weights are exactly zero.
    """
    arrays = []
    for mask in network.topology.layers.values():
        arrays += [_zero_weight(*mask.shape), np.zeros(len(mask), np.float32)]
    return with_values(network, network.topology.pack(arrays))


def sparse(network: NetworkState) -> NetworkState:
    """Survivors scaled to the variance that they would have in a network of that size (Evci et al. 2022, equation 4).

    torch draws weights with a variance of ``1 / (3 inputs)``; here a unit's surviving weights get ``1 / (3 surviving inputs)``.
    A unit without any has its bias only.
    """

    def rescaled(mask: BoolArray, weight: FloatArray) -> FloatArray:
        scale = np.sqrt(mask.shape[1] / np.maximum(mask.sum(1), 1))
        scaled: FloatArray = weight * scale[:, None].astype(np.float32)
        return scaled

    return _mapped(network, rescaled)


def isometry(network: NetworkState) -> NetworkState:
    """Approximate dynamical isometry (Lee et al. 2020, equation 9): each layer's survivors as near to orthogonal as they can be.

    Minimises ``‖(C ⊙ W)ᵀ (C ⊙ W) − I‖_F`` layer by layer from the values that are there, without data. The authors take 10,000 steps of
    gradient descent; L-BFGS is at the same minimum after some dozen iterations.
    """
    return _mapped(network, _isometric)


# Applied to new weights before they are scored, and to survivors once the masks are found.
BEFORE_MASKS: dict[str, Callable[[NetworkState], NetworkState]] = {"zero": zero}
AFTER_MASKS: dict[str, Callable[[NetworkState], NetworkState]] = {"sparse": sparse, "isometry": isometry}


def initialized(state: AgentState, how: Callable[[NetworkState], NetworkState] | None) -> AgentState:
    """``state`` with all networks initialised so, their targets too; as it is for None."""
    if how is None:
        return state
    return replace(state, networks={name: how(network) for name, network in state.networks.items()})


def _mapped(network: NetworkState, change: Callable[[BoolArray, FloatArray], FloatArray]) -> NetworkState:
    """The network with each weight matrix ``[out, in]`` changed; biases stay."""
    arrays = network.topology.unpack(network.values)
    masks = network.topology.layers.values()
    arrays[0::2] = [change(mask, weight) for mask, weight in zip(masks, arrays[0::2], strict=True)]
    return with_values(network, network.topology.pack(arrays))


def _zero_weight(outputs: int, inputs: int) -> FloatArray:
    if outputs <= inputs:
        return np.eye(outputs, inputs, dtype=np.float32)
    exponent = math.ceil(math.log2(outputs))
    shared = np.arange(outputs)[:, None] & np.arange(inputs)
    # Entry (i, j) of Sylvester's Hadamard matrix is -1 to the number of binary ones that i and j have in common.
    ones = sum((shared >> bit) & 1 for bit in range(exponent))
    matrix: FloatArray = np.where(ones % 2, -1, 1).astype(np.float32) / np.float32(2 ** (exponent / 2))
    return matrix


def _isometric(mask: BoolArray, weight: FloatArray) -> FloatArray:
    wide = mask.shape[0] < mask.shape[1]
    # W Wᵀ and Wᵀ W have the same distance from the identity but for a constant: take the smaller one.
    mask, matrix = (mask.T, weight.T.copy()) if wide else (mask, weight.copy())
    identity = np.eye(mask.shape[1], dtype=np.float32)
    values = torch.from_numpy(matrix[mask])
    optimizer = torch.optim.LBFGS([values], max_iter=_STEPS, tolerance_change=1e-4, line_search_fn="strong_wolfe")
    gradient = values.grad = torch.zeros_like(values)

    def distance() -> float:
        matrix[mask] = values.numpy()
        error = matrix.T @ matrix - identity
        gradient.copy_(torch.from_numpy(4 * (matrix @ error)[mask]))
        return float((error * error).sum())

    if len(values):
        optimizer.step(distance)
        distance()  # puts the last values into the matrix
    return np.ascontiguousarray(matrix.T) if wide else matrix
