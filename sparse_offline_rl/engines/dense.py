"""The dense engine: masked matrices, without the hidden units that need not be computed after pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_offline_rl.networks.liveness import live_units
from sparse_offline_rl.networks.masked import MaskedLinear
from sparse_offline_rl.networks.mlp import MLP, PrunableMLP
from sparse_offline_rl.networks.packing import Topology

# A compact MLP has some ten small operations more to do. BCQ updates took 5 % longer with 1 % of the hidden units left out
# (SNIP, sparsity 0.4), and as long with 3 % (0.7), which are 6 % of the matrix entries.
_WORTHWHILE = 0.9


def compacted(mlp: MLP) -> PrunableMLP:
    """The same function and gradients over smaller matrices, or ``mlp`` itself where they would be hardly smaller."""
    kept, constant = _sort_units(mlp)
    entries = sum(layer.weight.numel() for layer in mlp.layers().values())
    left = sum(int(kept[level].sum() * outputs.sum()) for _, level, outputs in _layers(mlp, kept))
    return CompactMLP(mlp, kept, constant) if left <= _WORTHWHILE * entries else mlp


def hidden_units(root: nn.Module) -> int:
    """Hidden units that the MLPs below ``root`` compute for every row of a batch."""
    mlps = [module for module in root.modules() if isinstance(module, MLP)]
    return sum(len(mask) for mlp in mlps for mask in mlp.topology.hidden.values())


class CompactMLP(PrunableMLP):
    """A smaller :class:`MLP` in the place of a pruned one that has hidden units of two kinds, which it leaves out.

    A *dead* unit has no path to the output: its parameters have no gradient and keep the values they have. This is exact
    only as long as nothing but gradients moves parameters: weight decay would shrink these too.
    A *constant* unit reads nothing, so it is ``relu(bias)`` in every row, or its bias in a linear layer: what it gives to its readers
    is added to their biases. It is trained as before.
    """

    linear: Tensor | None  # of each of ``biases`` whether its layer is linear; None: none is
    source: Tensor  # of each of ``weights`` the constant unit that is read, int64
    reader: Tensor  # … and the unit that reads it, among those of all layers but the first

    def __init__(self, mlp: MLP, kept: Sequence[Tensor], constant: Sequence[Tensor]) -> None:
        """Boolean vectors ``[units]`` for the inputs and for each hidden layer: what stays, which must be all of the inputs
        and at least one unit of a layer, and which of the others are constant and not dead.
        """
        super().__init__()
        self._topology, self._stored = (
            mlp.topology,
            mlp.packed_values(),
        )  # of the latter only what dead units hold is up to date
        # Of every weight and bias its position in the packed vector.
        positions = [torch.from_numpy(array) for array in self._topology.unpack(np.arange(self._topology.size))]
        biases = torch.cat([positions[2 * i + 1][units] for i, units in enumerate(constant[1:])])
        weights, source, reader = _read_constants(mlp, kept, constant, positions)
        values = torch.from_numpy(self._stored)
        self.biases = nn.Parameter(values[biases])
        self.weights = nn.Parameter(values[weights])
        self.small = _cut(mlp, kept)
        self._widths = [layer.out_features for layer in list(self.small.layers().values())[1:]]
        rest = []
        for i, (_, level, outputs) in enumerate(_layers(mlp, kept)):
            rest += [positions[2 * i][outputs][:, kept[level]], positions[2 * i + 1][outputs]]
        # Positions of the parameters in the packed vector.
        self._trained = np.concatenate([biases.numpy(), weights.numpy(), self.small.pack(rest)])
        rectified = self._topology.rectified
        linear = torch.cat(
            [units.new_full((int(units.sum()),), not it) for units, it in zip(constant[1:], rectified, strict=False)]
        )
        self.register_buffer("linear", linear if linear.any() else None)
        self.register_buffer("source", torch.searchsorted(biases, source))
        self.register_buffer("reader", reader)
        self.load_values(self._stored)

    @property
    def topology(self) -> Topology:
        """As :attr:`PrunableMLP.topology`, with the units that are left out."""
        return self._topology

    def forward(self, *inputs: Tensor) -> Tensor:
        """As :meth:`MLP.forward`."""
        constants = self.biases.relu()
        if self.linear is not None:
            constants = torch.where(self.linear, self.biases, constants)
        given = self.weights * constants.index_select(0, self.source)
        shift = given.new_zeros(sum(self._widths)).index_add(0, self.reader, given)
        return self.small.forward(*inputs, shifts=(None, *shift.split(self._widths)))

    def pack(self, tensors: Sequence[Tensor]) -> NDArray[Any]:
        """As :meth:`PrunableMLP.pack`: gradients and moments of dead units are 0."""
        return self._spread(tensors, np.zeros_like(self._stored))

    def unpack(self, vector: NDArray[Any]) -> list[Tensor]:
        """As :meth:`PrunableMLP.unpack`."""
        first, second = len(self.biases), len(self.biases) + len(self.weights)
        biases, weights, rest = np.split(vector[self._trained], [first, second])
        device = self.biases.device
        return [*(torch.from_numpy(array).to(device) for array in (biases, weights)), *self.small.unpack(rest)]

    def packed_values(self) -> NDArray[Any]:
        """As :meth:`PrunableMLP.packed_values`, with the values that dead units keep."""
        return self._spread([parameter.detach() for parameter in self.parameters()], self._stored.copy())

    def load_values(self, vector: NDArray[Any]) -> None:
        """As :meth:`PrunableMLP.load_values`, dead units included."""
        super().load_values(vector)
        self._stored = vector.copy()

    def _spread(self, tensors: Sequence[Tensor], vector: NDArray[Any]) -> NDArray[Any]:
        """Put tensors shaped like the parameters into their places in ``vector``."""
        biases, weights, *rest = tensors
        packed = [biases.cpu().numpy(), weights.cpu().numpy(), self.small.pack(rest)]
        vector[self._trained] = np.concatenate(packed)
        return vector


def _sort_units(mlp: MLP) -> tuple[list[Tensor], list[Tensor]]:
    """Which units to keep and which of the others are constant: of the inputs, then of each hidden layer."""
    masks = mlp.topology.stacked
    kept = [torch.ones(masks[0].shape[1], dtype=torch.bool)]
    constant = [torch.zeros_like(kept[0])]
    for mask, live in zip(masks[:-1], live_units(masks)[1:], strict=False):
        busy = live & mask.any(1)
        busy[0] |= not busy.any()  # a layer has at least one unit
        kept.append(torch.from_numpy(busy))
        constant.append(torch.from_numpy(live & ~busy))
    return kept, constant


def _layers(mlp: MLP, kept: Sequence[Tensor]) -> Iterator[tuple[MaskedLinear, int, Tensor]]:
    """Each layer, the level that it reads (0: the inputs) and which of its outputs stay."""
    depth = len(mlp.hidden)
    for i, layer in enumerate(mlp.layers().values()):
        yield layer, min(i, depth), kept[i + 1] if i < depth else kept[0].new_ones(layer.out_features)


def _cut(mlp: MLP, kept: Sequence[Tensor]) -> MLP:
    """An MLP of the kept units, with the masks that it needs and with values that are still to be loaded."""
    heads = {name: mask.shape[0] for name, mask in mlp.topology.heads.items()}
    small = MLP(len(kept[0]), [int(units.sum()) for units in kept[1:]], heads, draw=False)
    small.name_hidden(list(mlp.topology.hidden), mlp.topology.linear)
    small = small.to(next(mlp.parameters()))
    for smaller, (layer, level, outputs) in zip(small.layers().values(), _layers(mlp, kept), strict=True):
        smaller.set_mask(layer.mask[outputs][:, kept[level]])
    return small


def _read_constants(
    mlp: MLP, kept: Sequence[Tensor], constant: Sequence[Tensor], positions: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each weight between a constant and a kept unit: its position, that of the bias it reads, and its reader's number."""
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    readers: list[Tensor] = []
    first = 0
    for i, (layer, level, outputs) in enumerate(_layers(mlp, kept)):
        if level == 0:
            continue  # no input is constant
        rows, columns = (layer.mask[outputs] & constant[level]).nonzero(as_tuple=True)
        weights.append(positions[2 * i][outputs][rows, columns])
        biases.append(positions[2 * level - 1][columns])
        readers.append(first + rows)
        first += int(outputs.sum())
    return torch.cat(weights), torch.cat(biases), torch.cat(readers)
