"""Centroids trained on the dataset: all weights of a cluster move together (Han et al. 2016, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.optimizers import Adam
from sparse_offline_rl.compression.compress import SharedWeights, Sharing
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.types import Batch

LEARNING_RATE = 1e-4  # a tenth of what agents train with


class _Cluster:
    """The clusters of one layer, and its weights in the agent."""

    def __init__(self, shared: SharedWeights, weight: Tensor) -> None:
        self._shared, self.weight = shared, weight
        self._positions, self._labels = torch.from_numpy(shared.positions), torch.from_numpy(shared.labels)
        self.centroids = torch.from_numpy(shared.centroids.copy())

    def gradient(self, gradient: Tensor) -> Tensor:
        """The sum of ``gradient`` ``[out, in]`` over the weights of each cluster, ``[k]``."""
        return torch.zeros_like(self.centroids).index_add_(0, self._labels, gradient.flatten()[self._positions])

    @torch.no_grad()
    def apply(self) -> None:
        """Give the weights the values of their centroids."""
        self.weight.view(-1)[self._positions] = self.centroids[self._labels]

    def shared(self) -> SharedWeights:
        """As they are now."""
        return replace(self._shared, centroids=self.centroids.numpy().astype(np.float32))


def finetune(
    agent: Agent, sharing: Sharing, batch: Callable[[], Batch], updates: int, generator: torch.Generator
) -> Sharing:
    """The clusters after ``updates`` steps of Adam down each network's own loss (``Agent.objectives``) on batches of the dataset.

    ``agent`` is on dense networks; their weights are changed. Targets, biases and the other networks stay as they are.
    """
    mlps = agent.mlps()
    clusters: dict[str, dict[str, _Cluster]] = {}
    for name, found in sharing.items():
        if not found:
            continue  # pruning has cut the network off, and left no weight that counts
        mlp = mlps[name]
        if not isinstance(mlp, MLP):
            raise TypeError(f"network {name} is a {type(mlp).__name__}, and only dense networks can be fine-tuned")
        weights = mlp.layers()
        clusters[name] = {layer: _Cluster(shared, weights[layer].weight) for layer, shared in found.items()}
    optimizers = {
        name: Adam([it.centroids for it in layers.values()], LEARNING_RATE) for name, layers in clusters.items()
    }
    for layers in clusters.values():
        for it in layers.values():
            it.apply()
    for _ in range(updates):
        objectives = agent.objectives(batch(), generator)
        for name, layers in clusters.items():
            gradients = torch.autograd.grad(objectives[name].loss(), [it.weight for it in layers.values()])
            optimizers[name].step([it.gradient(g) for it, g in zip(layers.values(), gradients, strict=True)])
            for it in layers.values():
                it.apply()
    moved = {name: {layer: it.shared() for layer, it in layers.items()} for name, layers in clusters.items()}
    return {**sharing, **moved}
