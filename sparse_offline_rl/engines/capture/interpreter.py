"""Executes a program: one compiled call for a whole update."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types

from sparse_offline_rl.agents.adam_kernel import adam_step
from sparse_offline_rl.compilation import parallel, serial
from sparse_offline_rl.engines.capture.codes import ARGUMENTS, Call, Reduce
from sparse_offline_rl.engines.capture.rows import map_row, reduce_row
from sparse_offline_rl.engines.capture.sync import ALONE, LATE, meet, signal, wait
from sparse_offline_rl.engines.sparse.intrinsics import load_f32, load_i64, store_f32
from sparse_offline_rl.engines.sparse.kernels import add_serial, backward_serial, forward_serial, forward_single
from sparse_offline_rl.engines.sparse.simd import I64, intrinsic, load
from sparse_offline_rl.engines.sparse.split_kernels import repeats_serial, shared_serial

_FORWARD, _BACKWARD = int(Call.FORWARD), int(Call.BACKWARD)
_ADAM, _ADD, _INPUT = int(Call.ADAM), int(Call.ADD), int(Call.INPUT)
_SIGNAL, _WAIT = int(Call.SIGNAL), int(Call.WAIT)
_SHARED, _REPEATS = int(Call.SHARED), int(Call.REPEATS)
_FORWARD_WORDS, _BACKWARD_WORDS = (0,) * ARGUMENTS[Call.FORWARD], (0,) * ARGUMENTS[Call.BACKWARD]
_SINGLE_WORDS, _ADD_WORDS = (0,) * ARGUMENTS[Call.SINGLE], (0,) * ARGUMENTS[Call.ADD]
_SHARED_WORDS, _REPEATS_WORDS = (0,) * ARGUMENTS[Call.SHARED], (0,) * ARGUMENTS[Call.REPEATS]
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
def _adam(at: int) -> None:
    count = load_i64(at + 56)
    parameters, exp_avg = _floats(load_i64(at + 16), count), _floats(load_i64(at + 24), count)
    exp_avg_sq, gradients = _floats(load_i64(at + 32), count), _floats(load_i64(at + 40), count)
    adam_step(parameters, exp_avg, exp_avg_sq, gradients, _floats(load_i64(at + 48), 3))


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
    """Every instruction but the large ones."""
    if code < _FIRST_REDUCTION:
        _map(at)
    elif code < _FIRST_CALL:
        _reduce(at)
    elif code == _WAIT:
        wait(load_i64(at + 16), load_i64(at + 24))
    elif code == _SIGNAL:
        signal(load_i64(at + 16), load_i64(at + 24))
    elif code == _ADAM:
        _adam(at)
    elif code == _SHARED:
        shared_serial(*_arguments(at, _SHARED_WORDS))
    elif code == _ADD:
        add_serial(*_arguments(at, _ADD_WORDS))
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
        elif code == _REPEATS:
            repeats_serial(*_arguments(at, _REPEATS_WORDS))
        else:
            _small(code, at)
        at += 8 * load_i64(at + 8)


@parallel
def run_lanes(table: int, lanes: int, meeting: int) -> None:
    """Execute one program for each lane, side by side; ``meeting`` is a counter that was set to 0.

    ``table`` holds address and number of instructions of the lanes' programs, then those of one program that does the same
    on one thread, for when the thread pool has not as many threads to give.
    """
    for lane in numba.prange(lanes):
        found = meet(meeting, lanes)
        if found != LATE:
            place = table + 16 * (lanes if found == ALONE else lane)
            run_serial(load_i64(place), load_i64(place + 8))
