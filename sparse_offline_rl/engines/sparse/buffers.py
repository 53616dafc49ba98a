"""Recycled scratch memory at fixed addresses."""

from __future__ import annotations

import numpy as np

from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES, VECTOR_BYTES
from sparse_offline_rl.tracing import Tracer


class Buffer:
    """``count`` float32 at an ``address`` aligned to vectors."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._memory = np.empty(count + VECTOR_BYTES // FLOAT_BYTES, np.float32)
        raw = self._memory.ctypes.data
        self.address = raw + (-raw) % VECTOR_BYTES


class Buffers:
    """Those that are free, by size. Safe to use from several threads."""

    def __init__(self) -> None:
        self._free: dict[int, list[Buffer]] = {}

    def take(self, count: int, tracer: Tracer | None = None) -> Buffer:
        """A buffer of ``count`` float32, recycled if one is free; the tracer's, if there is one."""
        if tracer is not None:
            private: Buffer = tracer.take(count)
            return private
        free = self._free.get(count)
        try:
            return free.pop() if free else Buffer(count)
        except IndexError:  # another thread took the last one
            return Buffer(count)

    def give_back(self, buffer: Buffer, tracer: Tracer | None = None) -> None:
        """Let ``buffer`` be taken again."""
        if tracer is not None:
            tracer.give_back(buffer)
            return
        self._free.setdefault(buffer.count, []).append(buffer)
