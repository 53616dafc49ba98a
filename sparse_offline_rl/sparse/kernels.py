"""Whole-MLP kernels: forward, backward and single-sample forward of a :class:`~sparse_offline_rl.sparse.plan.SparsePlan`.

Everything is an ``int64`` address or count, so a call costs about a microsecond. A *workspace* holds, tile by tile, 16·V
batch columns for each unit (inputs, hidden units, outputs) that the plan computes: ``[tile][unit][16 V]`` float32, 64-byte
aligned. Columns beyond the batch are zero in the inputs and in the output gradients, so they add nothing anywhere.

Order of summation is fixed by the plan alone: results do not depend on tiles, threads or scheduling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from sparse_offline_rl.sparse.intrinsics import (
    bias_gradient,
    load_f32,
    load_i32,
    load_i64,
    row_backward,
    row_forward,
    row_gather,
    store_f32,
    weight_gradients,
)

MAX_VECTORS = 8  # sums of a tile: with a broadcast and temporaries they still fit 32 registers

# Words of the plan's table: a header, then one record per layer.
HEADER = (
    "layers",
    "units",
    "inputs",
    "features",
    "outputs",
    "output_units",
    "chunks",
    "chunk_list",
    "dead",
    "dead_list",
)
RECORD = (
    "rows", "first", "row_start", "row_index", "bias", "in_unit", "out_unit",
    "columns", "column_unit", "column_start", "column_index", "column_value",
)  # fmt: skip
_HEADER_BYTES, _RECORD_BYTES = 8 * len(HEADER), 8 * len(RECORD)
_UNITS, _INPUTS, _FEATURES, _OUTPUTS, _OUTPUT_UNITS, _CHUNKS, _CHUNK_LIST, _DEAD, _DEAD_LIST = range(8, 80, 8)
_ROWS, _FIRST, _ROW_START, _ROW_INDEX, _BIAS, _IN_UNIT, _OUT_UNIT = range(0, 56, 8)
_COLUMNS, _COLUMN_UNIT, _COLUMN_START, _COLUMN_INDEX, _COLUMN_VALUE = range(56, 96, 8)
TILE_WORDS = 3  # byte offset in the workspace, number of vectors, first batch row
_TILE_BYTES = 8 * TILE_WORDS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_inline: Decorator = numba.njit(cache=True, nogil=True, error_model="numpy")
_serial: Decorator = numba.njit(cache=True, nogil=True, error_model="numpy")
_parallel: Decorator = numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True)


@_inline
def _pack(table: int, width: int, base: int, first: int, batch: int, inputs: Any) -> None:
    """Rows ``first`` … of the inputs, transposed into the tile's input units."""
    columns = min(16 * width, batch - first)
    features = load_i64(table + _FEATURES)
    for unit in range(load_i64(table + _INPUTS)):
        feature = load_i32(features + 4 * unit)
        source, stride = _locate(feature, inputs)
        target = base + 64 * width * unit
        for c in range(columns):
            store_f32(target + 4 * c, load_f32(source + (first + c) * stride))
        for c in range(columns, 16 * width):
            store_f32(target + 4 * c, numba.float32(0.0))


@_inline
def _locate(feature: int, inputs: Any) -> tuple[int, int]:
    """Address of row 0 of a feature of the concatenated inputs, and the stride in bytes; address 0 if not wanted."""
    for address, stride, width in inputs:
        if feature < width:
            return (address + 4 * feature if address != 0 else 0), stride
        feature -= width
    return 0, 0


