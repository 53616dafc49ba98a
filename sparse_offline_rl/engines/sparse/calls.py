"""Runs calls of kernels: one after the other, side by side, or one after the other while a tracer listens.

An engine makes the calls of a batch once, a call for each chunk, however they are run. A tracer is told for each of them
which memory it reads and writes, so that it can schedule them on threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numba
import numpy as np

from sparse_offline_rl.compilation import parallel
from sparse_offline_rl.engines.sparse.dispatch import call_by_opcode
from sparse_offline_rl.engines.sparse.kernel_table import KERNELS, Kernel
from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES, WORD_BYTES, Address, Bytes, Count
from sparse_offline_rl.tracing import KernelCall, Region, Tracer

Span: TypeAlias = tuple[
    Address, Bytes, Count
]  # of a row-major matrix: address (0: none), bytes from row to row, columns
Spans: TypeAlias = tuple[Span, Span, Span]

_run_kernel = call_by_opcode({kernel.opcode: kernel.function for kernel in KERNELS.values()})


class Effects(NamedTuple):
    """What a call does to memory: what it reads and writes, its scratch by the name of the word, and about how long it takes."""

    reads: Sequence[Region]
    writes: Sequence[Region]
    scratch: Mapping[str, Bytes]
    nanoseconds: float


@parallel
def _run_side_by_side(opcode: int, calls: Address, call_bytes: Bytes, count: Count) -> None:
    for i in numba.prange(count):
        _run_kernel(opcode, calls + call_bytes * i)


def run(
    kernel: Kernel, calls: Sequence[Sequence[int]], effects: Callable[[int], Effects], tracer: Tracer | None
) -> None:
    """Run ``calls`` of a kernel, which must not depend on each other, on a thread each.

    With a ``tracer`` they run one after the other, and it is told of each call and of its ``effects``, a function of its number.
    """
    if tracer is not None:
        for i, words in enumerate(calls):
            kernel.function(*words)
            tracer.kernel(KernelCall(kernel.name, words, *effects(i)))
    elif len(calls) == 1:
        kernel.function(*calls[0])
    else:
        table = np.array(calls, np.int64)
        _run_side_by_side(kernel.opcode, table.ctypes.data, WORD_BYTES * table.shape[1], len(table))


def rows_of(spans: Sequence[Span], first: Count, count: Count) -> list[Region]:
    """Where ``count`` rows of some matrices lie."""
    return [
        (address + stride * first, stride * (count - 1) + FLOAT_BYTES * width)
        for address, stride, width in spans
        if address and width
    ]
