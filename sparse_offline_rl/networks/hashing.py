"""Weights that share values by a hash (HashedNets, Chen et al. 2015): which value a weight has, and with what sign. NumPy only.

``W_ij = ξ(i, j) · v[h(i, j)]``: a layer of ``out × in`` weights has ``k`` values. Hash and sign are computed from the weight's position and
a seed, so that neither is stored. docs/policy_format.md says how, for readers in other languages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.types import FloatArray

_BLOCK = 2**18  # positions that are hashed at a time: what that takes of memory does not grow with the layer
_SEEDS = 2**32

Places = NDArray[np.int32]


@dataclass(frozen=True)
class LayerHash:
    """The hash of a layer of ``outputs × inputs`` weights that have ``values`` values.

    Raises ValueError unless there are 1 to ``outputs · inputs`` values, and the seed is a whole number below 2³².
    """

    outputs: int
    inputs: int
    values: int  # k
    seed: int

    def __post_init__(self) -> None:
        if any(type(it) is not int for it in (self.outputs, self.inputs, self.values, self.seed)):
            raise ValueError(
                f"a hash is described by whole numbers, not by values = {self.values!r}, seed = {self.seed!r}"
            )
        if not 0 <= self.seed < _SEEDS:
            raise ValueError(f"a hash has a seed below 2**32, not {self.seed}")
        if not 1 <= self.values <= self.outputs * self.inputs < _SEEDS:
            raise ValueError(f"{self.values} values for {self.outputs} × {self.inputs} weights cannot be")

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weights, ``[out, in]``."""
        return self.outputs, self.inputs

    def places(self) -> Places:
        """Of each weight ``[out, in]`` its place in ``[v, -v]``: that of its value, ``k`` later where its sign is negative."""
        found = np.empty(self.shape, np.int32)
        flat = found.reshape(-1)
        for part, block in self._blocks():
            flat[part] = block
        return found

    def expand(self, values: NDArray[Any]) -> NDArray[Any]:
        """The weights ``[out, in]`` that have ``values`` ``[k]``."""
        both = np.concatenate([values, -values])
        weight = np.empty(self.shape, values.dtype)
        flat = weight.reshape(-1)
        for part, block in self._blocks():
            flat[part] = both[block]
        return weight

    def last(self, weight: FloatArray) -> FloatArray:
        """Of each value what the last of its weights in row-major order says, ``[k]``; 0 where no weight has it."""
        values, flat = np.zeros(self.values, np.float32), weight.reshape(-1)
        for part, block in self._blocks():
            bucket, negative = block % self.values, block >= self.values
            values[bucket] = np.where(negative, -flat[part], flat[part])  # of equal indices the last counts
        return values

    def collect(self, weight: FloatArray) -> FloatArray:
        """The inverse of :meth:`expand`; 0 for a value that no weight has. ValueError if two weights differ that share one."""
        values = self.last(weight)
        if self.expand(values).tobytes() != np.ascontiguousarray(weight).tobytes():
            raise ValueError("weights that share a value by their hash differ")
        return values

    def _blocks(self) -> Iterator[tuple[slice, Places]]:
        """:meth:`places` in row-major order, in blocks."""
        for first in range(0, self.outputs * self.inputs, _BLOCK):
            part = slice(first, min(first + _BLOCK, self.outputs * self.inputs))
            positions = np.arange(part.start, part.stop, dtype=np.uint64)
            mixed = _mixed(positions | np.uint64(self.seed << 32))
            bucket = (mixed >> np.uint64(32)) * np.uint64(self.values) >> np.uint64(32)
            place = bucket + (mixed & np.uint64(1)) * np.uint64(self.values)
            yield part, place.astype(np.int32)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Well mixed 64-bit numbers, all different: the last step of SplitMix64 (Steele, Lea and Flood 2014), modulo 2⁶⁴."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))
