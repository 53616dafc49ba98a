"""The multilayer perceptron on which actor, critics, encoder and decoder are built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sparse_offline_rl.networks.masked import MaskedLinear


class MLP(nn.Module):
    """Hidden ReLU layers, then one or more linear heads on the last hidden layer.

    ``forward(*inputs)`` concatenates its inputs ``[B, ·]`` and returns the heads' outputs side by side, ``[B, sum(heads)]``.
    Layers are named ``hidden0``, ``hidden1``, … and by the heads' own names, in that order.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int], heads: Mapping[str, int], generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        sizes = [in_features, *hidden]
        self.hidden = nn.ModuleList(
            MaskedLinear(n_in, n_out, generator) for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.heads = nn.ModuleDict({name: MaskedLinear(sizes[-1], width, generator) for name, width in heads.items()})

    def layers(self) -> dict[str, MaskedLinear]:
        """Layer name to layer, from input to output, heads last."""
        hidden = {f"hidden{i}": layer for i, layer in enumerate(self.hidden)}
        return {name: layer for name, layer in {**hidden, **self.heads}.items() if isinstance(layer, MaskedLinear)}

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs ``[B, ·]`` concatenated along features, to ``[B, sum(heads)]``."""
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        outputs = [head(x) for head in self.heads.values()]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