@_inline
def _tile_forward(width: Any, table: int, values: int, base: int) -> None:
    unit_bytes = 64 * len(width)
    layers = load_i64(table)
    for layer in range(layers):
        record = table + _HEADER_BYTES + layer * _RECORD_BYTES
        first, start = load_i64(record + _FIRST), load_i64(record + _ROW_START)
        index, bias = load_i64(record + _ROW_INDEX), load_i64(record + _BIAS)
        x = base + unit_bytes * load_i64(record + _IN_UNIT)
        out = base + unit_bytes * load_i64(record + _OUT_UNIT)
        floor = numba.float32(0.0 if layer + 1 < layers else -numba.float32(float("inf")))
        for row in range(load_i64(record + _ROWS)):
            begin = load_i32(start + 4 * row)
            row_forward(
                width,
                x,
                index + 4 * begin,
                values + 4 * load_i32(first + 4 * row),
                load_i32(start + 4 * row + 4) - begin,
                load_f32(values + 4 * load_i32(bias + 4 * row)),
                floor,
                out + unit_bytes * row,
            )


@_inline
def _tile_backward(width: Any, table: int, values: int, base: int, delta: int, layer: int) -> None:
    """Gradient with respect to the inputs of a hidden or output layer, gated by their ReLU."""
    unit_bytes = 64 * len(width)
    record = table + _HEADER_BYTES + layer * _RECORD_BYTES
    unit, start = load_i64(record + _COLUMN_UNIT), load_i64(record + _COLUMN_START)
    index, position = load_i64(record + _COLUMN_INDEX), load_i64(record + _COLUMN_VALUE)
    x, dx = unit_bytes * load_i64(record + _IN_UNIT) + base, unit_bytes * load_i64(record + _IN_UNIT) + delta
    dy = unit_bytes * load_i64(record + _OUT_UNIT) + delta
    for column in range(load_i64(record + _COLUMNS)):
        begin, target = load_i32(start + 4 * column), unit_bytes * load_i32(unit + 4 * column)
        row_backward(
            width,
            dy,
            index + 4 * begin,
            position + 4 * begin,
            values,
            load_i32(start + 4 * column + 4) - begin,
            1 if layer > 0 else 0,
            x + target,
            dx + target,
        )


@_inline
def _forward_one(table: int, values: int, tile: int, base: int, batch: int, inputs: Any, out: int) -> None:
    width, first = load_i64(tile + 8), load_i64(tile + 16)
    _pack(table, width, base, first, batch, inputs)
    if width == 1:
        _tile_forward((0,) * 1, table, values, base)
    elif width == 2:
        _tile_forward((0,) * 2, table, values, base)
    elif width == 3:
        _tile_forward((0,) * 3, table, values, base)
    elif width == 4:
        _tile_forward((0,) * 4, table, values, base)
    elif width == 5:
        _tile_forward((0,) * 5, table, values, base)
    elif width == 6:
        _tile_forward((0,) * 6, table, values, base)
    elif width == 7:
        _tile_forward((0,) * 7, table, values, base)
    else:
        _tile_forward((0,) * 8, table, values, base)
    outputs, units = load_i64(table + _OUTPUTS), load_i64(table + _OUTPUT_UNITS)
    for output in range(outputs):
        source = base + 64 * width * load_i32(units + 4 * output)
        for c in range(min(16 * width, batch - first)):
            store_f32(out + 4 * ((first + c) * outputs + output), load_f32(source + 4 * c))


@_inline
def _backward_layer(table: int, values: int, width: int, base: int, delta: int, layer: int) -> None:
    if width == 1:
        _tile_backward((0,) * 1, table, values, base, delta, layer)
    elif width == 2:
        _tile_backward((0,) * 2, table, values, base, delta, layer)
    elif width == 3:
        _tile_backward((0,) * 3, table, values, base, delta, layer)
    elif width == 4:
        _tile_backward((0,) * 4, table, values, base, delta, layer)
    elif width == 5:
        _tile_backward((0,) * 5, table, values, base, delta, layer)
    elif width == 6:
        _tile_backward((0,) * 6, table, values, base, delta, layer)
    elif width == 7:
        _tile_backward((0,) * 7, table, values, base, delta, layer)
    else:
        _tile_backward((0,) * 8, table, values, base, delta, layer)


