"""The multilayer perceptron on which actor, critics, encoder and decoder are built."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.masked import MaskedLinear
from sparse_offline_rl.networks.packing import Packable
from sparse_offline_rl.types import BoolArray


class MLP(Packable):
    """Hidden ReLU layers, then one or more linear heads on the last hidden layer.

    ``forward(*inputs)`` concatenates its inputs ``[B, ·]``, of which the first may be repeated, and returns the heads' outputs
    side by side, ``[B, sum(heads)]``.
    Layers are named ``hidden0``, ``hidden1``, … and by the heads' own names, in that order.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        heads: Mapping[str, int],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [in_features, *hidden]
        self.hidden = nn.ModuleList(MaskedLinear(n_in, n_out, generator) for n_in, n_out in itertools.pairwise(sizes))
        self.heads = nn.ModuleDict({name: MaskedLinear(sizes[-1], width, generator) for name, width in heads.items()})

    def layers(self) -> dict[str, MaskedLinear]:
        """Layer name to layer, from input to output, heads last."""
        hidden = {f"hidden{i}": layer for i, layer in enumerate(self.hidden)}
        return {name: layer for name, layer in {**hidden, **self.heads}.items() if isinstance(layer, MaskedLinear)}

    def forward(self, *inputs: Tensor, shifts: Sequence[Tensor | None] = ()) -> Tensor:
        """Inputs ``[B, ·]`` concatenated along features, to ``[B, sum(heads)]``.

        The first input may have fewer rows, ``[B / r, ·]``: each of them stands for ``r`` rows, as many states do for the
        candidate actions of each. A sparse network then computes once what depends on it alone. ``shifts``, if given, holds for
        each layer nothing or a vector ``[out]`` to add to its bias.
        """
        inputs = repeat_first(inputs)
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        shift = iter(shifts)
        for layer in self.hidden:
            x = layer(x, True, next(shift, None))
        outputs = [head(x, False, next(shift, None)) for head in self.heads.values()]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def head_widths(self) -> dict[str, int]:
        """Head name to its number of outputs."""
        layers = self.layers()
        return {name: layers[name].out_features for name in self.heads}

    def masks(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Masks of the hidden layers and of the heads, by layer name."""
        masks = {name: layer.mask for name, layer in self.layers().items()}
        heads = {name: masks.pop(name) for name in self.heads}
        return masks, heads

    def stacked_masks(self) -> list[BoolArray]:
        """Masks ``[out, in]`` from input to output as NumPy arrays, the heads stacked as one last mask."""
        return stack_masks(*self.masks())

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors shaped like :meth:`parameters` to one vector of what survives, in the order every engine shares.

        The order is, layer by layer, the values at the mask's True positions row by row, then the bias; the heads together
        count as one layer.
        """
        weights, biases = tensors[0::2], tensors[1::2]
        kept = [weight[layer.mask] for weight, layer in zip(weights, self.layers().values(), strict=True)]
        depth = len(self.hidden)
        parts = [part for pair in zip(kept[:depth], biases[:depth], strict=True) for part in pair]
        return torch.cat([*parts, *kept[depth:], *biases[depth:]])

    def unpack(self, vector: Tensor) -> list[Tensor]:
        """The inverse of :meth:`pack`; pruned positions are exactly zero."""
        layers, depth = list(self.layers().values()), len(self.hidden)
        order = [item for i in range(depth) for item in ((i, "weight"), (i, "bias"))]
        order += [(i, kind) for kind in ("weight", "bias") for i in range(depth, len(layers))]
        vector = vector.to(layers[0].mask.device)
        sizes = [int(layers[i].mask.sum()) if kind == "weight" else layers[i].out_features for i, kind in order]
        parts = dict(zip(order, vector.split(sizes), strict=True))
        tensors = []
        for i, layer in enumerate(layers):
            weight = vector.new_zeros(layer.mask.shape)
            weight[layer.mask] = parts[i, "weight"]
            tensors += [weight, parts[i, "bias"]]
        return tensors


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


def stack_masks(hidden: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> list[BoolArray]:
    """What :meth:`MLP.masks` gave as NumPy arrays ``[out, in]`` from input to output, the heads stacked as one last mask."""
    return [mask.cpu().numpy() for mask in (*hidden.values(), torch.cat(list(heads.values())))]


def replace_mlps(root: nn.Module, replacement: Callable[[MLP], Packable]) -> None:
    """Put ``replacement(mlp)`` in the place of every :class:`MLP` below ``root``."""
    for name, child in root.named_children():
        if isinstance(child, MLP):
            setattr(root, name, replacement(child))
        else:
            replace_mlps(child, replacement)
