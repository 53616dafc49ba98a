"""How rows that come in repeats are laid into vectors: 16 lanes that share one vector of what is computed once.

``n`` distinct rows, each repeated ``r`` times one after the other, make ``n r`` rows. A *block* is up to 16 distinct rows in one
vector, each of them in ``16 / lanes`` places; every vector of its repeats holds the same rows in the same places, with other
repeats of them. So a sum that began in the block's vector goes on in all of them without a permutation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.layout import MAX_VECTORS
from sparse_offline_rl.engines.sparse.plan import IntArray
from sparse_offline_rl.engines.sparse.shares import cut
from sparse_offline_rl.engines.sparse.simd import LANES

_WIDTH = 5  # vectors of a tile


class Block(NamedTuple):
    """``rows`` distinct rows from ``first`` on, in vectors that hold ``lanes`` of them, a power of two."""

    first: int
    rows: int
    lanes: int

    def vectors(self, repeats: int) -> int:
        """Vectors that all repeats of these rows take."""
        return -(-repeats * self.lanes // LANES)


class Layout:
    """Where everything is for ``distinct`` rows, each repeated ``repeats`` times, of a network with so many stored units."""

    def __init__(self, distinct: int, repeats: int, shared_units: int, threads: int) -> None:
        self.distinct, self.repeats = distinct, repeats
        self.blocks = _blocks(distinct, repeats)
        self.shared = cut(LANES * len(self.blocks), shared_units, threads)
        self.sources = _int32([_lanes(block, 0, 1) for block in self.blocks])  # distinct row of each lane
        places = [_lanes(block, i, repeats) for block in self.blocks for i in range(block.vectors(repeats))]
        self.places = _int32(places)  # row of each lane of the repeats
        # Tiles [count, 4]: vectors, the first of them, and where the block's shared vectors are: offset, stride of a unit.
        self.tiles, self._starts = self._cut_repeats()

    def tiles_of(self, blocks: range) -> NDArray[np.int64]:
        """The tiles of some neighbouring blocks."""
        return self.tiles[self._starts[blocks.start] : self._starts[blocks.stop]]

    def rows_of(self, blocks: range) -> tuple[int, int]:
        """First of the repeated rows of some neighbouring blocks, and their number."""
        first, last = self.blocks[blocks.start], self.blocks[blocks.stop - 1]
        return first.first * self.repeats, (last.first + last.rows - first.first) * self.repeats

    def shared_bytes(self, blocks: range) -> tuple[int, int]:
        """Begin and end of those tiles of the shared part that hold some neighbouring blocks."""
        first, last = self._holder(blocks.start), self._holder(blocks.stop - 1)
        return int(first[0]), int(last[0] + self.shared.unit_bytes * last[1])

    def _holder(self, block: int) -> NDArray[np.int64]:
        """The tile of the shared part in which a block is."""
        table = self.shared.table
        tile: NDArray[np.int64] = table[int(np.searchsorted(table[:, 2], LANES * block, side="right")) - 1]
        return tile

    def _cut_repeats(self) -> tuple[NDArray[np.int64], list[int]]:
        rows: list[tuple[int, ...]] = []
        starts, first = [0], 0
        for i, block in enumerate(self.blocks):
            offset, width, lane = (int(word) for word in self._holder(i))
            place = offset + 4 * LANES * (i - lane // LANES)
            vectors = block.vectors(self.repeats)
            count = 1 if vectors <= MAX_VECTORS else -(-vectors // _WIDTH)
            for j in range(count):
                begin, end = vectors * j // count, vectors * (j + 1) // count
                rows.append((end - begin, first + begin, place, 4 * LANES * width))
            first += vectors
            starts.append(len(rows))
        return np.array(rows, np.int64), starts


def _blocks(distinct: int, repeats: int) -> list[Block]:
    full = distinct // LANES
    return [Block(LANES * i, LANES, LANES) for i in range(full)] + _tail(LANES * full, distinct % LANES, repeats)


def _tail(first: int, rows: int, repeats: int) -> list[Block]:
    """Fewer than 16 rows: padded to a power of two, or cut at one, whichever takes fewer vectors."""
    if rows == 0:
        return []
    lanes = 1 << (rows - 1).bit_length()
    padded = [Block(first, rows, lanes)]
    if lanes == rows:
        return padded
    cut_off = [Block(first, lanes // 2, lanes // 2), *_tail(first + lanes // 2, rows - lanes // 2, repeats)]
    return min(padded, cut_off, key=lambda blocks: sum(1 + block.vectors(repeats) for block in blocks))


def _lanes(block: Block, vector: int, repeats: int) -> IntArray:
    """Row in each lane of one of a block's vectors; lanes beyond the last row or repeat compute one twice."""
    lane = np.arange(LANES)
    row = block.first + np.minimum(lane % block.lanes, block.rows - 1)
    repeat = np.minimum(vector * (LANES // block.lanes) + lane // block.lanes, repeats - 1)
    return _int32(row * repeats + repeat)


def _int32(values: object) -> IntArray:
    return np.ascontiguousarray(values, np.int32)
