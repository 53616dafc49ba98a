"""Few values for many weights: a layer's numbers as small integers, and the levels that the integers stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.types import FloatArray

MAX_SHARED = 256  # values of a codebook: an index is one byte
MIN_BITS, MAX_BITS = 2, 16

Codes = NDArray[np.uint16]  # a negative integer stands as its two's complement


@dataclass(frozen=True, eq=False)
class SharedLevels:
    """A codebook (weight sharing, Han et al. 2016): the integer ``i`` stands for ``values[i]``.

    Raises ValueError unless there are 1 to 256 values in float32.
    """

    values: FloatArray  # [k]

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.ndim != 1 or not 1 <= len(self.values) <= MAX_SHARED:
            raise ValueError(f"a codebook holds 1 to {MAX_SHARED} values in float32")

    @property
    def planes(self) -> int:
        """Bytes of one integer in the file."""
        return 1

    @property
    def floats(self) -> FloatArray:
        """What stands in the file beside the integers, ``[k]``."""
        return self.values

    def encode(self, values: FloatArray) -> Codes:
        """The integers for ``values`` ``[n]``. Raises ValueError for one that is not, bit for bit, in the codebook."""
        known, wanted = self.values.view(np.uint32), np.ascontiguousarray(values).view(np.uint32)
        order = np.argsort(known, kind="stable")
        places = np.searchsorted(known[order], wanted)
        codes = order[np.minimum(places, len(known) - 1)]
        if not np.array_equal(known[codes], wanted):
            raise ValueError("a value is not in the codebook of its layer")
        return codes.astype(np.uint16)

    def decode(self, codes: Codes) -> FloatArray:
        """The inverse of :meth:`encode`. Raises ValueError for an integer beyond the codebook."""
        if codes.max(initial=0) >= len(self.values):
            raise ValueError("an index lies beyond the codebook of its layer")
        values: FloatArray = self.values[codes]
        return values


@dataclass(frozen=True, eq=False)
class LinearLevels:
    """Equal steps on both sides of zero: the signed integer ``n`` of ``bits`` bits stands for ``step · n``, rounded to float32.

    Raises ValueError unless ``bits`` is 2 to 16 and all levels are finite.
    """

    bits: int
    step: np.float32

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"linear levels have {MIN_BITS} to {MAX_BITS} bits")
        if not 0 < float(self.step) * self.highest <= float(np.finfo(np.float32).max):
            raise ValueError("linear levels have a finite step above 0")

    @property
    def highest(self) -> int:
        """The largest integer in use; the smallest is its negative."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def planes(self) -> int:
        """Bytes of one integer in the file."""
        return (self.bits + 7) // 8

    @property
    def floats(self) -> FloatArray:
        """What stands in the file beside the integers, ``[1]``."""
        return np.array([self.step], np.float32)

    def nearest(self, values: FloatArray) -> FloatArray:
        """The nearest level of each of ``values`` ``[n]``."""
        return self._value(self._numbers(values))

    def encode(self, values: FloatArray) -> Codes:
        """The integers for ``values`` ``[n]``. Raises ValueError for one that is no level, bit for bit."""
        numbers = self._numbers(values)
        if self._value(numbers).tobytes() != np.ascontiguousarray(values).tobytes():
            raise ValueError("a value is no multiple of the step of its layer")
        return numbers.astype(np.uint16) & np.uint16(2 ** (8 * self.planes) - 1)

    def decode(self, codes: Codes) -> FloatArray:
        """The inverse of :meth:`encode`. Raises ValueError for an integer of more bits."""
        numbers = codes.astype(np.uint8).view(np.int8) if self.planes == 1 else codes.view(np.int16)
        if np.abs(numbers.astype(np.int32)).max(initial=0) > self.highest:
            raise ValueError(f"an integer of a layer has more than {self.bits} bits")
        return self._value(numbers.astype(np.int32))

    def _numbers(self, values: FloatArray) -> NDArray[np.int32]:
        with np.errstate(all="ignore"):  # what has no level is refused by `encode`, whatever it becomes here
            numbers = np.rint(values.astype(np.float64) / np.float64(self.step))
        clipped: NDArray[np.int32] = np.clip(np.nan_to_num(numbers), -self.highest, self.highest).astype(np.int32)
        return clipped

    def _value(self, numbers: NDArray[np.int32]) -> FloatArray:
        return self.step * numbers.astype(np.float32)


Levels = SharedLevels | LinearLevels
