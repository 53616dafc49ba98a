"""Several workers that generate episodes; the result is the same for any number of them."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from sparse_offline_rl.cores import usable_cores
from sparse_offline_rl.datasets.rollouts import Episode
from sparse_offline_rl.datasets.worker import Job, Message, Setup
from sparse_offline_rl.errors import UserError

_STEPS_WORTH_A_PROCESS = 10_000  # below this a second process costs more than it saves
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    group: int  # what it works on


def run_episodes(
    setup: Setup, steps: int, report: Callable[[int], Any], processes: int | None = None
) -> Iterator[Episode]:
    """Episodes 0, 1, … of ``setup`` until they make up exactly ``steps``; the last one is cut there.

    ``report`` hears of steps taken. Raises :class:`UserError` when the environment fails or a worker dies.
    """
    count = processes or max(1, min(usable_cores(), steps // _STEPS_WORTH_A_PROCESS))
    messages: queue.Queue[tuple[_Worker, Message | None]] = queue.Queue()
    finished: dict[int, list[Episode]] = {}
    emitted, next_group, next_result = 0, 0, 0

    def dispatch(worker: _Worker) -> None:
        nonlocal next_group
        worker.group, next_group = next_group, next_group + 1
        _write(worker, Job(worker.group, steps - emitted))

    with tempfile.TemporaryFile() as log, _workers(setup, count, messages, log) as workers:
        for worker in workers:
            dispatch(worker)
        while emitted < steps:
            worker, message = messages.get()
            if isinstance(message, int):
                report(message)
            elif isinstance(message, list):
                finished[worker.group] = message
                while next_result in finished:
                    for episode in finished.pop(next_result):
                        if emitted < steps:
                            kept = episode.cut(steps - emitted)
                            emitted += len(kept)
                            yield kept
                    next_result += 1
                if emitted < steps:
                    dispatch(worker)
            else:
                reason = message or f"a worker ended with status {worker.process.wait()}: {_last_line(log)}"
                raise UserError(f"Generating data in {setup.env_id} failed: {reason.rstrip('.')}.")


@contextmanager
def _workers(
    setup: Setup, count: int, messages: queue.Queue[tuple[_Worker, Message | None]], log: IO[bytes]
) -> Iterator[list[_Worker]]:
    # One BLAS thread each: they share the cores already, and the rounding must not depend on the machine's core count.
    environ = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    command = [sys.executable, "-m", "sparse_offline_rl.datasets.worker"]
    workers: list[_Worker] = []
    readers: list[threading.Thread] = []
    try:
        for _ in range(count):
            process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
            worker = _Worker(process, -1)
            workers.append(worker)
            readers.append(threading.Thread(target=_listen, args=(worker, messages), daemon=True))
            readers[-1].start()
            _write(worker, setup)
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker, reader in zip(workers, readers, strict=True):
            reader.join()
            worker.process.wait()
            for stream in (worker.process.stdin, worker.process.stdout):
                assert stream is not None
                stream.close()


def _listen(worker: _Worker, messages: queue.Queue[tuple[_Worker, Message | None]]) -> None:
    assert worker.process.stdout is not None
    try:
        while True:
            messages.put((worker, pickle.load(worker.process.stdout)))
    except (EOFError, pickle.UnpicklingError):
        messages.put((worker, None))


def _write(worker: _Worker, value: Setup | Job) -> None:
    assert worker.process.stdin is not None
    try:
        pickle.dump(value, worker.process.stdin)
        worker.process.stdin.flush()
    except BrokenPipeError:
        return  # it died; its listener says so


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
