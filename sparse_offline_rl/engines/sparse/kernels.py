"""Whole-MLP kernels: forward, backward and single-sample forward of a :class:`~sparse_offline_rl.engines.sparse.plan.SparsePlan`.

Everything is an ``int64`` address or count, so a call costs about a microsecond. A *workspace* holds, tile by tile, 16·V
batch columns for each unit (inputs, live hidden units, outputs): ``[tile][unit][16 V]`` float32, 64-byte aligned. Columns
beyond the batch are zero in the inputs and in the output gradients, so they add nothing anywhere.

The order of summation is fixed by the plan, the batch and the number of threads, never by scheduling; the number of threads
matters to the gradient of the parameters only.
"""

from __future__ import annotations

from typing import Any

import numba

from sparse_offline_rl.compilation import parallel, serial
from sparse_offline_rl.engines.sparse.gradients import add_vectors
from sparse_offline_rl.engines.sparse.intrinsics import load_f32, load_i32, load_i64, row_gather, store_f32
from sparse_offline_rl.engines.sparse.layout import (
    BIAS,
    DEAD,
    DEAD_LIST,
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
    TILE_BYTES,
    UNITS,
)
from sparse_offline_rl.engines.sparse.tiles import (
    backward_layer,
    begin_backward,
    end_backward,
    forward_tile,
    gradient_layer,
)


@serial
def forward_serial(
    table: int, values: int, tiles: int, tile_count: int, batch: int, work: int, scratch: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, threads: int,
) -> None:  # fmt: skip
    """Forward of all tiles. ``work`` keeps every tile's activations; ``scratch`` > 0 (bytes) reuses one tile's space.

    Inputs are up to three (address, row stride in bytes, width) triples; ``out`` is ``[batch, outputs]`` row-major.
    """
    inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))
    for t in range(tile_count):
        tile = tiles + TILE_BYTES * t
        base = work if scratch > 0 else work + load_i64(tile)
        forward_tile(table, values, tile, base, batch, inputs, out)


@parallel
def forward_parallel(
    table: int, values: int, tiles: int, tile_count: int, batch: int, work: int, scratch: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, threads: int,
) -> None:  # fmt: skip
    """:func:`forward_serial` with the tiles dealt to ``threads`` threads, each with its own scratch."""
    for thread in numba.prange(threads):
        inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))  # here: a parallel region takes scalars only
        for t in range(tile_count * thread // threads, tile_count * (thread + 1) // threads):
            tile = tiles + TILE_BYTES * t
            base = work + scratch * thread if scratch > 0 else work + load_i64(tile)
            forward_tile(table, values, tile, base, batch, inputs, out)


@serial
def _backward_tiles(
    table: int, values: int, tiles: int, tile_count: int, group: int, batch: int, work: int, grad: int, grad_stride: int,
    inputs: Any, out: int, partial: int, count: int,
) -> None:  # fmt: skip
    """Backward of some tiles, ``group`` at a time: their activations are still in the cache when the weights need them.

    Layer by layer, the gradient of the inputs takes the place of their activations once that of the weights has been
    computed. So a backward needs no memory of its own, which would not fit the cache beside the activations.
    """
    for begin in range(0, tile_count, group):
        members = min(group, tile_count - begin)
        share = tiles + TILE_BYTES * begin
        target = out if begin == 0 else partial
        for t in range(members):
            begin_backward(table, share + TILE_BYTES * t, work, batch, grad, grad_stride)
        for layer in range(load_i64(table) - 1, -1, -1):
            record = table + HEADER_BYTES + layer * RECORD_BYTES
            if out != 0:
                gradient_layer(record, share, members, work, target)
            for t in range(members if layer > 0 else 0):
                backward_layer(record, values, share + TILE_BYTES * t, work)
        for t in range(members):
            end_backward(table, values, share + TILE_BYTES * t, work, batch, inputs)
        if out != 0 and begin > 0:
            add_vectors(out, partial, count)
    if out != 0:
        dead = load_i64(table + DEAD_LIST)
        for i in range(load_i64(table + DEAD)):
            store_f32(out + 4 * load_i32(dead + 4 * i), numba.float32(0.0))


@serial
def backward_serial(
    table: int, values: int, tiles: int, tile_count: int, group: int, batch: int, work: int, grad: int, grad_stride: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, partial: int, count: int,
    threads: int,
) -> None:  # fmt: skip
    """Backward of all tiles after a forward that kept ``work``, which it uses up.

    ``grad`` is ``[batch, outputs]`` with a row stride in bytes; the gradient of all ``count`` parameters goes to ``out`` (0:
    not wanted), those of the inputs to the triples' addresses (0: not wanted). ``partial`` is scratch for ``count`` floats.
    """
    inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))
    _backward_tiles(
        table, values, tiles, tile_count, group, batch, work, grad, grad_stride, inputs, out, partial, count
    )


