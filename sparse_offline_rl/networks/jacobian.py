"""Singular values of a network's input-output Jacobian: how signals pass through it (Lee et al. 2020, section 3)."""

from __future__ import annotations

import numpy as np

from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.types import FloatArray


def singular_values(network: NetworkState, inputs: FloatArray) -> FloatArray:
    """Of ``∂output/∂input`` at each of ``inputs`` ``[n, in]``, before any squashing: ``[n, min(in, out)]``, largest first."""
    topology = network.topology
    layers = network.layers()
    signal, active = inputs, []
    for name in topology.hidden:
        weight, bias = layers[name]
        signal = signal @ weight.T + bias
        passes = np.ones_like(signal, bool) if name in topology.linear else signal > 0
        signal = np.where(passes, signal, 0)
        active.append(passes)
    heads = np.concatenate([layers[name][0] for name in topology.heads])
    # From the outputs, which are few, to the inputs: [n, out, units].
    jacobian = np.broadcast_to(heads, (len(inputs), *heads.shape))
    for name, passes in zip(reversed(list(topology.hidden)), reversed(active), strict=True):
        jacobian = (jacobian * passes[:, None, :]) @ layers[name][0]
    found: FloatArray = np.linalg.svd(jacobian, compute_uv=False)
    return found
