"""The multilayer perceptron on which every network of an agent is built, and what an engine's version of it must offer."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_offline_rl.networks.masked import MaskedLinear
from sparse_offline_rl.networks.packing import Topology


class PrunableMLP(nn.Module, ABC):
    """An MLP on some engine, with ReLU after each hidden layer but the linear ones of its topology.

    Called with inputs ``[B, ·]``, which it concatenates along features, it returns the outputs of its heads side by side,
    ``[B, sum(heads)]``. The first input may have fewer rows, ``[B / r, ·]``: each of them then stands for ``r`` rows, as a state
    does for its candidate actions.

    Its parameters, gradients and moments are one NumPy vector ``[n]`` each in the order of its :attr:`topology`. An engine need not
    hold all survivors as parameters: those that never change are in the vectors all the same.
    """

    name: str = ""  # among the networks of its agent

    @property
    @abstractmethod
    def topology(self) -> Topology:
        """The masks: the one place that holds them for the agent that this network belongs to."""

    @abstractmethod
    def pack(self, tensors: Sequence[Tensor]) -> NDArray[Any]:
        """Gradients or moments, shaped like :meth:`parameters`, to a new vector; 0 for a survivor that is no parameter."""

    @abstractmethod
    def unpack(self, vector: NDArray[Any]) -> list[Tensor]:
        """The inverse of :meth:`pack`: new tensors on this network's device."""

    def packed_values(self) -> NDArray[Any]:
        """The values of all survivors, as a new vector ``[n]``."""
        return self.pack([parameter.detach() for parameter in self.parameters()])

    @torch.no_grad()
    def load_values(self, vector: NDArray[Any]) -> None:
        """Take the values that :meth:`packed_values` of this or another engine gave."""
        for parameter, value in zip(self.parameters(), self.unpack(vector), strict=True):
            parameter.copy_(value)


class MLPBuilder(Protocol):
    """Makes the networks of an agent: fresh ones (:func:`fresh_mlps`) or, from a state, an engine's."""

    def __call__(self, name: str, in_features: int, hidden: Sequence[int], heads: Mapping[str, int]) -> PrunableMLP:
        """The network ``name``: ``in_features`` inputs, widths of the hidden layers, head name -> width."""


def fresh_mlps(generator: torch.Generator | None = None) -> MLPBuilder:
    """Builds dense networks with new weights, drawn from ``generator``."""

    def build(name: str, in_features: int, hidden: Sequence[int], heads: Mapping[str, int]) -> MLP:
        mlp = MLP(in_features, hidden, heads, generator)
        mlp.name = name
        return mlp

    return build


class MLP(PrunableMLP):
    """Masked linear layers. Those of a new one are named ``hidden0``, ``hidden1``, … and by the heads' own names, in that order."""

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        heads: Mapping[str, int],
        generator: torch.Generator | None = None,
        draw: bool = True,
    ) -> None:
        """Without ``draw`` the values are arbitrary: somebody loads others."""
        super().__init__()
        sizes = [in_features, *hidden]

        def layer(inputs: int, outputs: int) -> MaskedLinear:
            return MaskedLinear(inputs, outputs, generator, draw)

        self.hidden = nn.ModuleList(layer(n_in, n_out) for n_in, n_out in itertools.pairwise(sizes))
        self.heads = nn.ModuleDict({name: layer(sizes[-1], width) for name, width in heads.items()})
        self.name_hidden([f"hidden{i}" for i in range(len(hidden))])

    def name_hidden(self, names: Sequence[str], linear: frozenset[str] = frozenset()) -> None:
        """Call the hidden layers so; no ReLU follows those that are ``linear``."""
        self._names, self._linear = tuple(names), linear
        self._relu = [name not in linear for name in names]

    @classmethod
    def from_packed(cls, topology: Topology, values: NDArray[Any]) -> MLP:
        """The network of these masks and packed values ``[n]``."""
        widths = [mask.shape[0] for mask in topology.hidden.values()]
        heads = {name: mask.shape[0] for name, mask in topology.heads.items()}
        mlp = cls(topology.in_features, widths, heads, draw=False)
        mlp.name_hidden(list(topology.hidden), topology.linear)
        for layer, mask in zip(mlp.layers().values(), topology.layers.values(), strict=True):
            if not mask.all():
                layer.set_mask(torch.from_numpy(mask))
        mlp.load_values(values)
        return mlp

    def layers(self) -> dict[str, MaskedLinear]:
        """Layer name to layer, from input to output, heads last."""
        hidden = dict(zip(self._names, self.hidden, strict=True))
        return {name: layer for name, layer in {**hidden, **self.heads}.items() if isinstance(layer, MaskedLinear)}

    def forward(self, *inputs: Tensor, shifts: Sequence[Tensor | None] = ()) -> Tensor:
        """As :class:`PrunableMLP` says. ``shifts``, if given, holds for each layer nothing or ``[out]`` to add to its bias."""
        x = joined(inputs)
        shift = iter(shifts)
        for layer, relu in zip(self.hidden, self._relu, strict=True):
            x = layer(x, relu, next(shift, None))
        outputs = [head(x, False, next(shift, None)) for head in self.heads.values()]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    @property
    def topology(self) -> Topology:
        """As :attr:`PrunableMLP.topology`; a copy of the masks as they are now."""
        masks = {name: layer.mask.cpu().numpy().copy() for name, layer in self.layers().items()}
        heads = {name: masks.pop(name) for name in self.heads}
        return Topology(masks, heads, linear=self._linear)

    def pack(self, tensors: Sequence[Tensor]) -> NDArray[Any]:
        """As :meth:`PrunableMLP.pack`."""
        return self.topology.pack([tensor.cpu().numpy() for tensor in tensors])

    def unpack(self, vector: NDArray[Any]) -> list[Tensor]:
        """As :meth:`PrunableMLP.unpack`; pruned positions are exactly zero."""
        device = next(self.parameters()).device
        return [torch.from_numpy(array).to(device) for array in self.topology.unpack(vector)]


def repeats_of_first(inputs: Sequence[Tensor]) -> int:
    """How many rows of the last input each row of the first one stands for. ValueError if the rows do not fit."""
    first, rows = len(inputs[0]), len(inputs[-1])
    if any(len(x) != rows for x in inputs[1:]) or (rows != first and (first == 0 or rows == 0 or rows % first)):
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"inputs [B, ·] are needed, of which the first may have a whole part of the rows, not {shapes}"
        )
    return rows // first if first else 1


def repeat_first(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """``inputs`` with all rows of the first one."""
    repeats = repeats_of_first(inputs)
    return inputs if repeats == 1 else (inputs[0].repeat_interleave(repeats, 0), *inputs[1:])


def joined(inputs: tuple[Tensor, ...]) -> Tensor:
    """The inputs of a network side by side, ``[B, ·]``, with all rows of the first one."""
    inputs = repeat_first(inputs)
    return inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)


def mlps_below(root: nn.Module) -> Iterator[PrunableMLP]:
    """Every prunable network below ``root``; what a network consists of is not asked."""
    for child in root.children():
        if isinstance(child, PrunableMLP):
            yield child
        else:
            yield from mlps_below(child)
