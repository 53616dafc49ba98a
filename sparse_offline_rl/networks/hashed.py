"""HashedNets (Chen et al. 2015): an MLP whose parameters are the few values that its many weights share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.networks.masked import Product, masked_product
from sparse_offline_rl.networks.mlp import PrunableMLP, joined
from sparse_offline_rl.networks.packing import Topology


class HashedLinear(nn.Module):
    """Linear layer ``[B, in] -> [B, out]`` with ``W_ij = ξ(i, j) · v[h(i, j)]``. Biases are not hashed.

    Its parameters are ``values`` v ``[k]`` and ``bias`` ``[out]``, so the gradient of a value is the sum of those of its weights, each with
    its sign, added in a fixed order. ``product`` is as that of :class:`~sparse_offline_rl.networks.masked.MaskedLinear`.
    """

    _places: Tensor  # [out * in], int32: of each weight its place in [v, -v]

    def __init__(self, hashing: LayerHash) -> None:
        """The values are arbitrary: somebody loads others."""
        super().__init__()
        self.product: Product = masked_product
        self.values = nn.Parameter(torch.empty(hashing.values))
        self.bias = nn.Parameter(torch.empty(hashing.outputs))
        self.register_buffer("_places", torch.from_numpy(hashing.places()).view(-1), persistent=False)

    def weight(self) -> Tensor:
        """The weights ``[out, in]`` that the values stand for, as a function of them."""
        both = torch.cat((self.values, -self.values))
        return both.index_select(0, self._places).view(len(self.bias), -1)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Map ``x`` ``[B, in]`` to ``[B, out]``, through ReLU if asked for."""
        return self.product(x, self.weight(), self.bias, None, relu)


class HashedMLP(PrunableMLP):
    """The network of a topology with hashes, on any device. All weights compute; the packed vector has the values that they share."""

    def __init__(self, topology: Topology, values: NDArray[Any]) -> None:
        super().__init__()
        self._topology = topology
        self._layers = nn.ModuleDict({name: HashedLinear(topology.hashes[name]) for name in topology.layers})
        self.load_values(values)

    @property
    def topology(self) -> Topology:
        """As :attr:`PrunableMLP.topology`."""
        return self._topology

    def layers(self) -> dict[str, HashedLinear]:
        """Layer name to layer, from input to output, heads last."""
        return {name: layer for name, layer in self._layers.items() if isinstance(layer, HashedLinear)}

    def forward(self, *inputs: Tensor) -> Tensor:
        """As :class:`PrunableMLP` says."""
        x = joined(inputs)
        for name in self._topology.hidden:
            x = self._layers[name](x, True)
        outputs = [self._layers[name](x) for name in self._topology.heads]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def pack(self, tensors: Sequence[Tensor]) -> NDArray[Any]:
        """As :meth:`PrunableMLP.pack`."""
        arrays = iter(tensor.cpu().numpy() for tensor in tensors)
        vector = np.empty(self._topology.size, np.float32)
        for name in self._topology.layers:
            for span in self._topology.spans[name]:
                vector[span] = next(arrays)
        return vector

    def unpack(self, vector: NDArray[Any]) -> list[Tensor]:
        """As :meth:`PrunableMLP.unpack`."""
        device = next(self.parameters()).device
        spans = [span for name in self._topology.layers for span in self._topology.spans[name]]
        return [torch.from_numpy(vector[span].copy()).to(device) for span in spans]
