"""Sums over the batch: the gradients of weights and biases, as intrinsics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from sparse_offline_rl.engines.sparse.simd import (
    I32,
    I64,
    VECTOR,
    advance,
    cgutils,
    fma,
    fold,
    for_each_vector,
    intrinsic,
    load,
    load_index,
    masked_load,
    masked_store,
    store,
)
from sparse_offline_rl.engines.sparse.tables import (
    LANES,
    TILE_BYTES,
    TILE_OFFSET,
    TILE_VECTORS,
    VECTOR_BYTES,
    WORD_BYTES,
)


def _over_tiles(builder: Any, tiles: Any, count: Any, body: Callable[[Any, Any], None]) -> None:
    """``body(start, v)`` for each tile: its byte offset in a workspace and its number of vectors."""
    with cgutils.for_range(builder, count) as tile:
        entry = advance(builder, tiles, tile.index, TILE_BYTES)
        offset, vectors = (
            load(builder, builder.add(entry, I64(byte)), I64, WORD_BYTES) for byte in (TILE_OFFSET, TILE_VECTORS)
        )
        body(offset, vectors)


@intrinsic
def weight_gradients(
    typingctx: Any,
    group: Any,
    tiles: Any,
    tile_count: Any,
    work: Any,
    dy_unit: Any,
    x_unit: Any,
    index: Any,
    out: Any,
) -> Any:
    """Gradients of G neighbouring weights of one row, ``out[j] = Σ_batch dy · x[index[j]]``; G is the length of ``group``.

    The batch is summed in the same order whatever the tiles: lane i takes columns i, i + 16, …, then the lanes are folded.
    """
    size = group.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, tiles_, tile_count_, work_, dy_unit_, x_unit_, index_, out_ = args
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(size)]
        units = [load_index(builder, index_, I64(j)) for j in range(size)]

        def body(start: Any, vectors: Any) -> None:
            bytes_per_unit = builder.mul(vectors, I64(VECTOR_BYTES))
            tile = builder.add(work_, start)
            delta = builder.add(tile, builder.mul(dy_unit_, bytes_per_unit))
            base = builder.add(tile, builder.mul(x_unit_, bytes_per_unit))
            rows = [builder.add(base, builder.mul(unit, vectors)) for unit in units]
            with cgutils.for_range(builder, vectors) as vector:
                shift = builder.mul(vector.index, I64(VECTOR_BYTES))
                d = load(builder, builder.add(delta, shift), VECTOR, VECTOR_BYTES)
                for total, row in zip(sums, rows, strict=True):
                    activation = load(builder, builder.add(row, shift), VECTOR, VECTOR_BYTES)
                    builder.store(fma(builder, d, activation, builder.load(total)), total)

        _over_tiles(builder, tiles_, tile_count_, body)
        folded = fold(builder, [builder.load(total) for total in sums])
        lanes = ir.Constant(ir.VectorType(I32, size), list(range(size)))
        store(builder, builder.shuffle_vector(folded, folded, lanes), out_, 4)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(group, i64, i64, i64, i64, i64, i64, i64), codegen


@intrinsic
def bias_gradients(
    typingctx: Any, group: Any, tiles: Any, tile_count: Any, dy: Any, dy_unit: Any, unit: Any, position: Any, out: Any
) -> Any:
    """Gradients of G biases, ``out[position[j]] = Σ_batch dy`` of unit ``dy_unit + unit[j]``, summed as the weights' are."""
    size = group.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, tiles_, tile_count_, dy_, dy_unit_, unit_, position_, out_ = args
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(size)]
        units = [builder.add(dy_unit_, load_index(builder, unit_, I64(j))) for j in range(size)]

        def body(start: Any, vectors: Any) -> None:
            bytes_per_unit = builder.mul(vectors, I64(VECTOR_BYTES))
            base = builder.add(dy_, start)
            rows = [builder.add(base, builder.mul(unit, bytes_per_unit)) for unit in units]
            with cgutils.for_range(builder, vectors) as vector:
                shift = builder.mul(vector.index, I64(VECTOR_BYTES))
                for total, row in zip(sums, rows, strict=True):
                    d = load(builder, builder.add(row, shift), VECTOR, VECTOR_BYTES)
                    builder.store(builder.fadd(builder.load(total), d), total)

        _over_tiles(builder, tiles_, tile_count_, body)
        folded = fold(builder, [builder.load(total) for total in sums])
        for j in range(size):
            target = advance(builder, out_, load_index(builder, position_, I64(j)), 4)
            store(builder, builder.extract_element(folded, I32(j)), target, 4)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(group, *[i64] * 7), codegen


@intrinsic
def add_vectors(typingctx: Any, total: Any, term: Any, count: Any) -> Any:
    """``total += term``, ``count`` floats."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total_, term_, count_ = args

        def add(first: Any, mask: Any) -> None:
            target = builder.inttoptr(advance(builder, total_, first, 4), VECTOR.as_pointer())
            source = builder.inttoptr(advance(builder, term_, first, 4), VECTOR.as_pointer())
            old, new = (masked_load(builder, pointer, mask, VECTOR) for pointer in (target, source))
            masked_store(builder, builder.fadd(old, new), target, mask)

        for_each_vector(builder, count_, add)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen
