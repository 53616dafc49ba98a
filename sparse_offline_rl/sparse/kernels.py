"""Whole-MLP kernels: forward, backward and single-sample forward of a :class:`~sparse_offline_rl.sparse.plan.SparsePlan`.

Everything is an ``int64`` address or count, so a call costs about a microsecond. A *workspace* holds, tile by tile, 16·V
batch columns for each unit (inputs, live hidden units, outputs): ``[tile][unit][16 V]`` float32, 64-byte aligned. Columns
beyond the batch are zero in the inputs and in the output gradients, so they add nothing anywhere.

The order of summation is fixed by the plan, the batch and the number of threads, never by scheduling; the number of threads
matters to the gradient of the parameters only.

Numba's cache of compiled code notices a change of this file only: touch it after a change of the intrinsics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from sparse_offline_rl.sparse.gradients import add_vectors, bias_gradients, weight_gradients
from sparse_offline_rl.sparse.intrinsics import (
    load_f32,
    load_i32,
    load_i64,
    row_backward,
    row_forward,
    row_gather,
    store_f32,
    transpose,
)

MAX_VECTORS = 7  # widest tile: batch 100, the usual one, fits 7 · 16 columns

# Byte offsets into the plan's table (engine.py): a header, then one record per layer.
_UNITS, _OUTPUTS, _DEAD, _DEAD_LIST = range(8, 40, 8)
_HEADER_BYTES = 40
_ROWS, _ROW_UNIT, _FIRST, _ROW_START, _ROW_INDEX, _BIAS, _IN_UNIT, _OUT_UNIT = range(0, 64, 8)
_COLUMNS, _COLUMN_UNIT, _COLUMN_START, _COLUMN_INDEX, _COLUMN_VALUE = range(64, 104, 8)
_RECORD_BYTES = 104
_TILE_BYTES = 24  # byte offset in the workspace, number of vectors, first batch row

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
_serial: Decorator = numba.njit(cache=True, nogil=True, error_model="numpy")
_parallel: Decorator = numba.njit(cache=True, nogil=True, error_model="numpy", parallel=True)


@_serial
def _pack(source: int, stride: int, count: int, target: int, width: int, first: int, batch: int) -> None:
    """Rows ``first`` … of a row-major matrix with ``count`` columns into as many units of a tile, zero beyond the batch."""
    for i in range(width):  # outside: 16 rows at a time touch few pages
        row = first + 16 * i
        rows = max(0, min(16, batch - row))
        for column in range(0, count, 16):
            block, unit = source + row * stride + 4 * column, target + 64 * (width * column + i)
            transpose(block, stride, rows, count - column, unit, 64 * width, count - column, 16)


@_serial
def _unpack(source: int, width: int, first: int, batch: int, target: int, stride: int, count: int) -> None:
    """The inverse of :func:`_pack`: ``count`` units of a tile into the columns of a row-major matrix."""
    for i in range(width):
        row = first + 16 * i
        for column in range(0, count, 16):
            block, unit = target + row * stride + 4 * column, source + 64 * (width * column + i)
            transpose(unit, 64 * width, count - column, 16, block, stride, batch - row, count - column)


@_serial
def _layer_forward(width: Any, record: int, values: int, base: int, last: bool) -> None:
    unit_bytes = 64 * len(width)
    first, start, index = load_i64(record + _FIRST), load_i64(record + _ROW_START), load_i64(record + _ROW_INDEX)
    bias, unit = load_i64(record + _BIAS), load_i64(record + _ROW_UNIT)
    x = base + unit_bytes * load_i64(record + _IN_UNIT)
    out = base + unit_bytes * load_i64(record + _OUT_UNIT)
    floor = numba.float32(-numba.float32(float("inf")) if last else 0.0)
    for row in range(load_i64(record + _ROWS)):
        begin = load_i32(start + 4 * row)
        count = load_i32(start + 4 * row + 4) - begin
        weights = values + 4 * load_i32(first + 4 * row)
        constant = load_f32(values + 4 * load_i32(bias + 4 * row))
        target = out + unit_bytes * load_i32(unit + 4 * row)
        row_forward(width, x, index + 4 * begin, weights, count, constant, floor, target)


@_serial
def _layer_backward(
    width: Any, record: int, values: int, base: int, delta: int, gated: int, low: int, high: int
) -> None:
    """Gradient with respect to input units ``low`` … ``high - 1`` of a layer, gated by their ReLU or not."""
    unit_bytes = 64 * len(width)
    unit, start = load_i64(record + _COLUMN_UNIT), load_i64(record + _COLUMN_START)
    index, position = load_i64(record + _COLUMN_INDEX), load_i64(record + _COLUMN_VALUE)
    inputs, outputs = unit_bytes * load_i64(record + _IN_UNIT), unit_bytes * load_i64(record + _OUT_UNIT)
    for column in range(load_i64(record + _COLUMNS)):
        target = load_i32(unit + 4 * column)
        if low <= target < high:
            begin = load_i32(start + 4 * column)
            count = load_i32(start + 4 * column + 4) - begin
            row, where = inputs + unit_bytes * target, position + 4 * begin
            dy, dx = delta + outputs, delta + row
            row_backward(width, dy, index + 4 * begin, where, values, count, gated, base + row, dx)


@_serial
def _forward_width(vectors: int, record: int, values: int, base: int, last: bool) -> None:
    """:func:`_layer_forward` for a number of vectors known at run time only."""
    if vectors == 1:
        _layer_forward((0,) * 1, record, values, base, last)
    elif vectors == 2:
        _layer_forward((0,) * 2, record, values, base, last)
    elif vectors == 3:
        _layer_forward((0,) * 3, record, values, base, last)
    elif vectors == 4:
        _layer_forward((0,) * 4, record, values, base, last)
    elif vectors == 5:
        _layer_forward((0,) * 5, record, values, base, last)
    elif vectors == 6:
        _layer_forward((0,) * 6, record, values, base, last)
    else:
        _layer_forward((0,) * 7, record, values, base, last)


@_serial
def _backward_width(
    vectors: int, record: int, values: int, base: int, delta: int, gated: int, low: int, high: int
) -> None:
    """:func:`_layer_backward` for a number of vectors known at run time only."""
    if vectors == 1:
        _layer_backward((0,) * 1, record, values, base, delta, gated, low, high)
    elif vectors == 2:
        _layer_backward((0,) * 2, record, values, base, delta, gated, low, high)
    elif vectors == 3:
        _layer_backward((0,) * 3, record, values, base, delta, gated, low, high)
    elif vectors == 4:
        _layer_backward((0,) * 4, record, values, base, delta, gated, low, high)
    elif vectors == 5:
        _layer_backward((0,) * 5, record, values, base, delta, gated, low, high)
    elif vectors == 6:
        _layer_backward((0,) * 6, record, values, base, delta, gated, low, high)
    else:
        _layer_backward((0,) * 7, record, values, base, delta, gated, low, high)


@_serial
def _forward_tile(table: int, values: int, tile: int, base: int, batch: int, inputs: Any, out: int) -> None:
    width, first = load_i64(tile + 8), load_i64(tile + 16)
    target = base
    for address, stride, count in inputs:
        _pack(address, stride, count, target, width, first, batch)
        target += 64 * width * count
    layers = load_i64(table)
    for layer in range(layers):
        _forward_width(width, table + _HEADER_BYTES + layer * _RECORD_BYTES, values, base, layer + 1 == layers)
    outputs = load_i64(table + _OUTPUTS)
    result = base + 64 * width * (load_i64(table + _UNITS) - outputs)
    _unpack(result, width, first, batch, out, 4 * outputs, outputs)


@_serial
def _backward_tile(
    table: int, values: int, tile: int, work: int, deltas: int, batch: int, grad: int, grad_stride: int, inputs: Any
) -> None:
    """Every unit's gradient in one tile; the wanted input gradients go to ``inputs``."""
    offset, width, first = load_i64(tile), load_i64(tile + 8), load_i64(tile + 16)
    base, delta = work + offset, deltas + offset
    outputs = load_i64(table + _OUTPUTS)
    result = delta + 64 * width * (load_i64(table + _UNITS) - outputs)
    _pack(grad, grad_stride, outputs, result, width, first, batch)
    for layer in range(load_i64(table) - 1, 0, -1):
        record = table + _HEADER_BYTES + layer * _RECORD_BYTES
        _backward_width(width, record, values, base, delta, 1, 0, load_i64(record + _COLUMNS))
    low = 0
    for address, stride, count in inputs:
        if address != 0:
            _backward_width(width, table + _HEADER_BYTES, values, base, delta, 0, low, low + count)
            _unpack(delta + 64 * width * low, width, first, batch, address, stride, count)
        low += count


@_serial
def _gradient_layer(record: int, tiles: int, tile_count: int, work: int, deltas: int, out: int) -> None:
    """Weight and bias gradients of one layer over some tiles.

    Weights go in groups of 8, then 4. A row's last group overlaps the one before, which writes the same numbers twice and
    is cheaper than single weights.
    """
    first, start, index = load_i64(record + _FIRST), load_i64(record + _ROW_START), load_i64(record + _ROW_INDEX)
    bias, unit = load_i64(record + _BIAS), load_i64(record + _ROW_UNIT)
    x, outputs = load_i64(record + _IN_UNIT), load_i64(record + _OUT_UNIT)
    rows = load_i64(record + _ROWS)
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
                weight_gradients((0,) * 8, tiles, tile_count, deltas, dy, work, x, source + at, target + at)
                done += 8
            elif count >= 4:
                at = 4 * min(done, count - 4)
                weight_gradients((0,) * 4, tiles, tile_count, deltas, dy, work, x, source + at, target + at)
                done += 4
            else:
                at = 4 * done
                weight_gradients((0,), tiles, tile_count, deltas, dy, work, x, source + at, target + at)
                done += 1
    row = 0
    while row + 8 <= rows:
        bias_gradients((0,) * 8, tiles, tile_count, deltas, outputs, unit + 4 * row, bias + 4 * row, out)
        row += 8
    while row < rows:
        bias_gradients((0,), tiles, tile_count, deltas, outputs, unit + 4 * row, bias + 4 * row, out)
        row += 1


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
        _forward_tile(table, values, tile, base, batch, inputs, out)


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
            _forward_tile(table, values, tile, base, batch, inputs, out)


