"""How workers, threads that run side by side, wait for each other: counters in memory, read and written atomically.

The counters lie 128 bytes apart, beyond the pairs of cache lines that processors fetch together.
"""

from __future__ import annotations

import os
from typing import Any

from llvmlite import ir
from numba import types

from sparse_offline_rl.compilation import serial
from sparse_offline_rl.engines.sparse.simd import I64, intrinsic
from sparse_offline_rl.engines.sparse.tables import WORD_BYTES, Address, Count

COUNTER_BYTES = 128
_YIELD_EVERY = 1 << 14  # reads of a counter, some 20 µs
_PATIENCE = 1 << 22  # reads until a worker gives the others up, some milliseconds
ALL_HERE, LATE, ALONE = 0, 1, 2  # what a worker finds at the start
_ABANDONED = -(1 << 32)


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def _read(typingctx: Any, counter: Any) -> Any:
    """The counter; what was written before it was set can be read from now on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(builder, args[0]), "acquire", WORD_BYTES)

    return types.int64(types.int64), codegen


@intrinsic
def signal(typingctx: Any, counter: Any, value: Any) -> Any:
    """Set the counter, after everything that was written before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _word(builder, args[0]), "release", WORD_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def _count_up(typingctx: Any, counter: Any) -> Any:
    """Count up by one; what the counter was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(builder, args[0]), ir.Constant(I64, 1), "acq_rel")

    return types.int64(types.int64), codegen


@intrinsic
def _replace(typingctx: Any, counter: Any, old: Any, new: Any) -> Any:
    """Set the counter if it is ``old``; whether it was."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@serial
def _keep_core() -> int:
    return 0


# On Windows a worker that waits keeps its core.
_give_way: Any = types.ExternalFunction("sched_yield", types.int32()) if hasattr(os, "sched_yield") else _keep_core


@serial
def wait(counter: Address, value: int) -> None:
    """Until the counter is at least ``value``."""
    reads = 0
    while _read(counter) < value:
        reads += 1
        if reads % _YIELD_EVERY == 0:
            _give_way()


@serial
def meet(counter: Address, workers: Count) -> int:
    """Wait until all workers are here. A thread pool may run one worker after the other: then who came first is ``ALONE``."""
    if _count_up(counter) < 0:
        return LATE
    reads = 0
    while True:
        here = _read(counter)
        if here < 0:
            return LATE
        if here >= workers:
            return ALL_HERE
        reads += 1
        if reads % _YIELD_EVERY == 0:
            _give_way()
        if reads >= _PATIENCE and _replace(counter, here, _ABANDONED):
            return ALONE
