"""Action bounds as buffers: networks speak in tanh units, environments in their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparse_offline_rl.types import Spaces


class ActionBounds(nn.Module):
    """``[low, high]`` per action dimension ``[A]``; for the usual symmetric bounds the centre is 0 and the scale is max_a."""

    low: Tensor
    high: Tensor
    scale: Tensor
    center: Tensor

    def __init__(self, spaces: Spaces) -> None:
        super().__init__()
        low, high = torch.as_tensor(spaces.action_low), torch.as_tensor(spaces.action_high)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.register_buffer("scale", (high - low) / 2, persistent=False)
        self.register_buffer("center", (high + low) / 2, persistent=False)

    def squash(self, x: Tensor) -> Tensor:
        """``center + scale * tanh(x)``: any real ``[B, A]`` into the bounds."""
        return torch.addcmul(self.center, self.scale, torch.tanh(x))

    def clamp(self, actions: Tensor) -> Tensor:
        """``actions`` ``[B, A]`` cut to the bounds."""
        return torch.clamp(actions, self.low, self.high)
