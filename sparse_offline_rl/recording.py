"""Lets compiled kernels tell a recorder of their calls; see :mod:`sparse_offline_rl.capture`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Recorder(Protocol):
    """What the kernels tell, in the order in which things happen."""

    def kernel(self, name: str, arguments: Sequence[int]) -> None:
        """A kernel ran on these addresses and counts."""

    def adam(self, optimizer: Any, gradients: Sequence[Any]) -> None:
        """An optimiser stepped along these gradients."""

    def take(self, count: int) -> Any:
        """A scratch buffer of at least ``count`` float32 that belongs to the recorder, or None."""

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
    """Within the block ``listener`` is told of every kernel call of this thread."""
    _state.recorder = listener
    try:
        yield
    finally:
        _state.recorder = None
