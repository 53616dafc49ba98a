"""From tasks to programs in memory: one for each worker, and one that does everything on one thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.capture.interpreter import run_serial, run_workers
from sparse_offline_rl.engines.capture.opcodes import Call
from sparse_offline_rl.engines.capture.schedule import Step, schedule
from sparse_offline_rl.engines.capture.tasks import Task, dependencies, instruction
from sparse_offline_rl.engines.capture.workers import COUNTER_BYTES
from sparse_offline_rl.engines.sparse.buffers import Buffer
from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES, VECTOR_BYTES, WORD_BYTES

# Several workers run a program that is expected to take at most this part of its time on one thread.
_MAX_TIME_FOR_WORKERS = 0.9

Words = NDArray[np.int64]


class Executable:
    """Tasks as a program that can be called: it runs each task once, on ``workers`` workers: one for each thread, or one only."""

    def __init__(self, tasks: Sequence[Task], threads: int) -> None:
        self.workers = 1
        steps: list[list[Step]] = []
        costs = [task.nanoseconds for task in tasks]
        if threads > 1:
            steps, expected = schedule(costs, dependencies(tasks), threads)
            if expected < _MAX_TIME_FOR_WORKERS * sum(costs):
                self.workers = threads
        scratch = [Buffer(_scratch_bytes(tasks) // FLOAT_BYTES) for _ in range(self.workers)]
        self.words = _join([_placed(task, scratch[0]) for task in tasks])
        self._counters = np.zeros((self.workers + 1, COUNTER_BYTES // WORD_BYTES), np.int64)
        counters = [row.ctypes.data for row in self._counters]
        self._meeting = counters[-1]
        programs = [(self.words, len(tasks))]  # the last one is for one thread
        if self.workers > 1:
            programs = [*_programs(tasks, steps, scratch, counters), *programs]
        self._table = np.array([(words.ctypes.data, count) for words, count in programs], np.int64)
        self._address, self._count = self._table.ctypes.data, len(tasks)
        self._program = self.words.ctypes.data
        self._kept = (programs, scratch)

    def __call__(self) -> None:
        """Run it."""
        if self.workers == 1:
            run_serial(self._program, self._count)
        else:
            self._counters.fill(0)
            run_workers(self._address, self.workers, self._meeting)


def _programs(
    tasks: Sequence[Task], steps: Sequence[Sequence[Step]], scratch: Sequence[Buffer], counters: Sequence[int]
) -> Iterator[tuple[Words, int]]:
    """The words of each worker's program and how many instructions they are."""
    awaited = [set[int]() for _ in steps]  # by each worker's number, the numbers of its steps that others wait for
    for step in (step for worker in steps for step in worker):
        for worker, count in step.waits.items():
            awaited[worker].add(count)
    for worker, program in enumerate(steps):
        instructions: list[Sequence[int]] = []
        for done, step in enumerate(program, 1):
            waits = step.waits.items()
            instructions += [instruction(Call.WAIT, [counters[other], count]) for other, count in waits]
            instructions.append(_placed(tasks[step.task], scratch[worker]))
            if done in awaited[worker]:
                instructions.append(instruction(Call.SIGNAL, [counters[worker], done]))
        yield _join(instructions), len(instructions)


def _aligned(size: int) -> int:
    return -(-size // VECTOR_BYTES) * VECTOR_BYTES


def _scratch_bytes(tasks: Sequence[Task]) -> int:
    return max((sum(map(_aligned, task.scratch.values())) for task in tasks), default=0)


def _placed(task: Task, scratch: Buffer) -> list[int]:
    """The instruction of a task, with scratch memory of its worker."""
    words, address = list(task.words), scratch.address
    for position, size in task.scratch.items():
        words[position] = address
        address += _aligned(size)
    return instruction(task.opcode, words)


def _join(instructions: Sequence[Sequence[int]]) -> Words:
    return np.array([word for words in instructions for word in words], np.int64)
