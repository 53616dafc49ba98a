"""How a batch is cut into tiles, and the tiles into chunks: what one call of a kernel works on."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.costs import CACHE_BYTES
from sparse_offline_rl.engines.sparse.tables import (
    LANES,
    MAX_VECTORS,
    TILE_BYTES,
    TILE_OFFSET,
    TILE_ROW,
    TILE_VECTORS,
    VECTOR_BYTES,
    WORD_BYTES,
    Address,
    Bytes,
    Count,
)

# Chunks for each thread where no sum depends on their number: more of them leave a thread idle for a shorter time.
CHUNKS_PER_THREAD = 4
_NARROW_VECTORS = 4  # of a tile where a batch takes several
_MIN_VECTORS = 3  # narrower tiles sum in another order (intrinsics.accumulate), and results must not depend on threads

_OFFSET, _VECTORS, _ROW = (byte // WORD_BYTES for byte in (TILE_OFFSET, TILE_VECTORS, TILE_ROW))


class Chunk(NamedTuple):
    """Neighbouring tiles: where their table begins, and which part of the batch and of a workspace belongs to them."""

    address: Address  # of the table
    length: Count  # tiles
    first_row: Count
    rows: Count
    vectors: Count
    offset: Bytes  # in the workspace
    bytes: Bytes


@dataclass(frozen=True)
class Tiles:
    """The tiles of a batch, as a table ``[count, 3]``: byte offset in a workspace, vectors and first row of each."""

    table: NDArray[np.int64]
    batch: int
    unit_bytes: int  # of one vector of every stored unit
    vectors: int  # of the whole batch
    group: int  # tiles whose activations fit the cache together
    threads: int  # that can share the tiles
    _chunks: dict[int, tuple[Chunk, ...]] = field(default_factory=dict)

    def chunks(self, count: int) -> tuple[Chunk, ...]:
        """All tiles in order, in at most ``count`` chunks that are as even as possible."""
        found = self._chunks.get(count)
        if found is None:
            length = len(self.table)
            ends = [length * i // count for i in range(count + 1)]
            chunks = (self._chunk(begin, end) for begin, end in pairwise(ends) if begin < end)
            found = self._chunks.setdefault(count, tuple(chunks))
        return found

    def _chunk(self, begin: int, end: int) -> Chunk:
        first, last = self.table[begin], self.table[end - 1]
        first_row = int(first[_ROW])
        vectors = int(last[_ROW]) // LANES + int(last[_VECTORS]) - first_row // LANES
        return Chunk(
            address=self.table.ctypes.data + TILE_BYTES * begin,
            length=end - begin,
            first_row=first_row,
            rows=min(self.batch, first_row + LANES * vectors) - first_row,
            vectors=vectors,
            offset=int(first[_OFFSET]),
            bytes=self.unit_bytes * vectors,
        )


def cut(batch: int, units: int, threads: int) -> Tiles:
    """Tiles of ``batch`` rows of a network with ``units`` stored units, for at most ``threads`` threads."""
    vectors, unit_bytes = -(-batch // LANES), VECTOR_BYTES * units
    widths = np.array(_widths(vectors, threads), np.int64)
    starts = np.cumsum(widths) - widths
    table = np.ascontiguousarray(np.stack([unit_bytes * starts, widths, LANES * starts], 1))
    group = max(1, CACHE_BYTES // max(1, unit_bytes * int(widths.max())))
    return Tiles(
        table=table,
        batch=batch,
        unit_bytes=unit_bytes,
        vectors=vectors,
        group=min(len(table), group),
        threads=min(threads, len(table)),
    )


def _widths(vectors: int, threads: int) -> list[int]:
    """Vectors of each tile, as even as possible.

    Up to 7 vectors (batch 112) are one tile, whose sums fit the registers. Beyond, tiles of 4 were fastest: narrower ones
    spend more on indices, wider ones miss the cache more often.
    """
    tiles = -(-vectors // (_NARROW_VECTORS if vectors > MAX_VECTORS else MAX_VECTORS))
    if vectors >= _MIN_VECTORS * threads:
        tiles = min(-(-tiles // threads) * threads, vectors // _MIN_VECTORS)
    return [vectors * (i + 1) // tiles - vectors * i // tiles for i in range(tiles)]
