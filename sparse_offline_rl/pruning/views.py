"""What a score may look at: one network's weights, its masks, and its own loss on batches of the dataset."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.pruning.curvature import Curvature, CurvatureSettings, gather, passes
from sparse_offline_rl.types import Objective


class NetworkView:
    """One network as it is to be scored. Tensors are by layer name, ``[out, in]``, from input to output, heads last, on the CPU.

    Masks and values cost nothing. The first use of :attr:`objective` draws a batch of the dataset, and so does each further one.
    """

    def __init__(
        self,
        network: NetworkState,
        objective: Callable[[int], Objective],
        revived: NetworkState | None = None,
        settings: CurvatureSettings = CurvatureSettings(),  # noqa: B008  (it is frozen)
    ) -> None:
        """``objective`` gives the network's own one on the i-th batch; ``revived``: the network by whose values all weights are judged;
        ``settings``: how :meth:`curvature` is gathered.
        """
        self.topology = network.topology
        self._network, self._objective, self._revived = network, objective, revived
        self._settings = settings
        self._curvature: Curvature | None = None

    @cached_property
    def kept(self) -> dict[str, Tensor]:
        """The masks: True where a weight is there."""
        return {name: torch.from_numpy(mask) for name, mask in self.topology.layers.items()}

    @property
    def pruned(self) -> bool:
        """Whether any weight is missing."""
        return self.topology.kept < self.topology.total

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """What each weight is judged by: its value, zero where it is pruned, unless it may come back with an earlier value."""
        judged = self._network if self._revived is None else self._revived
        return {name: torch.from_numpy(weight) for name, (weight, _) in judged.layers().items()}

    @cached_property
    def biases(self) -> dict[str, Tensor]:
        """The biases ``[out]``."""
        return {name: torch.from_numpy(bias) for name, (_, bias) in self._network.layers().items()}

    @cached_property
    def objective(self) -> Objective:
        """The network's own loss on a batch. Pruned weights are among its weights: they are zero and have gradients."""
        return self._objective(0)

    def curvature(self, generator: torch.Generator) -> Curvature:
        """Second moments of the layers over several batches; gathered at the first call, with draws from its ``generator``."""
        if self._curvature is None:
            settings = self._settings
            objectives = map(self._objective, range(settings.batches))
            seen = (one for it in objectives for one in passes(it, settings.fisher, generator))
            self._curvature = gather(self._network, seen, settings.damping)
        return self._curvature

    def gradients(self, batches: int = 1) -> dict[str, Tensor]:
        """``∂L/∂w`` of all weights, pruned ones too, as the mean over ``batches`` batches."""
        objectives = [self.objective, *(self._objective(i) for i in range(1, batches))]
        found = [torch.autograd.grad(it.loss(), list(it.weights.values())) for it in objectives]
        means = (layer[0] if batches == 1 else torch.stack(layer).mean(0) for layer in zip(*found, strict=True))
        return {name: gradient.cpu() for name, gradient in zip(self.topology.layers, means, strict=True)}
