"""The parts of the kernels that work on one tile, 16·V batch columns of every unit, and on one layer."""

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
    FLOAT_BYTES,
    HEADER_BYTES,
    IN_UNIT,
    INDEX_BYTES,
    LANES,
    OUT_UNIT,
    OUTPUTS,
    RECORD_BYTES,
    RELU,
    ROW_INDEX,
    ROW_START,
    ROW_UNIT,
    ROWS,
    TILE_OFFSET,
    TILE_ROW,
    TILE_VECTORS,
    UNITS,
    VECTOR_BYTES,
    Address,
    Bytes,
    Count,
    Flag,
)


@serial
def _pack(
    source: Address, stride: Bytes, count: Count, target: Address, width: Count, first: Count, batch: Count
) -> None:
    """Rows ``first`` … of a row-major matrix with ``count`` columns into as many units of a tile, zero beyond the batch."""
    for i in range(width):  # outside: 16 rows at a time touch few pages
        row = first + LANES * i
        rows = max(0, min(LANES, batch - row))
        for column in range(0, count, LANES):
            block = source + row * stride + FLOAT_BYTES * column
            unit = target + VECTOR_BYTES * (width * column + i)
            transpose(block, stride, rows, count - column, unit, VECTOR_BYTES * width, count - column, LANES)


@serial
def _unpack(
    source: Address, width: Count, first: Count, batch: Count, target: Address, stride: Bytes, count: Count
) -> None:
    """The inverse of :func:`_pack`: ``count`` units of a tile into the columns of a row-major matrix."""
    for i in range(width):
        row = first + LANES * i
        for column in range(0, count, LANES):
            block = target + row * stride + FLOAT_BYTES * column
            unit = source + VECTOR_BYTES * (width * column + i)
            transpose(unit, VECTOR_BYTES * width, count - column, LANES, block, stride, batch - row, count - column)


@serial
def _layer_forward(width: Any, record: Address, values: Address, base: Address, relu: Flag) -> None:
    """The outputs of a layer: ReLU of their sums, or the sums themselves."""
    unit_bytes = VECTOR_BYTES * len(width)
    first, start, index = load_i64(record + FIRST), load_i64(record + ROW_START), load_i64(record + ROW_INDEX)
    bias, unit = load_i64(record + BIAS), load_i64(record + ROW_UNIT)
    x = base + unit_bytes * load_i64(record + IN_UNIT)
    out = base + unit_bytes * load_i64(record + OUT_UNIT)
    floor = numba.float32(0.0 if relu else -numba.float32(float("inf")))
    for row in range(load_i64(record + ROWS)):
        begin = load_i32(start + INDEX_BYTES * row)
        count = load_i32(start + INDEX_BYTES * (row + 1)) - begin
        weights = values + FLOAT_BYTES * load_i32(first + INDEX_BYTES * row)
        constant = load_f32(values + FLOAT_BYTES * load_i32(bias + INDEX_BYTES * row))
        target = out + unit_bytes * load_i32(unit + INDEX_BYTES * row)
        row_forward(width, x, index + INDEX_BYTES * begin, weights, count, constant, floor, target)


@serial
def _layer_backward(
    width: Any, record: Address, values: Address, base: Address, gated: int, low: Count, high: Count
) -> None:
    """Gradient with respect to input units ``low`` … ``high - 1`` of a layer, gated by their ReLU or not, in their place."""
    unit_bytes = VECTOR_BYTES * len(width)
    unit, start = load_i64(record + COLUMN_UNIT), load_i64(record + COLUMN_START)
    index, position = load_i64(record + COLUMN_INDEX), load_i64(record + COLUMN_VALUE)
    inputs = base + unit_bytes * load_i64(record + IN_UNIT)
    outputs = base + unit_bytes * load_i64(record + OUT_UNIT)
    for column in range(load_i64(record + COLUMNS)):
        target = load_i32(unit + INDEX_BYTES * column)
        if low <= target < high:
            begin = load_i32(start + INDEX_BYTES * column)
            count = load_i32(start + INDEX_BYTES * (column + 1)) - begin
            rows, weights = index + INDEX_BYTES * begin, position + INDEX_BYTES * begin
            row_backward(width, outputs, rows, weights, values, count, gated, inputs + unit_bytes * target)


