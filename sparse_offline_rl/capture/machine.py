"""Executes a program: one compiled call for a whole update.

``SOURCES`` is a digest of the files that these functions are compiled from; see :mod:`sparse_offline_rl.sparse.kernels`.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types

from sparse_offline_rl.agents.adam_kernel import adam_step
from sparse_offline_rl.capture.codes import ARGUMENTS, THREADS, Call, Reduce
from sparse_offline_rl.capture.rows import map_row, reduce_row
from sparse_offline_rl.sparse.intrinsics import load_f32, load_i64, store_f32
from sparse_offline_rl.sparse.kernels import (
    backward_parallel,
    backward_serial,
    forward_parallel,
    forward_serial,
    forward_single,
)
from sparse_offline_rl.sparse.layout import parallel, serial
from sparse_offline_rl.sparse.simd import I64, intrinsic, load

SOURCES = "b84b77e0a00c7960"

_FORWARD, _BACKWARD = int(Call.FORWARD), int(Call.BACKWARD)
_ADAM, _INPUT = int(Call.ADAM), int(Call.INPUT)
_FORWARD_WORDS, _BACKWARD_WORDS = (0,) * ARGUMENTS[Call.FORWARD], (0,) * ARGUMENTS[Call.BACKWARD]
_SINGLE_WORDS = (0,) * ARGUMENTS[Call.SINGLE]
_FORWARD_THREADS, _BACKWARD_THREADS = THREADS[Call.FORWARD], THREADS[Call.BACKWARD]
_FIRST_REDUCTION, _FIRST_CALL = int(min(Reduce)), int(min(Call))


@intrinsic
def _pointer(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), codegen  # type: ignore[no-untyped-call]


@serial
def _floats(address: int, count: int) -> Any:
    return numba.carray(_pointer(address), (count,))  # type: ignore[attr-defined]


@serial
def _map(at: int) -> None:
    # The words are read once: LLVM cannot know that the rows do not overwrite them.
    code, rows, row, count = load_i64(at), load_i64(at + 16), load_i64(at + 24), load_i64(at + 32)
    out, out0, out1 = load_i64(at + 40), load_i64(at + 48), load_i64(at + 56)
    a, a0, a1, a2 = load_i64(at + 72), load_i64(at + 80), load_i64(at + 88), load_i64(at + 96)
    b, b0, b1, b2 = load_i64(at + 104), load_i64(at + 112), load_i64(at + 120), load_i64(at + 128)
    c, c0, c1, c2 = load_i64(at + 136), load_i64(at + 144), load_i64(at + 152), load_i64(at + 160)
    for i in range(rows):
        x, y, z, target = a + i * a0, b + i * b0, c + i * c0, out + i * out0
        for _ in range(row):
            map_row(code, count, target, x, a2, y, b2, z, c2)
            target, x, y, z = target + out1, x + a1, y + b1, z + c1


@serial
def _reduce(at: int) -> None:
    out, a, scale = load_i64(at + 40), load_i64(at + 64), load_f32(load_i64(at + 96))
    for i in range(load_i64(at + 16)):
        for j in range(load_i64(at + 24)):
            row = a + i * load_i64(at + 72) + j * load_i64(at + 80)
            total = reduce_row(load_i64(at), load_i64(at + 32), row, load_i64(at + 88))
            store_f32(out + i * load_i64(at + 48) + j * load_i64(at + 56), scale * total)


@serial
def _input(at: int) -> None:
    rows, columns, target = load_i64(at + 16), load_i64(at + 24), load_i64(at + 32)
    source, stride = load_i64(load_i64(at + 40)), load_i64(load_i64(at + 40) + 8)
    for row in range(rows):
        map_row(0, columns, target + 4 * columns * row, source + stride * row, 4, source, 0, source, 0)


@serial
def _adam(at: int, part: int, parts: int) -> None:
    """One of ``parts`` equal parts of an optimiser's step."""
    first = load_i64(at + 56) * part // parts
    count, skipped = load_i64(at + 56) * (part + 1) // parts - first, 4 * first
    parameters, exp_avg = _floats(load_i64(at + 16) + skipped, count), _floats(load_i64(at + 24) + skipped, count)
    exp_avg_sq, gradients = _floats(load_i64(at + 32) + skipped, count), _floats(load_i64(at + 40) + skipped, count)
    adam_step(parameters, exp_avg, exp_avg_sq, gradients, _floats(load_i64(at + 48), 3))


@parallel
def _adam_parallel(at: int) -> None:
    parts = load_i64(at + 64)
    for part in numba.prange(parts):
        _adam(at, part, parts)


@intrinsic
def _arguments(typingctx: Any, at: Any, like: Any) -> Any:
    """The first words of an instruction, as many as the tuple ``like`` is long."""
    result = types.UniTuple(types.int64, like.count)  # type: ignore[no-untyped-call]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = [load(builder, builder.add(args[0], I64(16 + 8 * i)), I64, 8) for i in range(like.count)]
        return context.make_tuple(builder, result, words)

    return result(types.int64, like), codegen


@serial
def _small(code: int, at: int) -> None:
    """Every instruction that runs on one thread."""
    if code < _FIRST_REDUCTION:
        _map(at)
    elif code < _FIRST_CALL:
        _reduce(at)
    elif code == _ADAM:
        _adam(at, 0, 1)
    elif code == _INPUT:
        _input(at)
    else:
        forward_single(*_arguments(at, _SINGLE_WORDS))


@serial
def run_serial(program: int, count: int) -> None:
    """Execute ``count`` instructions from address ``program`` on, on this thread."""
    at = program
    for _ in range(count):
        code = load_i64(at)
        if code == _FORWARD:
            forward_serial(*_arguments(at, _FORWARD_WORDS))
        elif code == _BACKWARD:
            backward_serial(*_arguments(at, _BACKWARD_WORDS))
        else:
            _small(code, at)
        at += 8 * load_i64(at + 8)


@serial
def run_parallel(program: int, count: int) -> None:
    """:func:`run_serial`, with those kernels on several threads that were recorded so."""
    at = program
    for _ in range(count):
        code = load_i64(at)
        if code == _FORWARD:
            arguments = _arguments(at, _FORWARD_WORDS)
            if arguments[_FORWARD_THREADS] > 1:
                forward_parallel(*arguments)
            else:
                forward_serial(*arguments)
        elif code == _BACKWARD:
            arguments = _arguments(at, _BACKWARD_WORDS)
            if arguments[_BACKWARD_THREADS] > 1:
                backward_parallel(*arguments)
            else:
                backward_serial(*arguments)
        elif code == _ADAM and load_i64(at + 64) > 1:
            _adam_parallel(at)
        else:
            _small(code, at)
        at += 8 * load_i64(at + 8)
