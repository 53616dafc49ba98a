"""The kernels by name: the one place that lists them. Dispatch, parallel runs, tracing and scheduling follow from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from sparse_offline_rl.engines.sparse.broadcast_kernels import candidates, state_only
from sparse_offline_rl.engines.sparse.kernels import add, backward, forward, single

FIRST_OPCODE = 64


class Kernel(NamedTuple):
    """A compiled function of 64-bit words that runs on one thread."""

    name: str
    opcode: int
    function: Callable[..., None]
    words: tuple[str, ...]  # its parameters

    def position(self, word: str) -> int:
        """Which of the words of a call is the parameter of that name."""
        return self.words.index(word)


def _kernel(opcode: int, function: Any) -> Kernel:
    python = function.py_func
    return Kernel(python.__name__, opcode, function, tuple(inspect.signature(python).parameters))


_FUNCTIONS = (forward, backward, single, add, state_only, candidates)
KERNELS = {
    kernel.name: kernel for kernel in (_kernel(FIRST_OPCODE + i, function) for i, function in enumerate(_FUNCTIONS))
}
