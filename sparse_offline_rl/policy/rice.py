"""Masks coded near their entropy: Rice-coded gaps (Rice 1979), as two streams that NumPy decodes without a loop.

A mask is read row by row as one sequence of bits. Its rarer symbol is coded: the gap before each occurrence, ``g``, becomes
``g >> k`` in unary and the low ``k`` bits as they are; the best ``k`` is tried out. At 5 % density this costs 1 % more than
the entropy; an all-True or all-False mask costs 5 bytes.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.types import BoolArray

_HEAD = struct.Struct("<BI")  # k + 0x80 if the zeros are coded, number of coded positions
_CODES_ZEROS = 0x80
_MAX_K = 31
MAX_POSITIONS = 2**31 - 1


def encode_mask(mask: BoolArray) -> bytes:
    """Code of a boolean ``mask`` of any shape; :func:`decode_mask` needs the shape again."""
    flat = np.ascontiguousarray(mask).ravel()
    if flat.size > MAX_POSITIONS:
        raise ValueError(f"a mask of {flat.size} positions is larger than the code allows ({MAX_POSITIONS})")
    codes_zeros = 2 * int(np.count_nonzero(flat)) > flat.size
    gaps = np.diff(np.flatnonzero(flat != codes_zeros), prepend=-1) - 1
    costs = [len(gaps) * (k + 1) + int((gaps >> k).sum()) for k in range(_MAX_K + 1)]
    k = costs.index(min(costs))
    head = _HEAD.pack(k | (_CODES_ZEROS if codes_zeros else 0), len(gaps))
    low = (gaps[:, None] >> np.arange(k)) & 1
    unary = np.zeros(costs[k] - len(gaps) * k, dtype=np.uint8)
    unary[np.cumsum((gaps >> k) + 1) - 1] = 1
    return head + _pack(low.ravel().astype(np.uint8)) + _pack(unary)


def decode_mask(code: bytes, shape: tuple[int, ...]) -> BoolArray:
    """The mask of ``shape`` behind ``code``. Raises ValueError if they do not fit; allocates no more than both imply."""
    size = int(np.prod(shape, dtype=object))
    if len(code) < _HEAD.size:
        raise ValueError("a mask code is cut short")
    first, count = _HEAD.unpack_from(code)
    k, codes_zeros = first & ~_CODES_ZEROS, bool(first & _CODES_ZEROS)
    low_bytes = (count * k + 7) // 8
    if k > _MAX_K or count > size or len(code) < _HEAD.size + low_bytes:
        raise ValueError("a mask code does not fit its layer")
    data = np.frombuffer(code, dtype=np.uint8, offset=_HEAD.size)
    ends = np.flatnonzero(np.unpackbits(data[low_bytes:], bitorder="little"))
    if len(ends) != count:
        raise ValueError("a mask code does not hold as many positions as it says")
    bits = np.unpackbits(data[:low_bytes], bitorder="little")[: count * k].reshape(count, k)
    low = bits.astype(np.int64) @ (np.int64(1) << np.arange(k, dtype=np.int64))
    positions = np.cumsum(((np.diff(ends, prepend=-1) - 1) << k) + low + 1) - 1
    if count and positions[-1] >= size:
        raise ValueError("a mask code runs beyond its layer")
    mask = np.full(size, codes_zeros)
    mask[positions] = not codes_zeros
    return mask.reshape(shape)


def _pack(bits: NDArray[np.uint8]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()
