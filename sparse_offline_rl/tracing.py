"""Lets networks, kernels and optimisers tell a recorder what they do beside torch; see :mod:`sparse_offline_rl.engines.capture`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

Region = tuple[int, int]  # address and length in bytes


class KernelCall(NamedTuple):
    """A kernel that ran on one thread, and what somebody must know who runs it again beside others."""

    name: str
    arguments: Sequence[int]
    reads: Sequence[Region]
    writes: Sequence[Region]
    scratch: Mapping[int, int]  # arguments that are addresses of scratch memory, and how many bytes each needs
    nanoseconds: float  # about


class Recorder(Protocol):
    """What it is told, in the order in which things happen."""

    def reads(self, tensors: Sequence[Any]) -> None:
        """A kernel is about to read these."""

    def kernel(self, call: KernelCall) -> None:
        """A kernel ran."""

    def adam(self, optimizer: Any, gradients: Sequence[Any]) -> None:
        """An optimiser is about to step along these gradients."""

    def take(self, count: int) -> Any:
        """A buffer of at least ``count`` float32 that belongs to the recorder."""

    def give_back(self, buffer: Any) -> None:
        """A buffer of :meth:`take` is free again."""


class _State(threading.local):
    recorder: Recorder | None = None


_state = _State()


def recorder() -> Recorder | None:
    """The recorder that listens in this thread, if any."""
    return _state.recorder


@contextmanager
def listening(listener: Recorder) -> Iterator[None]:
    """Within the block ``listener`` is told of everything that happens in this thread."""
    _state.recorder = listener
    try:
        yield
    finally:
        _state.recorder = None
