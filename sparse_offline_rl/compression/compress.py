"""A policy whose weights take few values, and so a small file: quantised in equal steps, or shared by clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.compression.compact import compacted, live_weights, with_weights
from sparse_offline_rl.compression.quantize import kmeans, linear_levels
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.export.compact import require_finite
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.policy.levels import Levels, SharedLevels
from sparse_offline_rl.types import FloatArray

BIAS_BITS = 8  # at least: biases are few


@dataclass(frozen=True, eq=False)
class SharedWeights:
    """The clusters of one layer: the weight at ``positions[i]`` of the flattened matrix has the value ``centroids[labels[i]]``."""

    positions: NDArray[np.int64]  # [n], of the weights that carry something
    labels: NDArray[np.int64]  # [n]
    centroids: FloatArray  # [k]


Sharing = Mapping[str, Mapping[str, SharedWeights]]  # network -> layer -> its clusters


def quantized(content: PolicyContent, bits: int) -> PolicyContent:
    """``content`` with the weights of each layer on equal steps of ``bits`` bits, and its biases on such of at least 8.

    Weights that become zero are pruned; in hashed networks the values that weights share lie on steps, and no unit is dropped. Raises
    UserError for values that are not finite.
    """
    networks = {}
    for name, network in content.networks.items():
        if any(layer.hashing for layer in network.layers):
            networks[name] = _quantized_hashes(network, bits)
            continue
        weights, levels = {}, dict[str, Levels]()
        for layer, live in zip(network.layers, live_weights(network).values(), strict=True):
            found = linear_levels(layer.weight[live], bits)
            weights[layer.name], levels[layer.name] = layer.weight.copy(), found
            weights[layer.name][live] = found.nearest(layer.weight[live])
        networks[name] = _on_levels(compacted(with_weights(network, weights)), levels, bits)
    return replace(content, networks=networks)


def share(content: PolicyContent, clusters: int) -> Sharing:
    """Clusters of the weights of each layer that has any which carry something. Raises UserError for a hashed network."""
    for name, network in content.networks.items():
        if any(layer.hashing for layer in network.layers):
            raise UserError(
                f"clusters={clusters}: weights of network {name} share values already, by a hash: leave it out, or give bits=8."
            )
    return {
        name: {
            layer.name: SharedWeights(np.flatnonzero(live), labels, centroids)
            for layer, live in zip(network.layers, live_weights(network).values(), strict=True)
            if live.any()
            for centroids, labels in [kmeans(layer.weight[live], clusters)]
        }
        for name, network in content.networks.items()
    }


def shared(content: PolicyContent, sharing: Sharing) -> PolicyContent:
    """``content`` with the values of its clusters, and biases of 8 bits. Raises UserError for values that are not finite."""
    networks = {}
    for name, network in content.networks.items():
        weights = {layer.name: layer.weight.copy() for layer in network.layers}
        for layer_name, clusters in sharing[name].items():
            weights[layer_name].flat[clusters.positions] = clusters.centroids[clusters.labels]
        small = compacted(with_weights(network, weights))
        levels = {it.name: SharedLevels(np.unique(it.weight[it.mask])) for it in small.layers if it.kept}
        networks[name] = _on_levels(small, levels, BIAS_BITS)
    return replace(content, networks=networks)


def _quantized_hashes(network: PolicyNetwork, bits: int) -> PolicyNetwork:
    """``network``, some of whose layers are hashed, with the values of weights on steps, and its biases."""
    require_finite(network)
    weights, levels = {}, dict[str, Levels]()
    for layer in network.layers:
        values, _ = layer.vectors[0]
        levels[layer.name] = found = linear_levels(values, bits)
        nearest = found.nearest(values)
        weights[layer.name] = layer.weight.copy()
        weights[layer.name][layer.mask] = nearest if layer.hashing is None else layer.hashing.expand(nearest).ravel()
    return _on_levels(with_weights(network, weights), levels, bits)


def _on_levels(network: PolicyNetwork, levels: Mapping[str, Levels], bits: int) -> PolicyNetwork:
    """``network``, whose weights lie on ``levels`` (layer name -> levels), with biases that lie on levels, too."""

    def on_levels(layer: PolicyLayer) -> PolicyLayer:
        biases = linear_levels(layer.bias, max(bits, BIAS_BITS))
        weights = levels[layer.name] if layer.kept else None
        return replace(layer, weight_levels=weights, bias=biases.nearest(layer.bias), bias_levels=biases)

    hidden, heads = (tuple(map(on_levels, group)) for group in (network.hidden, network.heads))
    return replace(network, hidden=hidden, heads=heads)
