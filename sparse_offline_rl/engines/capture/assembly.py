"""From tasks to programs in memory: one for each lane, and one that does everything on one thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.capture.codes import Call
from sparse_offline_rl.engines.capture.interpreter import run_lanes, run_serial
from sparse_offline_rl.engines.capture.lanes import Step, deal
from sparse_offline_rl.engines.capture.sync import COUNTER_BYTES
from sparse_offline_rl.engines.capture.tasks import Task, dependencies
from sparse_offline_rl.engines.sparse.buffers import Buffer
from sparse_offline_rl.engines.sparse.plan import VECTOR_BYTES

_WORTH_IT = 0.9  # of the time on one thread: more saves nothing
_WORD_BYTES = 8

Words = NDArray[np.int64]


class Assembly:
    """An executable program: calling it runs every task once, on as many ``lanes`` as there are threads if that pays, else on one."""

    def __init__(self, tasks: Sequence[Task], threads: int) -> None:
        self.lanes = 1
        steps: list[list[Step]] = []
        costs = [task.nanoseconds for task in tasks]
        if threads > 1:
            steps, expected = deal(costs, dependencies(tasks), threads)
            if expected < _WORTH_IT * sum(costs):
                self.lanes = threads
        scratch = [Buffer(_scratch_bytes(tasks) // 4) for _ in range(self.lanes)]
        self.words = _join([_placed(task, scratch[0]) for task in tasks])
        self._counters = np.zeros((self.lanes + 1, COUNTER_BYTES // _WORD_BYTES), np.int64)
        places = [row.ctypes.data for row in self._counters]
        self._meeting = places[-1]
        programs = [(self.words, len(tasks))]  # the last one is for one thread
        if self.lanes > 1:
            programs = [*_programs(tasks, steps, scratch, places), *programs]
        self._table = np.array([(words.ctypes.data, count) for words, count in programs], np.int64)
        self._address, self._count = self._table.ctypes.data, len(tasks)
        self._program = self.words.ctypes.data
        self._kept = (programs, scratch)

    def __call__(self) -> None:
        """Run it."""
        if self.lanes == 1:
            run_serial(self._program, self._count)
        else:
            self._counters.fill(0)
            run_lanes(self._address, self.lanes, self._meeting)


def _programs(
    tasks: Sequence[Task], steps: Sequence[Sequence[Step]], scratch: Sequence[Buffer], counters: Sequence[int]
) -> Iterator[tuple[Words, int]]:
    """The words of each lane's program and how many instructions they are."""
    awaited = [set[int]() for _ in steps]
    for step in (step for lane in steps for step in lane):
        for lane, count in step.waits.items():
            awaited[lane].add(count)
    for lane, mine in enumerate(steps):
        instructions: list[Sequence[int]] = []
        for done, step in enumerate(mine, 1):
            instructions += [(Call.WAIT, 4, counters[other], count) for other, count in step.waits.items()]
            instructions.append(_placed(tasks[step.task], scratch[lane]))
            if done in awaited[lane]:
                instructions.append((Call.SIGNAL, 4, counters[lane], done))
        yield _join(instructions), len(instructions)


def _aligned(size: int) -> int:
    return -(-size // VECTOR_BYTES) * VECTOR_BYTES


def _scratch_bytes(tasks: Sequence[Task]) -> int:
    return max((sum(map(_aligned, task.scratch.values())) for task in tasks), default=0)


def _placed(task: Task, scratch: Buffer) -> list[int]:
    """The words of a task whose scratch memory is that of its lane."""
    words, address = list(task.words), scratch.address
    for position, size in task.scratch.items():
        words[position] = address
        address += _aligned(size)
    return words


def _join(instructions: Sequence[Sequence[int]]) -> Words:
    return np.array([word for words in instructions for word in words], np.int64)
