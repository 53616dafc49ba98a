"""An MLP without the hidden units that need not be computed: what the dense engine trains after pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.liveness import live_units
from sparse_offline_rl.networks.masked import MaskedLinear
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Packable

# A compact MLP has some ten small operations more to do. BCQ updates took 5 % longer with 1 % of the hidden units left out
# (SNIP, sparsity 0.4), and as long with 3 % (0.7), which are 6 % of the matrix entries.
_WORTHWHILE = 0.9


def compacted(mlp: MLP) -> Packable:
    """The same function and gradients over smaller matrices, or ``mlp`` itself where they would be hardly smaller."""
    kept, constant = _sort_units(mlp)
    entries = sum(layer.weight.numel() for layer in mlp.layers().values())
    left = sum(int(kept[level].sum() * outputs.sum()) for _, level, outputs in _layers(mlp, kept))
    return CompactMLP(mlp, kept, constant) if left <= _WORTHWHILE * entries else mlp


def hidden_units(root: nn.Module) -> int:
    """Hidden units that the MLPs below ``root`` compute for every row of a batch."""
    mlps = [module for module in root.modules() if isinstance(module, MLP)]
    return sum(len(mask) for mlp in mlps for mask in mlp.masks()[0].values())


class CompactMLP(Packable):
    """A smaller :class:`MLP` in the place of a pruned one that has hidden units of two kinds, which it leaves out.

    A *dead* unit has no path to the output: its parameters have no gradient and keep the values they have. This is exact
    only as long as nothing but gradients moves parameters: weight decay would shrink these too.
    A *constant* unit reads nothing, so it is ``relu(bias)`` in every row: what it gives to its readers is added to their
    biases. It is trained as before.
    """

    trained: Tensor  # positions of the parameters in the vector that :meth:`pack` gives, int64
    stored: Tensor  # that vector for the parameters, [n]; only what dead units hold is up to date
    source: Tensor  # of each of ``weights`` the constant unit that is read, int64
    reader: Tensor  # … and the unit that reads it, among those of all layers but the first

    def __init__(self, mlp: MLP, kept: Sequence[Tensor], constant: Sequence[Tensor]) -> None:
        """Boolean vectors ``[units]`` for the inputs and for each hidden layer: what stays, which must be all of the inputs
        and at least one unit of a layer, and which of the others are constant and not dead.
        """
        super().__init__()
        stored = mlp.packed_parameters()
        positions = mlp.unpack(torch.arange(len(stored)))  # of every weight and bias in the vector
        biases = torch.cat([positions[2 * i + 1][units] for i, units in enumerate(constant[1:])])
        weights, source, reader = _read_constants(mlp, kept, constant, positions)
        self.biases = nn.Parameter(stored[biases])
        self.weights = nn.Parameter(stored[weights])
        self.small = _cut(mlp, kept)
        self._widths = [layer.out_features for layer in list(self.small.layers().values())[1:]]
        rest = []
        for i, (_, level, outputs) in enumerate(_layers(mlp, kept)):
            rest += [positions[2 * i][outputs][:, kept[level]], positions[2 * i + 1][outputs]]
        self.register_buffer("trained", torch.cat([biases, weights, self.small.pack(rest)]))
        self.register_buffer("stored", stored)
        self.register_buffer("source", torch.searchsorted(biases, source))
        self.register_buffer("reader", reader)
        self.load_parameters(stored)

    def forward(self, *inputs: Tensor) -> Tensor:
        """As :meth:`MLP.forward`."""
        given = self.weights * self.biases.relu().index_select(0, self.source)
        shift = given.new_zeros(sum(self._widths)).index_add(0, self.reader, given)
        return self.small.forward(*inputs, shifts=(None, *shift.split(self._widths)))

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """As :meth:`Packable.pack`: gradients and moments of dead units are 0."""
        packed = self._pack_trained(tensors)
        return packed.new_zeros(len(self.stored)).index_copy(0, self.trained, packed)

    def unpack(self, vector: Tensor) -> list[Tensor]:
        """As :meth:`Packable.unpack`."""
        packed = vector.to(self.trained.device)[self.trained]
        biases, weights, rest = packed.tensor_split([len(self.biases), len(self.biases) + len(self.weights)])
        return [biases, weights, *self.small.unpack(rest)]

    def packed_parameters(self) -> Tensor:
        """As :meth:`Packable.packed_parameters`, with the values that dead units keep."""
        return self.stored.index_copy(0, self.trained, self._pack_trained([p.detach() for p in self.parameters()]))

    def load_parameters(self, vector: Tensor) -> None:
        """As :meth:`Packable.load_parameters`, dead units included."""
        super().load_parameters(vector)
        self.stored.copy_(vector)

    def _pack_trained(self, tensors: Sequence[Tensor]) -> Tensor:
        biases, weights, *rest = tensors
        return torch.cat([biases, weights, self.small.pack(rest)])


def _sort_units(mlp: MLP) -> tuple[list[Tensor], list[Tensor]]:
    """Which units to keep and which of the others are constant: of the inputs, then of each hidden layer."""
    device, masks = next(mlp.parameters()).device, mlp.stacked_masks()
    kept = [torch.ones(masks[0].shape[1], dtype=torch.bool, device=device)]
    constant = [torch.zeros_like(kept[0])]
    for mask, live in zip(masks[:-1], live_units(masks)[1:], strict=False):
        busy = live & mask.any(1)
        busy[0] |= not busy.any()  # a layer has at least one unit
        kept.append(torch.from_numpy(busy).to(device))
        constant.append(torch.from_numpy(live & ~busy).to(device))
    return kept, constant


def _layers(mlp: MLP, kept: Sequence[Tensor]) -> Iterator[tuple[MaskedLinear, int, Tensor]]:
    """Each layer, the level that it reads (0: the inputs) and which of its outputs stay."""
    depth = len(mlp.hidden)
    for i, layer in enumerate(mlp.layers().values()):
        yield layer, min(i, depth), kept[i + 1] if i < depth else kept[0].new_ones(layer.out_features)


def _cut(mlp: MLP, kept: Sequence[Tensor]) -> MLP:
    """An MLP of the kept units, with the masks that it needs and with values that are still to be loaded."""
    unused = torch.Generator()  # initial values must not be drawn from a stream that anything else draws from
    small = MLP(len(kept[0]), [int(units.sum()) for units in kept[1:]], mlp.head_widths(), unused)
    small = small.to(next(mlp.parameters()))
    for smaller, (layer, level, outputs) in zip(small.layers().values(), _layers(mlp, kept), strict=True):
        smaller.set_mask(layer.mask[outputs][:, kept[level]])
    return small


def _read_constants(
    mlp: MLP, kept: Sequence[Tensor], constant: Sequence[Tensor], positions: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each weight between a constant and a kept unit: its position, that of the bias it reads, and its reader's number."""
    weights, biases, readers, first = [], [], [], 0
    for i, (layer, level, outputs) in enumerate(_layers(mlp, kept)):
        if level == 0:
            continue  # no input is constant
        rows, columns = (layer.mask[outputs] & constant[level]).nonzero(as_tuple=True)
        weights.append(positions[2 * i][outputs][rows, columns])
        biases.append(positions[2 * level - 1][columns])
        readers.append(first + rows)
        first += int(outputs.sum())
    return torch.cat(weights), torch.cat(biases), torch.cat(readers)
