"""Executes a program of instructions: one compiled call for a whole update."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types

from sparse_offline_rl.agents.adam_kernel import adam_step
from sparse_offline_rl.compilation import parallel, serial
from sparse_offline_rl.engines.capture.opcodes import Call, Map
from sparse_offline_rl.engines.capture.rows import map_row, reduce_row
from sparse_offline_rl.engines.capture.workers import ALONE, LATE, meet, signal, wait
from sparse_offline_rl.engines.sparse.dispatch import call_by_opcode
from sparse_offline_rl.engines.sparse.intrinsics import load_f32, load_i64, store_f32
from sparse_offline_rl.engines.sparse.kernel_table import KERNELS
from sparse_offline_rl.engines.sparse.simd import intrinsic
from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES, WORD_BYTES, Address, Bytes, Count

_COPY = int(Map.COPY)
_HEADER_BYTES = 2 * WORD_BYTES  # of an instruction: opcode and length
_FACTORS = 7  # numbers that Adam needs to know of a step


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), codegen  # type: ignore[no-untyped-call]


@serial
def _floats(address: Address, count: Count) -> Any:
    return numba.carray(_pointer(address), (count,))  # type: ignore[attr-defined]


@serial
def map_rows(
    function: int, n0: Count, n1: Count, n2: Count, out: Address, out0: Bytes, out1: Bytes, out2: Bytes,
    a: Address, a0: Bytes, a1: Bytes, a2: Bytes, b: Address, b0: Bytes, b1: Bytes, b2: Bytes,
    c: Address, c0: Bytes, c1: Bytes, c2: Bytes,
) -> None:  # fmt: skip
    """``out = f(a, b, c)`` for ``[n0, n1, n2]`` elements; each operand has a stride for each dimension, and ``out2`` is 4."""
    for i in range(n0):
        x = a + i * a0
        y = b + i * b0
        z = c + i * c0
        target = out + i * out0
        for _ in range(n1):
            map_row(function, n2, target, x, a2, y, b2, z, c2)
            target += out1
            x += a1
            y += b1
            z += c1


@serial
def reduce_rows(
    function: int, n0: Count, n1: Count, n2: Count, out: Address, out0: Bytes, out1: Bytes,
    a: Address, a0: Bytes, a1: Bytes, a2: Bytes, scale: Address,
) -> None:  # fmt: skip
    """``out[i, j] = scale · reduction over k of a[i, j, k]`` for ``[n0, n1, n2]`` elements of ``a``."""
    factor = load_f32(scale)
    for i in range(n0):
        for j in range(n1):
            total = reduce_row(function, n2, a + i * a0 + j * a1, a2)
            store_f32(out + i * out0 + j * out1, factor * total)


@serial
def copy_field(rows: Count, columns: Count, target: Address, source: Address) -> None:
    """Copy a field of the batch; ``source`` is where its address and its bytes from row to row stand."""
    field, stride = load_i64(source), load_i64(source + WORD_BYTES)
    for row in range(rows):
        place = field + stride * row
        map_row(_COPY, columns, target + FLOAT_BYTES * columns * row, place, FLOAT_BYTES, field, 0, field, 0)


@serial
def adam(
    parameters: Address, exp_avg: Address, exp_avg_sq: Address, gradients: Address, factors: Address, count: Count
) -> None:
    """A step of Adam on ``count`` parameters."""
    adam_step(
        _floats(parameters, count),
        _floats(exp_avg, count),
        _floats(exp_avg_sq, count),
        _floats(gradients, count),
        _floats(factors, _FACTORS),
    )


@serial
def set_counter(counter: Address, value: int) -> None:
    """Let workers that wait for ``value`` go on."""
    signal(counter, value)


_run_instruction = call_by_opcode(
    {
        int(Call.MAP): map_rows,
        int(Call.REDUCE): reduce_rows,
        int(Call.INPUT): copy_field,
        int(Call.ADAM): adam,
        int(Call.SIGNAL): set_counter,
        int(Call.WAIT): wait,
        **{kernel.opcode: kernel.function for kernel in KERNELS.values()},
    }
)


@serial
def run_serial(program: Address, count: Count) -> None:
    """Execute ``count`` instructions from ``program`` on, on this thread."""
    instruction = program
    for _ in range(count):
        _run_instruction(load_i64(instruction), instruction + _HEADER_BYTES)
        instruction += WORD_BYTES * load_i64(instruction + WORD_BYTES)


@parallel
def run_workers(table: Address, workers: Count, meeting: Address) -> None:
    """Execute a program for each worker, side by side; ``meeting`` is a counter that was set to 0.

    ``table`` holds address and number of instructions of the workers' programs, then those of one program that does the same
    on one thread, for when the thread pool has not as many threads to give.
    """
    for worker in numba.prange(workers):
        found = meet(meeting, workers)
        if found != LATE:
            entry = table + 2 * WORD_BYTES * (workers if found == ALONE else worker)
            run_serial(load_i64(entry), load_i64(entry + WORD_BYTES))
