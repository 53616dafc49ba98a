"""Lets networks, kernels and optimisers tell a tracer what they do beside torch; see :mod:`sparse_offline_rl.engines.capture`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

Region = tuple[int, int]  # address and length in bytes


class KernelCall(NamedTuple):
    """A call of a kernel on one thread, and what must be known to run it again beside others."""

    name: str
    words: Sequence[int]  # its arguments
    reads: Sequence[Region]
    writes: Sequence[Region]
    scratch: Mapping[str, int]  # words that are addresses of scratch memory, by name, and how many bytes each needs
    nanoseconds: float  # estimated


class Tracer(Protocol):
    """Is told what happens, in order."""

    def reads(self, tensors: Sequence[Any]) -> None:
        """A kernel is about to read these."""

    def kernel(self, call: KernelCall) -> None:
        """A kernel ran."""

    def steps_read(self) -> None:
        """Python asks how many steps an optimiser has taken."""

    def adam(self, optimizer: Any, gradients: Sequence[Any]) -> None:
        """An optimiser is about to step along these gradients."""

    def take(self, count: int) -> Any:
        """A buffer of at least ``count`` float32 that belongs to the tracer."""

    def give_back(self, buffer: Any) -> None:
        """A buffer of :meth:`take` is free again."""


class _State(threading.local):
    tracer: Tracer | None = None


_state = _State()


def current_tracer() -> Tracer | None:
    """The tracer that listens in this thread, if any."""
    return _state.tracer


@contextmanager
def tracing(tracer: Tracer) -> Iterator[None]:
    """Within the block ``tracer`` is told of everything that happens in this thread."""
    _state.tracer = tracer
    try:
        yield
    finally:
        _state.tracer = None
