"""The parent's side of a race: one process a contestant, all alive at once, timed in turn, round after round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from sparse_offline_rl.benchmarks.machine import cores

_ROOT = Path(__file__).parents[2]
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_PATIENCE = 10.0  # seconds for a process to leave by itself


@dataclass(frozen=True)
class Entry:
    """One process: ``contestant`` is ``module:function`` below ``contestants``, called with ``arguments``."""

    contestant: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    core: int = 0  # the first of its cores, counted among those that this process may use
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What one line of a race did; ``missing`` says why it has no figures."""

    missing: str | None = None
    rates: list[float] = field(default_factory=list)  # calls a second of each round, added over the team
    each_ns: list[int] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # of the first of the team
    peak_bytes: int = 0
    start_seconds: float = 0.0  # from launch to ready

    @property
    def rate(self) -> float | None:
        """Median calls a second."""
        return statistics.median(self.rates) if self.rates else None

    @property
    def milliseconds(self) -> float | None:
        """Median time of a call."""
        return 1e3 / self.rate if self.rate else None

    def percentile(self, percent: float) -> float | None:
        """Time in µs that ``percent`` of the single calls stayed below."""
        if not self.each_ns:
            return None
        ordered = sorted(self.each_ns)
        return ordered[min(len(ordered) - 1, round(percent / 100 * len(ordered)))] / 1e3


class _Lost(Exception):
    """A contestant is missing or has failed; the message says which."""


class _Worker:
    """A contestant's process."""

    def __init__(self, entry: Entry) -> None:
        own = cores()
        if entry.core + entry.threads > len(own):
            raise _Lost(f"needs {entry.core + entry.threads} cores")
        chosen = own[entry.core : entry.core + entry.threads]
        specification = {"contestant": entry.contestant, "arguments": dict(entry.arguments), "cores": chosen}
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(entry.threads)), **entry.environment}
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._begin = time.perf_counter()
        command = [entry.python, "-m", "sparse_offline_rl.benchmarks.contestant", json.dumps(specification)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment
            )
        except OSError as error:
            self._errors.close()
            raise _Lost(f"its interpreter did not start: {error.strerror}") from error

    def __enter__(self) -> _Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._errors.close()
        try:
            self._process.communicate(timeout=_PATIENCE if kind is None else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def wait(self) -> float:
        """Seconds from launch until ready."""
        reply = self.receive()
        if "missing" in reply:
            raise _Lost(reply["missing"])
        return time.perf_counter() - self._begin

    def send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _Lost(self._last_words()) from None

    def receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise _Lost(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        self._process.wait(_PATIENCE)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return f"failed: {lines[-1][:200]}" if lines else f"failed with status {self._process.returncode}"


class _Team:
    """The processes of one line, which run side by side."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._workers: list[_Worker] = []

    def launch(self, entries: Iterable[Entry], stack: ExitStack) -> None:
        self._guard(lambda: self._workers.extend(stack.enter_context(_Worker(entry)) for entry in entries))

    def get_ready(self) -> None:
        def wait() -> None:
            self.outcome.start_seconds = max(worker.wait() for worker in self._workers)

        self._guard(wait)

    def prepare(self, seconds: float) -> None:
        self._guard(lambda: self._together({"prepare": seconds}))

    def run(self, each: bool) -> None:
        def run() -> None:
            replies = self._together({"run": "each" if each else "all"})
            self.outcome.rates.append(sum(reply["calls"] / reply["seconds"] for reply in replies))
            self.outcome.each_ns += [time for reply in replies for time in reply.get("each_ns", ())]

        self._guard(run)

    def finish(self) -> None:
        def finish() -> None:
            replies = self._together({"finish": True})
            self.outcome.facts = replies[0]["facts"]
            self.outcome.peak_bytes = sum(reply["peak_bytes"] for reply in replies)

        self._guard(finish)

    def _together(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        for worker in self._workers:
            worker.send(request)
        return [worker.receive() for worker in self._workers]

    def _guard(self, action: Any) -> None:
        """Do ``action`` unless this line is lost already; a loss is kept for the table."""
        if self.outcome.missing is None:
            try:
                action()
            except _Lost as error:
                self.outcome = Outcome(missing=str(error))


def race(
    lines: Mapping[str, Sequence[Entry]], rounds: int, seconds: float, each: bool = False, at_once: bool = True
) -> dict[str, Outcome]:
    """Time every line ``rounds`` times for about ``seconds``, in turn.

    A line is one entry, or several that run at the same time. Without ``rounds`` the contestants are built and asked for
    their facts only. ``each`` times single calls. Without ``at_once`` each process starts when the one before it is ready,
    for contestants whose start is what counts.
    """
    teams = {name: _Team(Outcome()) for name in lines}
    with ExitStack() as stack:
        for name, team in teams.items():
            team.launch(lines[name], stack)
            if not at_once:
                team.get_ready()
        if at_once:
            for team in teams.values():
                team.get_ready()
        for team in teams.values() if rounds else ():
            team.prepare(seconds)
        for _ in range(rounds):
            for team in teams.values():
                team.run(each)
        for team in teams.values():
            team.finish()
    return {name: team.outcome for name, team in teams.items()}
