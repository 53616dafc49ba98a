"""Intrinsics that find weights and rows by tables: what a forward with a broadcast input needs besides :mod:`.intrinsics`."""

from __future__ import annotations

from typing import Any

from numba import types

from sparse_offline_rl.engines.sparse.intrinsics import accumulate, store_clipped
from sparse_offline_rl.engines.sparse.simd import (
    F32,
    I64,
    VECTOR,
    advance,
    first_lanes,
    intrinsic,
    load,
    load_index,
    masked_load,
    masked_store,
    splat,
    store,
    transposed,
)
from sparse_offline_rl.engines.sparse.tables import LANES, VECTOR_BYTES


@intrinsic
def row_onward(
    typingctx: Any,
    width: Any,
    start: Any,
    x: Any,
    index: Any,
    position: Any,
    values: Any,
    count: Any,
    floor: Any,
    out: Any,
) -> Any:
    """One unit of one tile: ``out = max(floor, start + Σ_k values[position[k]] · x[index[k]])``.

    ``start`` is the address of one vector, for all vectors of the tile.
    """
    vectors = width.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, start_, x_, index_, position_, values_, count_, floor_, out_ = args

        def term(k: Any) -> tuple[Any, Any]:
            weight = load(builder, advance(builder, values_, load_index(builder, position_, k), 4), F32, 4)
            return weight, advance(builder, x_, load_index(builder, index_, k), vectors)

        first = load(builder, start_, VECTOR, VECTOR_BYTES)
        store_clipped(builder, accumulate(builder, [first] * vectors, count_, term), floor_, out_)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(width, i64, i64, i64, i64, i64, i64, types.float32, i64), codegen


@intrinsic
def store_splat(typingctx: Any, address: Any, value: Any) -> Any:
    """Write a vector whose lanes are ``value``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store(builder, splat(builder, args[1]), args[0], VECTOR_BYTES)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


def _row(builder: Any, base: Any, stride: Any, table: Any, lane: int) -> Any:
    """Pointer to the row that belongs to a lane."""
    address = builder.add(base, builder.mul(load_index(builder, table, I64(lane)), stride))
    return builder.inttoptr(address, VECTOR.as_pointer())


def _some(builder: Any, count: Any, i: int) -> Any:
    """All lanes for the first ``count`` vectors, none for the others."""
    wanted = builder.select(builder.icmp_signed(">", count, I64(i)), I64(LANES), I64(0))
    return first_lanes(builder, wanted)


@intrinsic
def gather_rows(typingctx: Any, source: Any, stride: Any, table: Any, columns: Any, out: Any, out_step: Any) -> Any:
    """Up to 16 columns of the 16 rows ``table[lane]`` of a matrix, as vectors ``out_step`` bytes apart."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source_, stride_, table_, columns_, out_, out_step_ = args
        mask = first_lanes(builder, columns_)
        rows = [
            masked_load(builder, _row(builder, source_, stride_, table_, lane), mask, VECTOR) for lane in range(LANES)
        ]
        for i, vector in enumerate(transposed(builder, rows)):
            place = builder.inttoptr(builder.add(out_, builder.mul(out_step_, I64(i))), VECTOR.as_pointer())
            masked_store(builder, vector, place, _some(builder, columns_, i))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen


@intrinsic
def scatter_rows(typingctx: Any, source: Any, source_step: Any, columns: Any, out: Any, stride: Any, table: Any) -> Any:
    """The inverse of :func:`gather_rows`: up to 16 vectors, to columns of the rows ``table[lane]``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source_, source_step_, columns_, out_, stride_, table_ = args
        vectors = []
        for i in range(LANES):
            place = builder.inttoptr(builder.add(source_, builder.mul(source_step_, I64(i))), VECTOR.as_pointer())
            vectors.append(masked_load(builder, place, _some(builder, columns_, i), VECTOR))
        mask = first_lanes(builder, columns_)
        for lane, row in enumerate(transposed(builder, vectors)):
            masked_store(builder, row, _row(builder, out_, stride_, table_, lane), mask)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), codegen
