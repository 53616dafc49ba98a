"""Which weights of an MLP survive, and the order in which their values stand in one vector. NumPy only: acting imports no torch.

This is the one place that knows the order. Checkpoints, policy files, every engine and every change of masks go through it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.types import BoolArray


class Span(NamedTuple):
    """Where a layer's parameters stand in the packed vector."""

    values: slice  # its surviving weights, in the row-major order of the mask, or the values that hashed weights share
    bias: slice


def packed_spans(masks: Sequence[BoolArray]) -> list[Span]:
    """Spans of layers with these masks ``[out, in]``, from input to output: ``[values_0, bias_0, values_1, bias_1, …]``."""
    return _spans([(int(np.count_nonzero(mask)), mask.shape[0]) for mask in masks])


def _spans(counts: Sequence[tuple[int, int]]) -> list[Span]:
    """Spans of layers with so many values and biases."""
    sizes = [size for pair in counts for size in pair]
    ends = [0, *itertools.accumulate(sizes)]
    slices = [slice(start, end) for start, end in itertools.pairwise(ends)]
    return [Span(*pair) for pair in zip(slices[0::2], slices[1::2], strict=True)]


@dataclass(frozen=True, eq=False)
class Topology:
    """The masks of an MLP: hidden layers from input to output, then one or more heads on the last hidden layer.

    A mask is boolean ``[out, in]``, True where the weight survives. Several heads count as one layer whose outputs stand side by
    side: in the packed vector the values of all heads come before the biases of all heads. ReLU follows each hidden layer but those
    that are ``linear``: they are factors of the layer after them (:attr:`factors`).

    A hashed network (HashedNets) has a hash for each layer and no weight pruned: the packed vector has the values that its weights share.

    Raises ValueError, naming the layer, unless the masks are boolean matrices of which each takes what the one before gives, and hashes
    are of all layers, none of which is linear, and of their shapes, or of none.
    """

    hidden: Mapping[str, BoolArray]
    heads: Mapping[str, BoolArray]
    hashes: Mapping[str, LayerHash] = field(default_factory=dict)
    linear: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.heads:
            raise ValueError("an MLP needs at least one head")
        if unknown := self.linear - self.hidden.keys():
            raise ValueError(f"{min(unknown)} is to be linear and is no hidden layer")
        for name, mask in self.layers.items():
            if mask.dtype != np.bool_ or mask.ndim != 2:
                raise ValueError(f"the mask of {name} must be a boolean matrix, not {mask.dtype} of shape {mask.shape}")
        width = self.in_features
        for name, mask in self.layers.items():
            if mask.shape[1] != width:
                raise ValueError(f"the mask of {name} reads {mask.shape[1]} units and there are {width}")
            width = mask.shape[0] if name in self.hidden else width
        if self.hashes and {name: it.shape for name, it in self.hashes.items()} != {
            name: mask.shape for name, mask in self.layers.items() if mask.all() and not self.linear
        }:
            raise ValueError(
                "a hashed network has a hash of the right shape for each layer, no weight pruned and no linear layer"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Topology:
        return self  # nothing in it changes

    @classmethod
    def dense(cls, in_features: int, hidden: Sequence[int], heads: Mapping[str, int]) -> Topology:
        """Nothing pruned; hidden layers are called ``hidden0``, ``hidden1``, …"""
        sizes = [in_features, *hidden]
        masks = {
            f"hidden{i}": np.ones((n_out, n_in), bool) for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
        }
        return cls(masks, {name: np.ones((width, sizes[-1]), bool) for name, width in heads.items()})

    @property
    def unpruned(self) -> Topology:
        """The same layers with every weight there."""
        hidden, heads = (
            {name: np.ones_like(mask) for name, mask in group.items()} for group in (self.hidden, self.heads)
        )
        return Topology(hidden, heads, linear=self.linear)

    @property
    def original(self) -> Topology:
        """The network before anything was pruned: every layer in one matrix (:attr:`shapes`), with every weight there."""
        masks = {name: np.ones(shape, bool) for name, shape in self.shapes.items()}
        heads = {name: masks.pop(name) for name in self.heads}
        return Topology(masks, heads)

    @property
    def expanded(self) -> Topology:
        """The same masks, and a value of its own for each weight."""
        return Topology(self.hidden, self.heads, linear=self.linear)

    @property
    def layers(self) -> dict[str, BoolArray]:
        """Layer name to mask, from input to output, heads last."""
        return {**self.hidden, **self.heads}

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return int(next(iter(self.layers.values())).shape[1])

    @cached_property
    def stacked(self) -> list[BoolArray]:
        """Masks from input to output, the heads stacked as one last mask."""
        return [*self.hidden.values(), np.concatenate(list(self.heads.values()))]

    @property
    def rectified(self) -> list[bool]:
        """Whether ReLU follows each layer of :attr:`stacked`."""
        return [*(name not in self.linear for name in self.hidden), False]

    @property
    def factors(self) -> dict[str, list[str]]:
        """Name of each layer that is not linear -> the linear layers right before it, which all heads share.

        With them it stands for one matrix, their product, that a pruning method left in factors.
        """
        found: dict[str, list[str]] = {}
        before: list[str] = []
        for name in self.hidden:
            if name in self.linear:
                before.append(name)
            else:
                found[name], before = before, []
        return found | dict.fromkeys(self.heads, before)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Name of each layer that is not linear -> ``(out, in)`` of the matrix for which it stands with its :attr:`factors`."""
        layers = self.layers
        return {name: (len(layers[name]), layers[[*before, name][0]].shape[1]) for name, before in self.factors.items()}

    @cached_property
    def spans(self) -> dict[str, Span]:
        """Where the parameters of each layer stand in the packed vector."""
        counts = [(self.stored[name], len(mask)) for name, mask in self.layers.items()]
        depth = len(self.hidden)
        heads = tuple(map(sum, zip(*counts[depth:], strict=True)))
        *hidden, last = _spans([*counts[:depth], (heads[0], heads[1])])
        spans = dict(zip(self.hidden, hidden, strict=True))
        value, bias = last.values.start, last.bias.start
        for name, (stored, width) in zip(self.heads, counts[depth:], strict=True):
            spans[name] = Span(slice(value, value + stored), slice(bias, bias + width))
            value, bias = value + stored, bias + width
        return spans

    @cached_property
    def stored(self) -> dict[str, int]:
        """Layer name -> how many values there are for its weights: one for each that survives, unless they are hashed."""
        hashed = {name: it.values for name, it in self.hashes.items()}
        return {name: hashed.get(name) or int(np.count_nonzero(mask)) for name, mask in self.layers.items()}

    @property
    def size(self) -> int:
        """Length of the packed vector: surviving weights, or the values that they share, and all biases."""
        return sum(self.stored.values()) + sum(len(mask) for mask in self.layers.values())

    @property
    def kept(self) -> int:
        """Number of surviving weights."""
        return sum(int(np.count_nonzero(mask)) for mask in self.layers.values())

    @property
    def total(self) -> int:
        """Number of weights before anything was pruned: those of :attr:`original`."""
        return sum(outputs * inputs for outputs, inputs in self.shapes.values())

    def pack(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Weight ``[out, in]`` and bias ``[out]`` of each layer in turn (of :attr:`layers`) to one new vector ``[size]``.

        Raises ValueError if weights differ that share a value.
        """
        vector = np.empty(self.size, arrays[0].dtype)
        for (name, mask), weight, bias in zip(self.layers.items(), arrays[0::2], arrays[1::2], strict=True):
            span = self.spans[name]
            vector[span.values] = self.hashes[name].collect(weight) if self.hashes else weight[mask]
            vector[span.bias] = bias
        return vector

    def unpack(self, vector: NDArray[Any]) -> list[NDArray[Any]]:
        """The inverse of :meth:`pack`, as new arrays; pruned positions are exactly zero. ValueError for another length."""
        if vector.shape != (self.size,):
            raise ValueError(f"a vector of {self.size} values is needed, not one of shape {vector.shape}")
        arrays = []
        for name, mask in self.layers.items():
            values, bias = (vector[span] for span in self.spans[name])
            arrays += [self.hashes[name].expand(values) if self.hashes else _spread(mask, values), bias.copy()]
        return arrays


def _spread(mask: BoolArray, values: NDArray[Any]) -> NDArray[Any]:
    """``values`` at the kept positions of ``mask``, zero elsewhere."""
    weight = np.zeros(mask.shape, values.dtype)
    weight[mask] = values
    return weight
