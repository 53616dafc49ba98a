"""The child's side of a race: builds one contestant, then runs it as often and as long as the parent says.

``python -m sparse_offline_rl.benchmarks.contestant SPECIFICATION`` (JSON) reads one JSON request a line on standard input and
answers each with one JSON line on what was standard output; anything that libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import pairwise
from typing import Any

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


class Unavailable(Exception):
    """This contestant cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Contestant:
    """``step`` is what is timed (None: nothing); ``facts`` is asked at the end for other findings, as JSON values."""

    step: Callable[[], object] | None = None
    facts: Callable[[], Mapping[str, Any]] = field(default=dict)


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def build(specification: Mapping[str, Any]) -> Contestant:
    """The contestant that ``specification`` names, on its cores. Raises Unavailable for a package that is not installed."""
    module, _, function = specification["contestant"].partition(":")
    try:
        maker = getattr(import_module(f"sparse_offline_rl.benchmarks.contestants.{module}"), function)
        if hasattr(os, "sched_setaffinity"):
            # After the imports, which may run anywhere, and before the first thread pool starts.
            os.sched_setaffinity(0, specification["cores"])
        contestant: Contestant = maker(**specification["arguments"])
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} is not installed") from error
    return contestant


class Stage:
    """Runs one contestant on request."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._calls = 1

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """``prepare`` (seconds) fixes the number of calls; ``run`` times them, together or ``each``; ``finish`` asks for facts."""
        if "prepare" in request:
            self._prepare(request["prepare"])
            return {"calls": self._calls}
        if "run" in request:
            return self._run_each() if request["run"] == "each" else self._run()
        return {"facts": dict(self._contestant.facts()), "peak_bytes": peak_bytes()}

    def _prepare(self, seconds: float) -> None:
        self._run()  # the first call compiles, allocates and fills caches
        while (taken := self._run()["seconds"]) < seconds / 4:
            self._calls *= 2
        self._calls = max(1, round(self._calls * seconds / taken))

    def _run(self) -> dict[str, Any]:
        step = self._contestant.step
        assert step is not None
        begin = time.perf_counter()
        for _ in range(self._calls):
            step()
        return {"calls": self._calls, "seconds": time.perf_counter() - begin}

    def _run_each(self) -> dict[str, Any]:
        step = self._contestant.step
        assert step is not None
        stamps = [time.perf_counter_ns()]
        for _ in range(self._calls):
            step()
            stamps.append(time.perf_counter_ns())
        each = [after - before for before, after in pairwise(stamps)]
        return {"calls": self._calls, "seconds": sum(each) / 1e9, "each_ns": each}


def main() -> None:
    """Entry point of the child process."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: Mapping[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        stage = Stage(build(json.loads(sys.argv[1])))
    except Unavailable as error:
        send({"missing": str(error)})
        return
    send({"ready": True})
    for line in sys.stdin:
        send(stage.answer(json.loads(line)))


if __name__ == "__main__":
    main()
