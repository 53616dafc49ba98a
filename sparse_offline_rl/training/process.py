"""Settings of the whole process: threads, determinism, memory, signals."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # glibc's malloc.h


def prepare_process(threads: int) -> None:
    """Set the number of CPU threads, deterministic algorithms, and an allocator that keeps large buffers."""
    # cuBLAS is deterministic only with a fixed workspace, which it reads when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(
        True
    )  # moments of idle weights decay into denormal numbers, which are slow to compute with
    torch.use_deterministic_algorithms(True)
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

    Yields a function that tells whether the flag is set. A second signal acts as usual.
    """
    stopped = threading.Event()
    previous: dict[int, Any] = {}

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        os.write(
            2, b"\nstopping after this step; once more to stop at once\n"
        )  # print() is not safe in a signal handler
        signal.signal(number, previous[number])

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
