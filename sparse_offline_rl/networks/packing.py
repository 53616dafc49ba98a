"""What an MLP and every engine's replacement of it have in common, so that checkpoints cross engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Packable(nn.Module, ABC):
    """A network whose state is one vector ``[n]`` a kind: what survived pruning, in an order that all engines share.

    An engine need not hold all survivors as parameters: those that never change are in the vector all the same.
    """

    @abstractmethod
    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Gradients or moments, shaped like :meth:`parameters`, to one vector; 0 for a survivor that is no parameter."""

    @abstractmethod
    def unpack(self, vector: Tensor) -> list[Tensor]:
        """The inverse of :meth:`pack`."""

    def packed_parameters(self) -> Tensor:
        """The values of all survivors, ``[n]``."""
        return self.pack([parameter.detach() for parameter in self.parameters()])

    @torch.no_grad()
    def load_parameters(self, vector: Tensor) -> None:
        """Take the values that :meth:`packed_parameters` of this or another engine gave."""
        for parameter, value in zip(self.parameters(), self.unpack(vector), strict=True):
            parameter.copy_(value)
