"""Which row is in which SIMD lane when the first input is broadcast: 16 lanes go on from one vector of what is computed once.

``n`` states, each with ``r`` candidates one after the other, make ``n r`` rows. A *block* is up to 16 states in one vector,
each of them in ``16 / lanes`` places. Every vector of candidates of a block holds the same states in the same places, each
with another candidate. So a sum that began in the block's vector goes on in all of them without a permutation.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.chunks import Chunk, cut
from sparse_offline_rl.engines.sparse.plan import IntArray
from sparse_offline_rl.engines.sparse.tables import LANES, MAX_VECTORS, PLACED_BYTES, VECTOR_BYTES

_WIDTH = 5  # vectors of a tile of candidates, where a block takes several tiles


class Block(NamedTuple):
    """``states`` states from ``first`` on, in vectors that hold ``lanes`` of them, a power of two."""

    first: int
    states: int
    lanes: int

    def vectors(self, candidates: int) -> int:
        """Vectors that all candidates of these states take."""
        return -(-candidates * self.lanes // LANES)


class Placement:
    """The tiles of ``states`` states with ``candidates`` candidates each, of a network that stores so many state-only units.

    ``sources`` ``[blocks, 16]`` is the state in each lane, ``places`` ``[vectors, 16]`` the row in each lane. ``state_only`` are the
    tiles of the state-only part, ``tiles`` ``[count, 4]`` those of the candidates (tables.py: ``PLACED_…``).
    """

    def __init__(self, states: int, candidates: int, state_only_units: int, threads: int) -> None:
        self.states, self.candidates = states, candidates
        self.blocks = _blocks(states, candidates)
        self.state_only = cut(LANES * len(self.blocks), state_only_units, threads)
        self.sources = _int32([_lanes(block, 0, 1) for block in self.blocks])
        places = [_lanes(block, i, candidates) for block in self.blocks for i in range(block.vectors(candidates))]
        self.places = _int32(places)
        self.tiles, self._starts = self._cut_candidates()
        self.source_address, self.place_address = self.sources.ctypes.data, self.places.ctypes.data
        self._tile_address = self.tiles.ctypes.data
        self._chunks: dict[int, tuple[Chunk, ...]] = {}

    def chunks(self, count: int) -> tuple[Chunk, ...]:
        """All tiles of candidates in at most ``count`` chunks of whole blocks.

        Their ``offset`` and ``bytes`` are what they read of the state-only part.
        """
        found = self._chunks.get(count)
        if found is None:
            count = min(count, len(self.blocks))
            ends = [len(self.blocks) * i // count for i in range(count + 1)]
            chunks = (self._chunk(begin, end) for begin, end in pairwise(ends))
            found = self._chunks.setdefault(count, tuple(chunks))
        return found

    def _chunk(self, begin: int, end: int) -> Chunk:
        first, last = self.blocks[begin], self.blocks[end - 1]
        start, stop = self._starts[begin], self._starts[end]
        reads, reads_last = self._holder(begin), self._holder(end - 1)
        return Chunk(
            address=self._tile_address + PLACED_BYTES * start,
            length=stop - start,
            first_row=first.first * self.candidates,
            rows=(last.first + last.states - first.first) * self.candidates,
            vectors=int(self.tiles[start:stop, 0].sum()),
            offset=int(reads[0]),
            bytes=int(reads_last[0] + self.state_only.unit_bytes * reads_last[1] - reads[0]),
        )

    def _holder(self, block: int) -> NDArray[np.int64]:
        """The tile of the state-only part in which a block is."""
        table = self.state_only.table
        tile: NDArray[np.int64] = table[int(np.searchsorted(table[:, 2], LANES * block, side="right")) - 1]
        return tile

    def _cut_candidates(self) -> tuple[NDArray[np.int64], list[int]]:
        """The tiles of candidates, and which of them is the first of each block."""
        rows: list[tuple[int, ...]] = []
        starts, first = [0], 0
        for i, block in enumerate(self.blocks):
            offset, width, first_lane = (int(word) for word in self._holder(i))
            place = offset + VECTOR_BYTES * (i - first_lane // LANES)
            vectors = block.vectors(self.candidates)
            count = 1 if vectors <= MAX_VECTORS else -(-vectors // _WIDTH)
            for j in range(count):
                begin, end = vectors * j // count, vectors * (j + 1) // count
                rows.append((end - begin, first + begin, place, VECTOR_BYTES * width))
            first += vectors
            starts.append(len(rows))
        return np.array(rows, np.int64), starts


def _blocks(states: int, candidates: int) -> list[Block]:
    full = states // LANES
    return [Block(LANES * i, LANES, LANES) for i in range(full)] + _tail(LANES * full, states % LANES, candidates)


def _tail(first: int, states: int, candidates: int) -> list[Block]:
    """Fewer than 16 states: padded to a power of two, or cut at one, whichever takes fewer vectors."""
    if states == 0:
        return []
    lanes = 1 << (states - 1).bit_length()
    padded = [Block(first, states, lanes)]
    if lanes == states:
        return padded
    cut_off = [Block(first, lanes // 2, lanes // 2), *_tail(first + lanes // 2, states - lanes // 2, candidates)]
    return min(padded, cut_off, key=lambda blocks: sum(1 + block.vectors(candidates) for block in blocks))


def _lanes(block: Block, vector: int, candidates: int) -> IntArray:
    """Row in each lane of one of a block's vectors; lanes beyond the last state or candidate compute one twice."""
    lane = np.arange(LANES)
    state = block.first + np.minimum(lane % block.lanes, block.states - 1)
    candidate = np.minimum(vector * (LANES // block.lanes) + lane // block.lanes, candidates - 1)
    return _int32(state * candidates + candidate)


def _int32(values: object) -> IntArray:
    return np.ascontiguousarray(values, np.int32)