@_inline
def _backward_one(
    table: int, values: int, tile: int, work: int, deltas: int, batch: int, grad: int, grad_stride: int, inputs: Any
) -> None:
    """All layers' dY of one tile; the wanted input gradients are written to ``inputs``."""
    offset, width, first = load_i64(tile), load_i64(tile + 8), load_i64(tile + 16)
    base, delta, columns = work + offset, deltas + offset, min(16 * width, batch - first)
    outputs, units = load_i64(table + _OUTPUTS), load_i64(table + _OUTPUT_UNITS)
    for output in range(outputs):
        target = delta + 64 * width * load_i32(units + 4 * output)
        for c in range(columns):
            store_f32(target + 4 * c, load_f32(grad + (first + c) * grad_stride + 4 * output))
        for c in range(columns, 16 * width):
            store_f32(target + 4 * c, numba.float32(0.0))
    for layer in range(load_i64(table) - 1, 0, -1):
        _backward_layer(table, values, width, base, delta, layer)
    wanted = False
    for address, _, _ in inputs:
        wanted = wanted or address != 0
    if not wanted:
        return
    _backward_layer(table, values, width, base, delta, 0)
    features = load_i64(table + _FEATURES)
    for unit in range(load_i64(table + _INPUTS)):
        target, stride = _locate(load_i32(features + 4 * unit), inputs)
        if target != 0:
            for c in range(columns):
                store_f32(target + (first + c) * stride, load_f32(delta + 64 * width * unit + 4 * c))


@_inline
def _gradient_chunk(table: int, chunk: int, tiles: int, tile_count: int, work: int, deltas: int, out: int) -> None:
    """Weight and bias gradients of some rows of one layer, over the whole batch."""
    entry = load_i64(table + _CHUNK_LIST) + 24 * chunk
    record = table + _HEADER_BYTES + load_i64(entry) * _RECORD_BYTES
    first, start = load_i64(record + _FIRST), load_i64(record + _ROW_START)
    index, bias = load_i64(record + _ROW_INDEX), load_i64(record + _BIAS)
    x, dy = load_i64(record + _IN_UNIT), load_i64(record + _OUT_UNIT)
    for row in range(load_i64(entry + 8), load_i64(entry + 16)):
        source = index + 4 * load_i32(start + 4 * row)
        stop = index + 4 * load_i32(start + 4 * row + 4)
        target = out + 4 * load_i32(first + 4 * row)
        while source + 32 <= stop:
            weight_gradients((0,) * 8, tiles, tile_count, deltas, dy + row, work, x, source, target)
            source += 32
            target += 32
        if source + 16 <= stop:
            weight_gradients((0,) * 4, tiles, tile_count, deltas, dy + row, work, x, source, target)
            source += 16
            target += 16
        while source < stop:
            weight_gradients((0,) * 1, tiles, tile_count, deltas, dy + row, work, x, source, target)
            source += 4
            target += 4
        store_f32(out + 4 * load_i32(bias + 4 * row), bias_gradient(tiles, tile_count, deltas, dy + row))


@_inline
def _zero_dead(table: int, out: int) -> None:
    dead = load_i64(table + _DEAD_LIST)
    for i in range(load_i64(table + _DEAD)):
        store_f32(out + 4 * load_i32(dead + 4 * i), numba.float32(0.0))


@_serial
def forward_serial(
    table: int, values: int, tiles: int, tile_count: int, batch: int, work: int, scratch: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, threads: int,
) -> None:  # fmt: skip
    """Forward of all tiles. ``work`` keeps every tile's activations; ``scratch`` > 0 (bytes) reuses one tile's space.

    Inputs are up to three (address, row stride in bytes, width) triples; ``out`` is ``[batch, outputs]`` row-major.
    """
    inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))
    for t in range(tile_count):
        tile = tiles + _TILE_BYTES * t
        base = work if scratch > 0 else work + load_i64(tile)
        _forward_one(table, values, tile, base, batch, inputs, out)