@_serial
def _backward_tiles(
    table: int, values: int, tiles: int, tile_count: int, group: int, batch: int, work: int, deltas: int, grad: int,
    grad_stride: int, inputs: Any, out: int, partial: int, count: int,
) -> None:  # fmt: skip
    """Backward of some tiles, ``group`` at a time: their activations are still in the cache when the weights need them."""
    for begin in range(0, tile_count, group):
        members = min(group, tile_count - begin)
        share = tiles + _TILE_BYTES * begin
        local = deltas - load_i64(share)  # each group's dY take the place of the last one's
        for t in range(members):
            _backward_tile(table, values, share + _TILE_BYTES * t, work, local, batch, grad, grad_stride, inputs)
        if out != 0:
            target = out if begin == 0 else partial
            for layer in range(load_i64(table)):
                _gradient_layer(table + _HEADER_BYTES + layer * _RECORD_BYTES, share, members, work, local, target)
            if begin > 0:
                add_vectors(out, partial, count)
    if out != 0:
        dead = load_i64(table + _DEAD_LIST)
        for i in range(load_i64(table + _DEAD)):
            store_f32(out + 4 * load_i32(dead + 4 * i), numba.float32(0.0))


@_serial
def backward_serial(
    table: int, values: int, tiles: int, tile_count: int, group: int, batch: int, work: int, deltas: int, grad: int,
    grad_stride: int, a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int,
    partial: int, count: int, threads: int, delta_bytes: int,
) -> None:  # fmt: skip
    """Backward of all tiles after a forward that kept ``work``.

    ``grad`` is ``[batch, outputs]`` with a row stride in bytes; the gradient of all ``count`` parameters goes to ``out`` (0:
    not wanted), those of the inputs to the triples' addresses (0: not wanted). ``partial`` is scratch for ``count`` floats,
    ``deltas`` for the dY of ``group`` tiles.
    """
    inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))
    _backward_tiles(
        table, values, tiles, tile_count, group, batch, work, deltas, grad, grad_stride, inputs, out, partial, count
    )


