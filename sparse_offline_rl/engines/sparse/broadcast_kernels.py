"""Kernels of a :class:`~sparse_offline_rl.engines.sparse.split.SplitPlan`: its state-only part, then the part of each candidate.

The state-only part leaves a vector for each of its units and each block of states: the values of state-only units, and the
sums at which candidate units begin.
"""

from __future__ import annotations

from typing import Any

import numba

from sparse_offline_rl.compilation import serial
from sparse_offline_rl.engines.sparse.dispatch import call_with_width
from sparse_offline_rl.engines.sparse.indexed import gather_rows, row_onward, scatter_rows, store_splat
from sparse_offline_rl.engines.sparse.intrinsics import load_f32, load_i32, load_i64
from sparse_offline_rl.engines.sparse.tables import (
    FLOAT_BYTES,
    INDEX_BYTES,
    LANES,
    PART_BYTES,
    PART_IN_UNIT,
    PART_INDEX,
    PART_INITIAL,
    PART_LINEAR,
    PART_OUT_UNIT,
    PART_ROWS,
    PART_START,
    PART_SUMS,
    PART_UNIT,
    PART_VALUE,
    PLACED_BYTES,
    PLACED_FIRST,
    PLACED_OFFSET,
    PLACED_STRIDE,
    PLACED_VECTORS,
    SPLIT_HEADER_BYTES,
    SPLIT_OUTPUTS,
    SPLIT_UNITS,
    TILE_BYTES,
    TILE_OFFSET,
    TILE_ROW,
    TILE_VECTORS,
    VECTOR_BYTES,
    Address,
    Bytes,
    Count,
)

_ROWS_BYTES = LANES * INDEX_BYTES  # of the table that names the row in each lane of a vector


@serial
def _gather(source: Address, stride: Bytes, count: Count, rows: Address, target: Address, width: Count) -> None:
    """``count`` columns of the rows in ``rows`` into as many units of a tile of ``width`` vectors."""
    for i in range(width):
        for column in range(0, count, LANES):
            unit = target + VECTOR_BYTES * (width * column + i)
            block = source + FLOAT_BYTES * column
            gather_rows(block, stride, rows + _ROWS_BYTES * i, count - column, unit, VECTOR_BYTES * width)


@serial
def _scatter(source: Address, width: Count, rows: Address, target: Address, stride: Bytes, count: Count) -> None:
    """The inverse of :func:`_gather`."""
    for i in range(width):
        for column in range(0, count, LANES):
            unit = source + VECTOR_BYTES * (width * column + i)
            block = target + FLOAT_BYTES * column
            scatter_rows(unit, VECTOR_BYTES * width, count - column, block, stride, rows + _ROWS_BYTES * i)


@serial
def _rows(width: Any, record: Address, values: Address, base: Address, sums: Address, sum_bytes: Bytes) -> None:
    """Some rows of a layer, which begin at their biases or at sums of the state-only part."""
    unit_bytes = VECTOR_BYTES * len(width)
    unit, start, index = load_i64(record + PART_UNIT), load_i64(record + PART_START), load_i64(record + PART_INDEX)
    position, initial = load_i64(record + PART_VALUE), load_i64(record + PART_INITIAL)
    x = base + unit_bytes * load_i64(record + PART_IN_UNIT)
    out = base + unit_bytes * load_i64(record + PART_OUT_UNIT)
    first_sum = load_i64(record + PART_SUMS)
    floor = numba.float32(-numba.float32(float("inf")) if load_i64(record + PART_LINEAR) else 0.0)
    for row in range(load_i64(record + PART_ROWS)):
        begin = load_i32(start + INDEX_BYTES * row)
        count = load_i32(start + INDEX_BYTES * (row + 1)) - begin
        target = out + unit_bytes * load_i32(unit + INDEX_BYTES * row)
        first_value = target
        if first_sum < 0:
            store_splat(target, load_f32(values + FLOAT_BYTES * load_i32(initial + INDEX_BYTES * row)))
        else:
            first_value = sums + sum_bytes * (first_sum + load_i32(initial + INDEX_BYTES * row))
        columns, weights = index + INDEX_BYTES * begin, position + INDEX_BYTES * begin
        row_onward(width, first_value, x, columns, weights, values, count, floor, target)


@serial
def _records(
    vectors: Count, table: Address, values: Address, base: Address, sums: Address, sum_bytes: Bytes
) -> None:  # fmt: skip
    """All records of a table on one tile."""
    for i in range(load_i64(table)):
        record = table + SPLIT_HEADER_BYTES + PART_BYTES * i
        call_with_width(_rows, vectors, (record, values, base, sums, sum_bytes))


@serial
def state_only(
    table: Address, values: Address, tiles: Address, tile_count: Count, sources: Address, work: Address,
    states: Address, stride: Bytes, width: Count,
) -> None:  # fmt: skip
    """The state-only part of some tiles: from ``width`` columns of the ``states`` to ``work``.

    ``sources`` is the table of the state in each lane of each vector.
    """
    for t in range(tile_count):
        tile = tiles + TILE_BYTES * t
        base, vectors = work + load_i64(tile + TILE_OFFSET), load_i64(tile + TILE_VECTORS)
        _gather(states, stride, width, sources + INDEX_BYTES * load_i64(tile + TILE_ROW), base, vectors)
        nothing = numba.int64(0)  # typed, because Numba would compile everything below once more for literals
        _records(vectors, table, values, base, nothing, nothing)


@serial
def candidates(
    table: Address, values: Address, tiles: Address, tile_count: Count, places: Address, sums: Address, work: Address,
    input1: Address, stride1: Bytes, width1: Count, input2: Address, stride2: Bytes, width2: Count, out: Address,
) -> None:  # fmt: skip
    """The candidates' part of some tiles, from what :func:`state_only` left at ``sums``, to rows of ``out`` ``[batch, outputs]``.

    ``places`` is the table of the row in each lane of each vector; ``work`` is scratch for one tile.
    """
    outputs = load_i64(table + SPLIT_OUTPUTS)
    for t in range(tile_count):
        tile = tiles + PLACED_BYTES * t
        vectors, rows = load_i64(tile + PLACED_VECTORS), places + _ROWS_BYTES * load_i64(tile + PLACED_FIRST)
        target = work
        for address, stride, width in ((input1, stride1, width1), (input2, stride2, width2)):
            _gather(address, stride, width, rows, target, vectors)
            target += VECTOR_BYTES * vectors * width
        _records(vectors, table, values, work, sums + load_i64(tile + PLACED_OFFSET), load_i64(tile + PLACED_STRIDE))
        result = work + VECTOR_BYTES * vectors * (load_i64(table + SPLIT_UNITS) - outputs)
        _scatter(result, vectors, rows, out, FLOAT_BYTES * outputs, outputs)