@_parallel
def forward_parallel(
    table: int, values: int, tiles: int, tile_count: int, batch: int, work: int, scratch: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, threads: int,
) -> None:  # fmt: skip
    """:func:`forward_serial` with the tiles dealt to ``threads`` threads, each with its own scratch."""
    for thread in numba.prange(threads):
        inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))  # here: a parallel region takes scalars only
        for t in range(tile_count * thread // threads, tile_count * (thread + 1) // threads):
            tile = tiles + _TILE_BYTES * t
            base = work + scratch * thread if scratch > 0 else work + load_i64(tile)
            _forward_one(table, values, tile, base, batch, inputs, out)


@_serial
def backward_serial(
    table: int, values: int, tiles: int, tile_count: int, batch: int, work: int, deltas: int, grad: int, stride: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int,
) -> None:  # fmt: skip
    """Backward of all tiles after a forward that kept ``work``.

    ``grad`` is ``[batch, outputs]`` with a row stride in bytes; the gradient of all parameters goes to ``out`` (0: not
    wanted), those of the inputs to the triples' addresses (0: not wanted).
    """
    inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))
    for t in range(tile_count):
        _backward_one(table, values, tiles + _TILE_BYTES * t, work, deltas, batch, grad, stride, inputs)
    if out != 0:
        _zero_dead(table, out)
        for chunk in range(load_i64(table + _CHUNKS)):
            _gradient_chunk(table, chunk, tiles, tile_count, work, deltas, out)


@_parallel
def backward_parallel(
    table: int, values: int, tiles: int, tile_count: int, batch: int, work: int, deltas: int, grad: int, stride: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int,
) -> None:  # fmt: skip
    """:func:`backward_serial` with tiles, then rows of the weight gradient, dealt to the threads."""
    for t in numba.prange(tile_count):
        inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))
        _backward_one(table, values, tiles + _TILE_BYTES * t, work, deltas, batch, grad, stride, inputs)
    if out != 0:
        _zero_dead(table, out)
        for chunk in numba.prange(load_i64(table + _CHUNKS)):
            _gradient_chunk(table, chunk, tiles, tile_count, work, deltas, out)


@_serial
def forward_single(
    table: int, values: int, work: int, a0: int, w0: int, a1: int, w1: int, a2: int, w2: int, out: int
) -> None:
    """Forward of one sample: ``work`` holds one float per unit; ``out`` is ``[outputs]``."""
    inputs = ((a0, 0, w0), (a1, 0, w1), (a2, 0, w2))
    features = load_i64(table + _FEATURES)
    for unit in range(load_i64(table + _INPUTS)):
        source, _ = _locate(load_i32(features + 4 * unit), inputs)
        store_f32(work + 4 * unit, load_f32(source))
    layers = load_i64(table)
    for layer in range(layers):
        record = table + _HEADER_BYTES + layer * _RECORD_BYTES
        first, start = load_i64(record + _FIRST), load_i64(record + _ROW_START)
        index, bias = load_i64(record + _ROW_INDEX), load_i64(record + _BIAS)
        x, target = work + 4 * load_i64(record + _IN_UNIT), work + 4 * load_i64(record + _OUT_UNIT)
        for row in range(load_i64(record + _ROWS)):
            begin = load_i32(start + 4 * row)
            count = load_i32(start + 4 * row + 4) - begin
            total = row_gather(x, index + 4 * begin, values + 4 * load_i32(first + 4 * row), count)
            total += load_f32(values + 4 * load_i32(bias + 4 * row))
            if layer + 1 < layers and total < 0:
                total = numba.float32(0.0)
            store_f32(target + 4 * row, total)
    units = load_i64(table + _OUTPUT_UNITS)
    for output in range(load_i64(table + _OUTPUTS)):
        store_f32(out + 4 * output, load_f32(work + 4 * load_i32(units + 4 * output)))
