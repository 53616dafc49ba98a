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

    words: Sequence[int]
    reads: Sequence[Region]
    writes: Sequence[Region]
    nanoseconds: float  # about
    scratch: Mapping[int, int] = field(default_factory=lambda: NO_SCRATCH)  # word -> bytes that its address needs


def dependencies(tasks: Sequence[Task]) -> list[dict[int, int]]:
    """For each task those before it whose result it uses or whose memory it writes, with the bytes that they share."""
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
                shared = np.minimum(others[:, 1], start + size) - np.maximum(others[:, 0], start)
                for row in np.flatnonzero((shared > 0) & earlier):
                    before[int(owners[row])] = max(before.get(int(owners[row]), 0), int(shared[row]))
        found.append(before)
    return found


def _table(regions: Sequence[Sequence[Region]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begin and end of every region, and which task it belongs to."""
    rows = [(start, start + size) for mine in regions for start, size in mine]
    owners = [i for i, mine in enumerate(regions) for _ in mine]
    return np.array(rows, np.int64).reshape(-1, 2), np.array(owners, np.int64)
