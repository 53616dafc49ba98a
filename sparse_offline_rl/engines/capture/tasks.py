"""What must wait for what: instructions as tasks that read and write memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.tracing import Region

NO_SCRATCH: Mapping[int, int] = {}


@dataclass(frozen=True)
class Task:
    """One instruction. It depends on nothing but the memory that it reads."""

    opcode: int
    words: Sequence[int]
    reads: Sequence[Region]
    writes: Sequence[Region]
    nanoseconds: float  # estimated
    scratch: Mapping[int, int] = field(default_factory=lambda: NO_SCRATCH)  # position of a word -> bytes at its address


def instruction(opcode: int, words: Sequence[int]) -> list[int]:
    """As the interpreter reads it: opcode, length, words."""
    return [int(opcode), 2 + len(words), *words]


def dependencies(tasks: Sequence[Task]) -> list[dict[int, int]]:
    """For each task the earlier ones whose result it uses or whose memory it writes, with the bytes that both touch."""
    reads, readers = _table([task.reads for task in tasks])
    writes, writers = _table([task.writes for task in tasks])
    found: list[dict[int, int]] = []
    for i, task in enumerate(tasks):
        before: dict[int, int] = {}
        for regions, others, owners in (
            (task.reads, writes, writers),
            (task.writes, writes, writers),
            (task.writes, reads, readers),
        ):
            earlier = owners < i
            for start, size in regions:
                overlap = np.minimum(others[:, 1], start + size) - np.maximum(others[:, 0], start)
                for row in np.flatnonzero((overlap > 0) & earlier):
                    before[int(owners[row])] = max(before.get(int(owners[row]), 0), int(overlap[row]))
        found.append(before)
    return found


def _table(regions: Sequence[Sequence[Region]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begin and end of every region, and which task it belongs to."""
    rows = [(start, start + size) for touched in regions for start, size in touched]
    owners = [i for i, touched in enumerate(regions) for _ in touched]
    return np.array(rows, np.int64).reshape(-1, 2), np.array(owners, np.int64)
