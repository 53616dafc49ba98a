"""Deals the tasks of a program to lanes, which run side by side.

A lane is what one thread executes, in a fixed order. Where a task needs the result of another lane, the lane waits until that
one has come far enough. Which task runs where is decided once, from estimates, so it can only change how long a program
takes: never what it computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_SYNC = 300.0  # ns until a lane sees what another one has done
_BYTES_PER_NS = 10.0  # between the caches of two cores
_TIE = 1000.0  # ns: of tasks that could start about now, the one with most work behind it goes first


@dataclass(frozen=True)
class Step:
    """A task in a lane: ``waits`` are other lanes and how many of their steps must be done before it."""

    task: int
    waits: Mapping[int, int]


def deal(costs: Sequence[float], needs: Sequence[Mapping[int, int]], lanes: int) -> tuple[list[list[Step]], float]:
    """Steps of each lane, and the time in ns that the whole is expected to take.

    ``needs[i]`` are the tasks before task i that it depends on, with the bytes that it shares with them.
    """
    return _Dealer(costs, needs, lanes).run()


class _Dealer:
    """Earliest task first: again and again the task that can start soonest, on the lane where it can."""

    def __init__(self, costs: Sequence[float], needs: Sequence[Mapping[int, int]], lanes: int) -> None:
        self._costs, self._needs = costs, needs
        self._followers: list[list[int]] = [[] for _ in costs]
        for task, before in enumerate(needs):
            for other in before:
                self._followers[other].append(task)
        self._rank = list(costs)  # time from the start of a task to the end of all, at best
        for task in reversed(range(len(costs))):
            self._rank[task] += max((self._rank[follower] for follower in self._followers[task]), default=0.0)
        self._free = np.zeros(lanes)
        self._ready: dict[int, FloatArray] = {}  # tasks whose needs are placed -> when each lane has all of these
        self._steps: list[list[Step]] = [[] for _ in range(lanes)]
        self._seen = [[0] * lanes for _ in range(lanes)]  # steps of the others that a lane has waited for
        self._place: dict[int, tuple[int, int, float]] = {}  # lane, position and end of a task

    def run(self) -> tuple[list[list[Step]], float]:
        """Deal all tasks."""
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
        """When each lane has everything that a task needs."""
        latest = np.zeros(len(self._free))
        for other, shared in self._needs[task].items():
            where, _, end = self._place[other]
            arrival = np.full(len(latest), end + _SYNC + shared / _BYTES_PER_NS)
            arrival[where] = end
            np.maximum(latest, arrival, out=latest)
        return latest

    def _choose(self) -> int:
        tasks = list(self._ready)
        soonest = np.maximum(np.stack(list(self._ready.values())), self._free).min(1)
        able = np.flatnonzero(soonest <= soonest.min() + _TIE)
        return min((tasks[i] for i in able), key=lambda task: (-self._rank[task], task))

    def _put(self, task: int) -> None:
        """On the lane that can start it first."""
        starts = np.maximum(self._ready.pop(task), self._free)
        lane = int(starts.argmin())
        waits: dict[int, int] = {}
        for other in self._needs[task]:
            where, position, _ = self._place[other]
            if where != lane and position + 1 > self._seen[lane][where]:
                waits[where] = max(waits.get(where, 0), position + 1)
        for where, count in waits.items():
            self._seen[lane][where] = count
        end = float(starts[lane]) + self._costs[task]
        self._place[task] = (lane, len(self._steps[lane]), end)
        self._steps[lane].append(Step(task, waits))
        self._free[lane] = end