@serial
def add_serial(total: int, terms: int, count: int, rows: int, stride: int) -> None:
    """``total += term`` for each of ``rows`` terms in turn, ``count`` floats each and ``stride`` bytes apart."""
    for row in range(rows):
        add_vectors(total, terms + stride * row, count)


@parallel
def backward_parallel(
    table: int, values: int, tiles: int, tile_count: int, group: int, batch: int, work: int, grad: int, grad_stride: int,
    a0: int, s0: int, w0: int, a1: int, s1: int, w1: int, a2: int, s2: int, w2: int, out: int, partial: int, count: int,
    threads: int,
) -> None:  # fmt: skip
    """:func:`backward_serial` with the tiles dealt to ``threads`` threads.

    A thread sums the parameters' gradient over its own tiles, which are in its own cache: the first one into ``out``, thread
    i into row i - 1 of ``partial`` ``[2 threads - 1, count]``; these are added in order. The other rows are scratch.
    """
    for thread in numba.prange(threads):
        inputs = ((a0, s0, w0), (a1, s1, w1), (a2, s2, w2))  # here: a parallel region takes scalars only
        begin, end = tile_count * thread // threads, tile_count * (thread + 1) // threads
        mine = out if thread == 0 or out == 0 else partial + 4 * count * (thread - 1)
        share = tiles + TILE_BYTES * begin
        scratch = partial + 4 * count * (threads - 1 + thread)
        _backward_tiles(
            table, values, share, end - begin, group, batch, work, grad, grad_stride, inputs, mine, scratch, count
        )
    if out != 0:
        for thread in numba.prange(threads):
            first = count * thread // threads
            share = count * (thread + 1) // threads - first
            add_serial(out + 4 * first, partial + 4 * first, share, threads - 1, 4 * count)


@serial
def _single_layer(record: int, values: int, work: int, last: bool) -> None:
    first, start, index = load_i64(record + FIRST), load_i64(record + ROW_START), load_i64(record + ROW_INDEX)
    bias, unit = load_i64(record + BIAS), load_i64(record + ROW_UNIT)
    x, out = work + 4 * load_i64(record + IN_UNIT), work + 4 * load_i64(record + OUT_UNIT)
    for row in range(load_i64(record + ROWS)):
        begin = load_i32(start + 4 * row)
        count = load_i32(start + 4 * row + 4) - begin
        total = row_gather(x, index + 4 * begin, values + 4 * load_i32(first + 4 * row), count)
        total += load_f32(values + 4 * load_i32(bias + 4 * row))
        if not last and total < 0:
            total = numba.float32(0.0)
        store_f32(out + 4 * load_i32(unit + 4 * row), total)


@serial
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
        _single_layer(table + HEADER_BYTES + layer * RECORD_BYTES, values, work, layer + 1 == layers)
    outputs = load_i64(table + OUTPUTS)
    result = work + 4 * (load_i64(table + UNITS) - outputs)
    for i in range(outputs):
        store_f32(out + 4 * i, load_f32(result + 4 * i))
