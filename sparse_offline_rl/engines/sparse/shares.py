"""How a batch is cut into tiles, and the tiles into shares for threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.layout import MAX_VECTORS, TILE_BYTES
from sparse_offline_rl.engines.sparse.simd import LANES

SHARES = 4  # of a thread, where no sum depends on their number: small ones leave nobody waiting
_CACHE_BYTES = 1 << 20  # half of a core's second-level cache


class Share(NamedTuple):
    """Neighbouring tiles: where their table begins, and what of the batch and of a workspace is theirs."""

    address: int
    length: int
    first_row: int
    rows: int
    vectors: int
    offset: int  # in bytes
    bytes: int


class Tiles(NamedTuple):
    """How a batch is cut: ``table`` ``[count, 3]`` holds byte offset, vectors and first row of each tile."""

    table: NDArray[np.int64]
    address: int
    length: int
    vectors: int  # 16-column vectors of the whole batch
    width: int  # vectors of the widest tile
    group: int  # tiles whose activations fit the cache together
    threads: int  # that share the tiles
    batch: int
    unit_bytes: int  # of one vector of every unit

    def shares(self, count: int) -> Iterator[Share]:
        """All tiles in ``count`` parts, as even as possible, in order."""
        for i in range(count):
            begin, end = self.length * i // count, self.length * (i + 1) // count
            if begin == end:
                continue
            first_row, last = int(self.table[begin, 2]), self.table[end - 1]
            vectors = int(last[2]) // LANES + int(last[1]) - first_row // LANES
            rows = min(self.batch, first_row + LANES * vectors) - first_row
            address, offset = self.address + TILE_BYTES * begin, int(self.table[begin, 0])
            yield Share(address, end - begin, first_row, rows, vectors, offset, self.unit_bytes * vectors)


def cut(batch: int, units: int, threads: int) -> Tiles:
    """Tiles of ``batch`` rows of a network with ``units`` stored units, for at most ``threads`` threads."""
    vectors, unit_bytes = -(-batch // LANES), 4 * LANES * units
    widths = np.array(_widths(vectors, threads), np.int64)
    starts = np.cumsum(widths) - widths
    table = np.ascontiguousarray(np.stack([unit_bytes * starts, widths, LANES * starts], 1))
    width = int(widths.max())
    group = min(len(table), max(1, _CACHE_BYTES // max(1, unit_bytes * width)))
    threads = min(threads, len(table))
    return Tiles(table, table.ctypes.data, len(table), vectors, width, group, threads, batch, unit_bytes)


def _widths(vectors: int, threads: int) -> list[int]:
    """Vectors of each tile, as even as possible.

    Up to 7 vectors (batch 112) are one tile in registers; beyond, tiles of 4 were fastest: smaller ones spend more on
    indices, larger ones miss the cache more often. Threads share out tiles of 3 and more only: narrower ones sum in another
    order, and results must not depend on threads.
    """
    tiles = -(-vectors // (4 if vectors > MAX_VECTORS else MAX_VECTORS))
    if vectors >= 3 * threads:
        tiles = min(-(-tiles // threads) * threads, vectors // 3)
    return [vectors * (i + 1) // tiles - vectors * i // tiles for i in range(tiles)]
