"""Kernels of a whole MLP: forward, backward, and forward of a single row, of a :class:`~sparse_offline_rl.engines.sparse.plan.SparsePlan`.

A call costs about a microsecond. A *workspace* holds, tile by tile, 16·V batch columns of each stored unit (inputs, live
hidden units, outputs): ``[tile][unit][16 V]`` float32, aligned to vectors. Columns beyond the batch are zero in the inputs
and in the gradient of the outputs, so they add nothing anywhere.

Every kernel runs on one thread, on the tiles that it is given. The order of summation is fixed by the plan, the batch and the
number of threads, never by scheduling; the number of threads matters to the gradient of the parameters only.
"""

from __future__ import annotations

import numba

from sparse_offline_rl.compilation import serial
from sparse_offline_rl.engines.sparse.gradients import add_vectors
from sparse_offline_rl.engines.sparse.intrinsics import load_f32, load_i32, load_i64, row_gather, store_f32
from sparse_offline_rl.engines.sparse.tables import (
    BIAS,
    DEAD,
    DEAD_LIST,
    FIRST,
    FLOAT_BYTES,
    HEADER_BYTES,
    IN_UNIT,
    INDEX_BYTES,
    OUT_UNIT,
    OUTPUTS,
    RECORD_BYTES,
    RELU,
    ROW_INDEX,
    ROW_START,
    ROW_UNIT,
    ROWS,
    TILE_BYTES,
    TILE_OFFSET,
    UNITS,
    Address,
    Bytes,
    Count,
    Flag,
)
from sparse_offline_rl.engines.sparse.tiles import (
    backward_layer,
    begin_backward,
    end_backward,
    forward_tile,
    gradient_layer,
)


@serial
def forward(
    table: Address, values: Address, tiles: Address, tile_count: Count, batch: Count, work: Address, keep: Flag,
    input0: Address, stride0: Bytes, width0: Count, input1: Address, stride1: Bytes, width1: Count,
    input2: Address, stride2: Bytes, width2: Count, out: Address,
) -> None:  # fmt: skip
    """Forward of some tiles. With ``keep`` each tile's activations stay in ``work``; else all tiles use the same place.

    Inputs are up to three row-major matrices: address, bytes from row to row, columns. ``out`` is ``[batch, outputs]``.
    """
    inputs = ((input0, stride0, width0), (input1, stride1, width1), (input2, stride2, width2))
    for t in range(tile_count):
        tile = tiles + TILE_BYTES * t
        base = work + load_i64(tile + TILE_OFFSET) if keep != 0 else work
        forward_tile(table, values, tile, base, batch, inputs, out)


@serial
def backward(
    table: Address, values: Address, tiles: Address, tile_count: Count, group: Count, batch: Count, work: Address,
    grad: Address, grad_stride: Bytes, input0: Address, stride0: Bytes, width0: Count,
    input1: Address, stride1: Bytes, width1: Count, input2: Address, stride2: Bytes, width2: Count,
    out: Address, partial: Address, count: Count,
) -> None:  # fmt: skip
    """Backward of some tiles after a forward that kept ``work``, which it uses up.

    ``grad`` is ``[batch, outputs]``. The gradient of all ``count`` parameters, summed over these tiles, goes to ``out`` (0: not
    wanted), those of the inputs to the three matrices (address 0: not wanted). ``partial`` is scratch for ``count`` floats.

    ``group`` tiles at a time, whose activations are still in the cache when the weights need them. Layer by layer, the
    gradient of the inputs takes the place of their activations once that of the weights has been computed. So a
    backward needs no memory of its own, which would not fit the cache beside the activations.
    """
    inputs = ((input0, stride0, width0), (input1, stride1, width1), (input2, stride2, width2))
    for begin in range(0, tile_count, group):
        members = min(group, tile_count - begin)
        first = tiles + TILE_BYTES * begin
        target = out if begin == 0 else partial
        for t in range(members):
            begin_backward(table, first + TILE_BYTES * t, work, batch, grad, grad_stride)
        for layer in range(load_i64(table) - 1, -1, -1):
            record = table + HEADER_BYTES + layer * RECORD_BYTES
            if out != 0:
                gradient_layer(record, first, members, work, target)
            for t in range(members if layer > 0 else 0):
                backward_layer(record, values, first + TILE_BYTES * t, work)
        for t in range(members):
            end_backward(table, values, first + TILE_BYTES * t, work, batch, inputs)
        if out != 0 and begin > 0:
            add_vectors(out, partial, count)
    if out != 0:
        dead = load_i64(table + DEAD_LIST)
        for i in range(load_i64(table + DEAD)):
            store_f32(out + FLOAT_BYTES * load_i32(dead + INDEX_BYTES * i), numba.float32(0.0))


@serial
def add(total: Address, terms: Address, count: Count, rows: Count, stride: Bytes) -> None:
    """``total += term`` for each of ``rows`` terms in turn, ``count`` floats each and ``stride`` bytes apart."""
    for row in range(rows):
        add_vectors(total, terms + stride * row, count)


@serial
def _single_layer(record: Address, values: Address, work: Address) -> None:
    first, start, index = load_i64(record + FIRST), load_i64(record + ROW_START), load_i64(record + ROW_INDEX)
    bias, unit = load_i64(record + BIAS), load_i64(record + ROW_UNIT)
    x, out = work + FLOAT_BYTES * load_i64(record + IN_UNIT), work + FLOAT_BYTES * load_i64(record + OUT_UNIT)
    relu = load_i64(record + RELU)
    for row in range(load_i64(record + ROWS)):
        begin = load_i32(start + INDEX_BYTES * row)
        count = load_i32(start + INDEX_BYTES * (row + 1)) - begin
        weights = values + FLOAT_BYTES * load_i32(first + INDEX_BYTES * row)
        total = row_gather(x, index + INDEX_BYTES * begin, weights, count)
        total += load_f32(values + FLOAT_BYTES * load_i32(bias + INDEX_BYTES * row))
        if relu and total < 0:
            total = numba.float32(0.0)
        store_f32(out + FLOAT_BYTES * load_i32(unit + INDEX_BYTES * row), total)


@serial
def single(
    table: Address, values: Address, work: Address, input0: Address, width0: Count, input1: Address, width1: Count,
    input2: Address, width2: Count, out: Address,
) -> None:  # fmt: skip
    """Forward of one row: ``work`` holds one float for each stored unit; ``out`` is ``[outputs]``."""
    target = work
    for address, count in ((input0, width0), (input1, width1), (input2, width2)):
        for i in range(count):
            store_f32(target + FLOAT_BYTES * i, load_f32(address + FLOAT_BYTES * i))
        target += FLOAT_BYTES * count
    for layer in range(load_i64(table)):
        _single_layer(table + HEADER_BYTES + layer * RECORD_BYTES, values, work)
    outputs = load_i64(table + OUTPUTS)
    result = work + FLOAT_BYTES * (load_i64(table + UNITS) - outputs)
    for i in range(outputs):
        store_f32(out + FLOAT_BYTES * i, load_f32(result + FLOAT_BYTES * i))
