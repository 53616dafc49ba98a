"""Float32 values without loss in about 26 bits each: the exponents of weights are few, so they are deflated on their own.

The bits of a value are its sign, 8 of exponent and 23 of fraction. Sign and fraction are noise and stay as they are, three bytes
a value; the exponent bytes follow as one zlib stream (RFC 1950).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.policy.deflate import deflate, inflate
from sparse_offline_rl.types import FloatArray

RAW_BYTES = 3  # sign and fraction of one value


def split_floats(values: FloatArray) -> tuple[bytes, bytes]:
    """``values`` ``[n]`` to ``3 n`` bytes of signs and fractions, and the deflated exponents."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    exponents = (bits >> 23).astype(np.uint8)  # the cast drops the sign
    rest = ((bits & 0x7FFFFF) | (bits >> 31 << 23)).astype("<u4")
    raw = rest.view(np.uint8).reshape(-1, 4)[:, :RAW_BYTES].tobytes()
    return raw, deflate([exponents.tobytes()])


def join_floats(raw: bytes, deflated: bytes) -> FloatArray:
    """The inverse of :func:`split_floats`. Raises ValueError unless the exponents are as many as ``raw`` says."""
    count = len(raw) // RAW_BYTES
    exponents = inflate(deflated, count, "exponents")
    rest: NDArray[np.uint8] = np.zeros((count, 4), dtype=np.uint8)
    rest[:, :RAW_BYTES] = np.frombuffer(raw, dtype=np.uint8).reshape(count, RAW_BYTES)
    bits = rest.view("<u4").ravel()
    high = np.frombuffer(exponents, dtype=np.uint8).astype(np.uint32) << 23
    return ((bits & 0x7FFFFF) | (bits >> 23 << 31) | high).astype(np.uint32).view(np.float32)