@serial
def forward_tile(
    table: Address, values: Address, tile: Address, base: Address, batch: Count, inputs: Any, out: Address
) -> None:
    """All layers on one tile, whose activations are put at ``base``."""
    width, first = load_i64(tile + TILE_VECTORS), load_i64(tile + TILE_ROW)
    target = base
    for address, stride, count in inputs:
        _pack(address, stride, count, target, width, first, batch)
        target += VECTOR_BYTES * width * count
    layers = load_i64(table)
    for layer in range(layers):
        record = table + HEADER_BYTES + layer * RECORD_BYTES
        call_with_width(_layer_forward, width, (record, values, base, load_i64(record + RELU)))
    outputs = load_i64(table + OUTPUTS)
    result = base + VECTOR_BYTES * width * (load_i64(table + UNITS) - outputs)
    _unpack(result, width, first, batch, out, FLOAT_BYTES * outputs, outputs)


@serial
def begin_backward(
    table: Address, tile: Address, work: Address, batch: Count, grad: Address, grad_stride: Bytes
) -> None:
    """Put the gradient of a tile's outputs in their place."""
    width, outputs = load_i64(tile + TILE_VECTORS), load_i64(table + OUTPUTS)
    result = work + load_i64(tile + TILE_OFFSET) + VECTOR_BYTES * width * (load_i64(table + UNITS) - outputs)
    _pack(grad, grad_stride, outputs, result, width, load_i64(tile + TILE_ROW), batch)


@serial
def backward_layer(record: Address, values: Address, tile: Address, work: Address) -> None:
    """Put the gradients of a layer's inputs, which are hidden units, in the place of their activations."""
    gated = load_i64(record - RECORD_BYTES + RELU)  # what the layer before ends with
    low = numba.int64(0)  # typed, because Numba would compile everything below once more for a literal
    arguments = (record, values, work + load_i64(tile + TILE_OFFSET), gated, low, load_i64(record + COLUMNS))
    call_with_width(_layer_backward, load_i64(tile + TILE_VECTORS), arguments)


@serial
def end_backward(table: Address, values: Address, tile: Address, work: Address, batch: Count, inputs: Any) -> None:
    """The wanted gradients of the network's inputs."""
    base, width = work + load_i64(tile + TILE_OFFSET), load_i64(tile + TILE_VECTORS)
    gated, low = numba.int64(0), numba.int64(0)  # typed, as above
    for address, stride, count in inputs:
        if address != 0:
            arguments = (table + HEADER_BYTES, values, base, gated, low, low + count)
            call_with_width(_layer_backward, width, arguments)
            unit = base + VECTOR_BYTES * width * low
            _unpack(unit, width, load_i64(tile + TILE_ROW), batch, address, stride, count)
        low += count


@serial
def gradient_layer(record: Address, tiles: Address, tile_count: Count, work: Address, out: Address) -> None:
    """Weight and bias gradients of one layer over some tiles.

    Weights go in groups of 8, then 4. A row's last group overlaps the one before: to write some numbers twice takes less time
    than single weights.
    """
    first, start, index = load_i64(record + FIRST), load_i64(record + ROW_START), load_i64(record + ROW_INDEX)
    bias, unit = load_i64(record + BIAS), load_i64(record + ROW_UNIT)
    x, outputs = load_i64(record + IN_UNIT), load_i64(record + OUT_UNIT)
    rows = load_i64(record + ROWS)
    for row in range(rows):
        dy = outputs + load_i32(unit + INDEX_BYTES * row)
        begin = load_i32(start + INDEX_BYTES * row)
        count = load_i32(start + INDEX_BYTES * (row + 1)) - begin
        source = index + INDEX_BYTES * begin
        target = out + FLOAT_BYTES * load_i32(first + INDEX_BYTES * row)
        done = 0
        while done < count:
            rest = count - done
            if rest > 4 and count >= 8:
                shift = FLOAT_BYTES * min(done, count - 8)
                weight_gradients((0,) * 8, tiles, tile_count, work, dy, x, source + shift, target + shift)
                done += 8
            elif count >= 4:
                shift = FLOAT_BYTES * min(done, count - 4)
                weight_gradients((0,) * 4, tiles, tile_count, work, dy, x, source + shift, target + shift)
                done += 4
            else:
                shift = FLOAT_BYTES * done
                weight_gradients((0,), tiles, tile_count, work, dy, x, source + shift, target + shift)
                done += 1
    row = 0
    while row + 8 <= rows:
        units, positions = unit + INDEX_BYTES * row, bias + INDEX_BYTES * row
        bias_gradients((0,) * 8, tiles, tile_count, work, outputs, units, positions, out)
        row += 8
    while row < rows:
        units, positions = unit + INDEX_BYTES * row, bias + INDEX_BYTES * row
        bias_gradients((0,), tiles, tile_count, work, outputs, units, positions, out)
        row += 1
