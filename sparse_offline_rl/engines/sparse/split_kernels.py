"""Forward of a :class:`~sparse_offline_rl.engines.sparse.split.SplitPlan`: its shared part once, then its own part for every repeat.

Addresses and counts are ``int64``, as in :mod:`.kernels`. The shared part leaves a vector for each unit and block of rows: the
values of shared units, and the sums at which own units begin.
"""

from __future__ import annotations

from typing import Any

import numba

from sparse_offline_rl.compilation import parallel, serial
from sparse_offline_rl.engines.sparse.dispatch import call_with_width
from sparse_offline_rl.engines.sparse.indexed import gather_rows, row_onward, scatter_rows, store_splat
from sparse_offline_rl.engines.sparse.intrinsics import load_f32, load_i32, load_i64
from sparse_offline_rl.engines.sparse.layout import TILE_BYTES

# Byte offsets: a table is a number of records, of stored units and of outputs, then the records, each some rows of a layer.
_UNITS, _OUTPUTS, _HEADER_BYTES = 8, 16, 24
_ROWS, _UNIT, _START, _INDEX, _VALUE, _BEGIN, _IN_UNIT, _OUT_UNIT, _SUMS, _LINEAR = range(0, 80, 8)
_RECORD_BYTES = 80
_PLACE_BYTES = 32  # vectors, the first of them, offset and stride of a unit in the shared part


@serial
def _gather(source: int, stride: int, count: int, rows: int, target: int, width: int) -> None:
    for i in range(width):
        for column in range(0, count, 16):
            unit = target + 64 * (width * column + i)
            gather_rows(source + 4 * column, stride, rows + 64 * i, count - column, unit, 64 * width)


@serial
def _scatter(source: int, width: int, rows: int, target: int, stride: int, count: int) -> None:
    for i in range(width):
        for column in range(0, count, 16):
            unit = source + 64 * (width * column + i)
            scatter_rows(unit, 64 * width, count - column, target + 4 * column, stride, rows + 64 * i)


@serial
def _rows(width: Any, record: int, values: int, base: int, sums: int, sum_bytes: int) -> None:
    """Some rows of a layer, from their biases or from sums of the shared part on."""
    unit_bytes = 64 * len(width)
    unit, start, index = load_i64(record + _UNIT), load_i64(record + _START), load_i64(record + _INDEX)
    position, begins = load_i64(record + _VALUE), load_i64(record + _BEGIN)
    x = base + unit_bytes * load_i64(record + _IN_UNIT)
    out = base + unit_bytes * load_i64(record + _OUT_UNIT)
    first_sum = load_i64(record + _SUMS)
    floor = numba.float32(-numba.float32(float("inf")) if load_i64(record + _LINEAR) else 0.0)
    for row in range(load_i64(record + _ROWS)):
        begin = load_i32(start + 4 * row)
        count = load_i32(start + 4 * row + 4) - begin
        target = out + unit_bytes * load_i32(unit + 4 * row)
        start_at = target
        if first_sum < 0:
            store_splat(target, load_f32(values + 4 * load_i32(begins + 4 * row)))
        else:
            start_at = sums + sum_bytes * (first_sum + load_i32(begins + 4 * row))
        row_onward(width, start_at, x, index + 4 * begin, position + 4 * begin, values, count, floor, target)


@serial
def _records(vectors: int, table: int, values: int, base: int, sums: int, sum_bytes: int) -> None:
    """All records of a table on one tile, whose number of vectors is known at run time only."""
    for i in range(load_i64(table)):
        record = table + _HEADER_BYTES + _RECORD_BYTES * i
        call_with_width(_rows, vectors, (record, values, base, sums, sum_bytes))


@serial
def shared_serial(
    table: int, values: int, tiles: int, tile_count: int, sources: int, work: int, a: int, stride: int, count: int
) -> None:
    """The shared part of some tiles: from ``count`` columns of the distinct rows at ``a`` to ``work``."""
    for t in range(tile_count):
        tile = tiles + TILE_BYTES * t
        base, width, lane = work + load_i64(tile), load_i64(tile + 8), load_i64(tile + 16)
        _gather(a, stride, count, sources + 4 * lane, base, width)
        nothing = numba.int64(0)  # typed, because Numba would compile everything below once more for literals
        _records(width, table, values, base, nothing, nothing)


@serial
def _repeat_tile(
    table: int, values: int, tile: int, places: int, shared: int, base: int, inputs: Any, out: int
) -> None:
    width, rows = load_i64(tile), places + 64 * load_i64(tile + 8)
    target = base
    for address, stride, count in inputs:
        _gather(address, stride, count, rows, target, width)
        target += 64 * width * count
    _records(width, table, values, base, shared + load_i64(tile + 16), load_i64(tile + 24))
    outputs = load_i64(table + _OUTPUTS)
    result = base + 64 * width * (load_i64(table + _UNITS) - outputs)
    _scatter(result, width, rows, out, 4 * outputs, outputs)


@serial
def repeats_serial(
    table: int, values: int, tiles: int, tile_count: int, places: int, shared: int, scratch: int,
    a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, threads: int, scratch_bytes: int,
) -> None:  # fmt: skip
    """The own part of some tiles, from what :func:`shared_serial` left at ``shared``, to rows of ``out`` ``[batch, outputs]``.

    ``threads`` and ``scratch_bytes`` are those of :func:`repeats_parallel`, whose arguments these are, and mean nothing here.
    """
    for t in range(tile_count):
        inputs = ((a1, s1, w1), (a2, s2, w2))
        _repeat_tile(table, values, tiles + _PLACE_BYTES * t, places, shared, scratch, inputs, out)


@parallel
def repeats_parallel(
    table: int, values: int, tiles: int, tile_count: int, places: int, shared: int, scratch: int,
    a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, threads: int, scratch_bytes: int,
) -> None:  # fmt: skip
    """:func:`repeats_serial` with the tiles dealt to ``threads`` threads, each with ``scratch_bytes`` of its own."""
    for thread in numba.prange(threads):
        inputs = ((a1, s1, w1), (a2, s2, w2))  # here: a parallel region takes scalars only
        for t in range(tile_count * thread // threads, tile_count * (thread + 1) // threads):
            base = scratch + scratch_bytes * thread
            _repeat_tile(table, values, tiles + _PLACE_BYTES * t, places, shared, base, inputs, out)