@_parallel
def backward_parallel(
    table: int, values: int, tiles: int, tile_count: int, group: int, batch: int, work: int, deltas: int, grad: int,
    grad_stride: int, a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int,
    partial: int, count: int, threads: int, delta_bytes: int,
) -> None:  # fmt: skip
    """:func:`backward_serial` with the tiles dealt to ``threads`` threads.

    A thread sums the parameters' gradient over its own tiles, which are in its own cache: the first one into ``out``, thread
    i into row i - 1 of ``partial`` ``[2 threads - 1, count]``; these are added in order. The other rows are scratch,
    as are ``delta_bytes`` of ``deltas`` for each thread.
    """
    for thread in numba.prange(threads):
        inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))  # here: a parallel region takes scalars only
        begin, end = tile_count * thread // threads, tile_count * (thread + 1) // threads
        mine = out if thread == 0 or out == 0 else partial + 4 * count * (thread - 1)
        share = tiles + _TILE_BYTES * begin
        scratch = partial + 4 * count * (threads - 1 + thread)
        local = deltas + delta_bytes * thread
        _backward_tiles(
            table,
            values,
            share,
            end - begin,
            group,
            batch,
            work,
            local,
            grad,
            grad_stride,
            inputs,
            mine,
            scratch,
            count,
        )
    if out != 0:
        for thread in numba.prange(threads):
            first = count * thread // threads
            for other in range(threads - 1):
                share = count * (thread + 1) // threads - first
                add_vectors(out + 4 * first, partial + 4 * (count * other + first), share)


@_serial
def _single_layer(record: int, values: int, work: int, last: bool) -> None:
    first, start, index = load_i64(record + _FIRST), load_i64(record + _ROW_START), load_i64(record + _ROW_INDEX)
    bias, unit = load_i64(record + _BIAS), load_i64(record + _ROW_UNIT)
    x, out = work + 4 * load_i64(record + _IN_UNIT), work + 4 * load_i64(record + _OUT_UNIT)
    for row in range(load_i64(record + _ROWS)):
        begin = load_i32(start + 4 * row)
        count = load_i32(start + 4 * row + 4) - begin
        total = row_gather(x, index + 4 * begin, values + 4 * load_i32(first + 4 * row), count)
        total += load_f32(values + 4 * load_i32(bias + 4 * row))
        if not last and total < 0:
            total = numba.float32(0.0)
        store_f32(out + 4 * load_i32(unit + 4 * row), total)


@_serial
def forward_single(
    table: int, values: int, work: int, a0: int, w0: int, a1: int, w1: int, a2: int, w2: int, out: int
) -> None:
    """Forward of one sample: ``work`` holds one float per unit; ``out`` is ``[outputs]``."""
    target = work
    for address, count in ((a0, w0), (a1, w1), (a2, w2)):
        for i in range(count):
            store_f32(target + 4 * i, load_f32(address + 4 * i))
        target += 4 * count
    layers = load_i64(table)
    for layer in range(layers):
        _single_layer(table + _HEADER_BYTES + layer * _RECORD_BYTES, values, work, layer + 1 == layers)
    outputs = load_i64(table + _OUTPUTS)
    result = work + 4 * (load_i64(table + _UNITS) - outputs)
    for i in range(outputs):
        store_f32(out + 4 * i, load_f32(result + 4 * i))
