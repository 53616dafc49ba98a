"""List scheduling: which worker runs which task of a program, and in which order.

A worker is a thread that runs its tasks in a fixed order. Where a task needs the result of another worker, it waits until that
one has come far enough. The schedule is made once, from estimated times, so it can only change how long a program takes:
never what it computes. (Graham 1969; ranked by the longest path to the end, as in HEFT, Topcuoglu et al. 2002.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.costs import BYTES_PER_NS, SYNC_NS

FloatArray = NDArray[np.float64]

_TIE_NS = 1000.0  # of tasks that could start within this time, the one with the longest path to the end goes first


@dataclass(frozen=True)
class Step:
    """A task of a worker: ``waits`` are other workers and how many of their steps must be done before it."""

    task: int
    waits: Mapping[int, int]


def schedule(
    costs: Sequence[float], needs: Sequence[Mapping[int, int]], workers: int
) -> tuple[list[list[Step]], float]:
    """Steps of each worker, and the time in ns that the whole is expected to take.

    ``costs[i]`` is the time of task i in ns. ``needs[i]`` are the earlier tasks that it depends on, with the bytes that both touch.
    """
    return _Scheduler(costs, needs, workers).run()


class _Scheduler:
    """Again and again takes the task that can start soonest, on the worker where it can."""

    def __init__(self, costs: Sequence[float], needs: Sequence[Mapping[int, int]], workers: int) -> None:
        self._costs, self._needs = costs, needs
        self._followers: list[list[int]] = [[] for _ in costs]
        for task, before in enumerate(needs):
            for other in before:
                self._followers[other].append(task)
        self._rank = list(costs)  # time from the start of a task to the end of all, at best
        for task in reversed(range(len(costs))):
            self._rank[task] += max((self._rank[follower] for follower in self._followers[task]), default=0.0)
        self._free = np.zeros(workers)  # when each worker has done what it was given
        self._ready: dict[int, FloatArray] = {}  # tasks whose needs are placed -> when each worker has all of these
        self._steps: list[list[Step]] = [[] for _ in range(workers)]
        self._seen = [[0] * workers for _ in range(workers)]  # steps of the others that a worker has waited for
        self._place: dict[int, tuple[int, int, float]] = {}  # worker, position and end of a task

    def run(self) -> tuple[list[list[Step]], float]:
        """Place all tasks."""
        missing = [len(before) for before in self._needs]
        for task, count in enumerate(missing):
            if count == 0:
                self._ready[task] = self._arrivals(task)
        while self._ready:
            task = self._choose()
            self._put(task)
            for follower in self._followers[task]:
                missing[follower] -= 1
                if missing[follower] == 0:
                    self._ready[follower] = self._arrivals(follower)
        return self._steps, float(self._free.max())

    def _arrivals(self, task: int) -> FloatArray:
        """When each worker has everything that a task needs."""
        latest = np.zeros(len(self._free))
        for other, size in self._needs[task].items():
            worker, _, end = self._place[other]
            arrival = np.full(len(latest), end + SYNC_NS + size / BYTES_PER_NS)
            arrival[worker] = end
            np.maximum(latest, arrival, out=latest)
        return latest

    def _choose(self) -> int:
        tasks = list(self._ready)
        soonest = np.maximum(np.stack(list(self._ready.values())), self._free).min(1)
        able = np.flatnonzero(soonest <= soonest.min() + _TIE_NS)
        return min((tasks[i] for i in able), key=lambda task: (-self._rank[task], task))

    def _put(self, task: int) -> None:
        """On the worker that can start it first."""
        starts = np.maximum(self._ready.pop(task), self._free)
        worker = int(starts.argmin())
        waits: dict[int, int] = {}
        for other in self._needs[task]:
            holder, position, _ = self._place[other]
            if holder != worker and position + 1 > self._seen[worker][holder]:
                waits[holder] = max(waits.get(holder, 0), position + 1)
        for holder, count in waits.items():
            self._seen[worker][holder] = count
        end = float(starts[worker]) + self._costs[task]
        self._place[task] = (worker, len(self._steps[worker]), end)
        self._steps[worker].append(Step(task, waits))
        self._free[worker] = end
