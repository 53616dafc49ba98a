"""Settings of the whole process: threads, determinism, memory, signals."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch

from sparse_offline_rl.cores import usable_cores
from sparse_offline_rl.errors import UserError

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # glibc's malloc.h
_stopped = threading.Event()


def prepare_process(threads: int) -> None:
    """Set the number of CPU threads, deterministic algorithms, and an allocator that keeps large buffers.

    Raises UserError for more threads than there are cores: they would only wait for each other, and some thousands of
    them crash torch or hang.
    """
    if threads > usable_cores():
        raise UserError(
            f"threads={threads}: this process may use {usable_cores()} cores: give a number between 1 and {usable_cores()}."
        )
    # cuBLAS is deterministic only with a fixed workspace, which it reads when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(
        True
    )  # moments of idle weights decay into denormal numbers, which are slow to compute with
    # Not use_deterministic_algorithms, which imports torch's compiler, for seconds, to set the same flag there.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs a pass over every buffer
    if sys.platform == "linux":
        # Activations of 3 MB would go back to the system after every update and fault in again page by page.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that every glibc accepts
            mallopt(_M_TRIM_THRESHOLD, 1 << 30)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C or SIGTERM only sets a flag, so that an update is never cut in two.

    Yields a function that tells whether the flag is set. A second signal acts as usual, and one that is ignored, as
    Ctrl-C is under ``nohup … &``, stays so.
    """
    _stopped.clear()
    previous: dict[int, Any] = {}

    def stop(number: int, _frame: FrameType | None) -> None:
        _stopped.set()
        with suppress(OSError):  # and print() is not safe in a signal handler
            os.write(2, b"\nstopping after this step; once more to stop at once\n")
        signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        previous = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    try:
        for number in previous:
            signal.signal(number, stop)
        yield _stopped.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_was_requested() -> bool:
    """Whether a signal came within the last :func:`stop_on_signal`, be it too late to stop anything."""
    return _stopped.is_set()
