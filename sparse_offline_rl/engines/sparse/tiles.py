"""One tile of a batch through the layers: 16·V batch columns of every unit at a time."""

from __future__ import annotations

from typing import Any

import numba

from sparse_offline_rl.compilation import serial
from sparse_offline_rl.engines.sparse.dispatch import call_with_width
from sparse_offline_rl.engines.sparse.gradients import bias_gradients, weight_gradients
from sparse_offline_rl.engines.sparse.intrinsics import (
    load_f32,
    load_i32,
    load_i64,
    row_backward,
    row_forward,
    transpose,
)
from sparse_offline_rl.engines.sparse.tables import (
    BIAS,
    COLUMN_INDEX,
    COLUMN_START,
    COLUMN_UNIT,
    COLUMN_VALUE,
    COLUMNS,
    FIRST,
    HEADER_BYTES,
    IN_UNIT,
    OUT_UNIT,
    OUTPUTS,
    RECORD_BYTES,
    ROW_INDEX,
    ROW_START,
    ROW_UNIT,
    ROWS,
    UNITS,
)


@serial
def _pack(source: int, stride: int, count: int, target: int, width: int, first: int, batch: int) -> None:
    """Rows ``first`` … of a row-major matrix with ``count`` columns into as many units of a tile, zero beyond the batch."""
    for i in range(width):  # outside: 16 rows at a time touch few pages
        row = first + 16 * i
        rows = max(0, min(16, batch - row))
        for column in range(0, count, 16):
            block, unit = source + row * stride + 4 * column, target + 64 * (width * column + i)
            transpose(block, stride, rows, count - column, unit, 64 * width, count - column, 16)


@serial
def _unpack(source: int, width: int, first: int, batch: int, target: int, stride: int, count: int) -> None:
    """The inverse of :func:`_pack`: ``count`` units of a tile into the columns of a row-major matrix."""
    for i in range(width):
        row = first + 16 * i
        for column in range(0, count, 16):
            block, unit = target + row * stride + 4 * column, source + 64 * (width * column + i)
            transpose(unit, 64 * width, count - column, 16, block, stride, batch - row, count - column)


@serial
def _layer_forward(width: Any, record: int, values: int, base: int, last: bool) -> None:
    unit_bytes = 64 * len(width)
    first, start, index = load_i64(record + FIRST), load_i64(record + ROW_START), load_i64(record + ROW_INDEX)
    bias, unit = load_i64(record + BIAS), load_i64(record + ROW_UNIT)
    x = base + unit_bytes * load_i64(record + IN_UNIT)
    out = base + unit_bytes * load_i64(record + OUT_UNIT)
    floor = numba.float32(-numba.float32(float("inf")) if last else 0.0)
    for row in range(load_i64(record + ROWS)):
        begin = load_i32(start + 4 * row)
        count = load_i32(start + 4 * row + 4) - begin
        weights = values + 4 * load_i32(first + 4 * row)
        constant = load_f32(values + 4 * load_i32(bias + 4 * row))
        target = out + unit_bytes * load_i32(unit + 4 * row)
        row_forward(width, x, index + 4 * begin, weights, count, constant, floor, target)


@serial
def _layer_backward(width: Any, record: int, values: int, base: int, gated: int, low: int, high: int) -> None:
    """Gradient with respect to input units ``low`` … ``high - 1`` of a layer, gated by their ReLU or not, in their place."""
    unit_bytes = 64 * len(width)
    unit, start = load_i64(record + COLUMN_UNIT), load_i64(record + COLUMN_START)
    index, position = load_i64(record + COLUMN_INDEX), load_i64(record + COLUMN_VALUE)
    inputs, outputs = unit_bytes * load_i64(record + IN_UNIT), unit_bytes * load_i64(record + OUT_UNIT)
    for column in range(load_i64(record + COLUMNS)):
        target = load_i32(unit + 4 * column)
        if low <= target < high:
            begin = load_i32(start + 4 * column)
            count = load_i32(start + 4 * column + 4) - begin
            unit_at, where = base + inputs + unit_bytes * target, position + 4 * begin
            row_backward(width, base + outputs, index + 4 * begin, where, values, count, gated, unit_at)


@serial
def forward_tile(table: int, values: int, tile: int, base: int, batch: int, inputs: Any, out: int) -> None:
    width, first = load_i64(tile + 8), load_i64(tile + 16)
    target = base
    for address, stride, count in inputs:
        _pack(address, stride, count, target, width, first, batch)
        target += 64 * width * count
    layers = load_i64(table)
    for layer in range(layers):
        record = table + HEADER_BYTES + layer * RECORD_BYTES
        call_with_width(_layer_forward, width, (record, values, base, layer + 1 == layers))
    outputs = load_i64(table + OUTPUTS)
    result = base + 64 * width * (load_i64(table + UNITS) - outputs)
    _unpack(result, width, first, batch, out, 4 * outputs, outputs)


@serial
def begin_backward(table: int, tile: int, work: int, batch: int, grad: int, grad_stride: int) -> None:
    """Put the gradient of a tile's outputs in their place."""
    width, outputs = load_i64(tile + 8), load_i64(table + OUTPUTS)
    result = work + load_i64(tile) + 64 * width * (load_i64(table + UNITS) - outputs)
    _pack(grad, grad_stride, outputs, result, width, load_i64(tile + 16), batch)


@serial
def backward_layer(record: int, values: int, tile: int, work: int) -> None:
    """Put the gradients of a layer's inputs, which are hidden units, in the place of their activations."""
    # Typed, because Numba would compile everything below once more for literals.
    gated, low = numba.int64(1), numba.int64(0)
    arguments = (record, values, work + load_i64(tile), gated, low, load_i64(record + COLUMNS))
    call_with_width(_layer_backward, load_i64(tile + 8), arguments)


@serial
def end_backward(table: int, values: int, tile: int, work: int, batch: int, inputs: Any) -> None:
    """The wanted gradients of the network's inputs."""
    base, width = work + load_i64(tile), load_i64(tile + 8)
    gated, low = numba.int64(0), numba.int64(0)
    for address, stride, count in inputs:
        if address != 0:
            arguments = (table + HEADER_BYTES, values, base, gated, low, low + count)
            call_with_width(_layer_backward, width, arguments)
            _unpack(base + 64 * width * low, width, load_i64(tile + 16), batch, address, stride, count)
        low += count


@serial
def gradient_layer(record: int, tiles: int, tile_count: int, work: int, out: int) -> None:
    """Weight and bias gradients of one layer over some tiles.

    Weights go in groups of 8, then 4. A row's last group overlaps the one before, which writes the same numbers twice and
    is cheaper than single weights.
    """
    first, start, index = load_i64(record + FIRST), load_i64(record + ROW_START), load_i64(record + ROW_INDEX)
    bias, unit = load_i64(record + BIAS), load_i64(record + ROW_UNIT)
    x, outputs = load_i64(record + IN_UNIT), load_i64(record + OUT_UNIT)
    rows = load_i64(record + ROWS)
    for row in range(rows):
        dy = outputs + load_i32(unit + 4 * row)
        source = index + 4 * load_i32(start + 4 * row)
        target = out + 4 * load_i32(first + 4 * row)
        count = load_i32(start + 4 * row + 4) - load_i32(start + 4 * row)
        done = 0
        while done < count:
            rest = count - done
            if rest > 4 and count >= 8:
                at = 4 * min(done, count - 8)
                weight_gradients((0,) * 8, tiles, tile_count, work, dy, x, source + at, target + at)
                done += 8
            elif count >= 4:
                at = 4 * min(done, count - 4)
                weight_gradients((0,) * 4, tiles, tile_count, work, dy, x, source + at, target + at)
                done += 4
            else:
                at = 4 * done
                weight_gradients((0,), tiles, tile_count, work, dy, x, source + at, target + at)
                done += 1
    row = 0
    while row + 8 <= rows:
        bias_gradients((0,) * 8, tiles, tile_count, work, outputs, unit + 4 * row, bias + 4 * row, out)
        row += 8
    while row < rows:
        bias_gradients((0,), tiles, tile_count, work, outputs, unit + 4 * row, bias + 4 * row, out)
        row += 1
