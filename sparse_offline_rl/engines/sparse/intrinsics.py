"""The inner loops of the kernels as intrinsics, because Numba's own vectorisation of them is not reliable.

Addresses are plain ``int64``, so that a call passes no arrays. A tile holds 16·V batch columns per unit; V is the length of
the tuple ``width``, so that Numba compiles (and caches) one version per V. ``index`` arrays hold units times 64, the bytes
that one vector per unit takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from sparse_offline_rl.engines.sparse.simd import (
    F32,
    I32,
    I64,
    VECTOR,
    advance,
    cgutils,
    first_lanes,
    fma,
    fold,
    intrinsic,
    load,
    load_index,
    masked_gather,
    masked_load,
    masked_store,
    splat,
    store,
    transposed,
)
from sparse_offline_rl.engines.sparse.tables import LANES, VECTOR_BYTES

_UNROLL = 4


@intrinsic
def load_i64(typingctx: Any, address: Any) -> Any:
    """The int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return load(builder, args[0], I64, 8)

    return types.int64(types.int64), codegen


@intrinsic
def load_i32(typingctx: Any, address: Any) -> Any:
    """The int32 at ``address``, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sext(load(builder, args[0], I32, 4), I64)

    return types.int64(types.int64), codegen


@intrinsic
def load_f32(typingctx: Any, address: Any) -> Any:
    """The float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return load(builder, args[0], F32, 4)

    return types.float32(types.int64), codegen


@intrinsic
def store_f32(typingctx: Any, address: Any, value: Any) -> Any:
    """Write the float32 ``value`` to ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store(builder, args[1], args[0], 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


def _chains(vectors: int) -> int:
    """Independent sums per register, so that a narrow tile does not wait for the latency of one chain of FMAs."""
    return {1: 4, 2: 2}.get(vectors, 1)


def accumulate(builder: Any, start: list[Any], count: Any, term: Callable[[Any], tuple[Any, Any]]) -> list[Any]:
    """``start[i] + Σ_k weight_k · row_k[i]`` for the V vectors of a unit; ``term(k)`` gives weight and row address."""
    chains = _chains(len(start))
    zero = ir.Constant(VECTOR, [0.0] * LANES)
    sums = [
        [cgutils.alloca_once_value(builder, zero if chain else first) for first in start] for chain in range(chains)
    ]

    def add(k: Any, totals: list[Any]) -> None:
        weight, row = term(k)
        broadcast = splat(builder, weight)
        for i, total in enumerate(totals):
            x = load(builder, builder.add(row, I64(VECTOR_BYTES * i)), VECTOR, VECTOR_BYTES)
            builder.store(fma(builder, broadcast, x, builder.load(total)), total)

    blocks = builder.lshr(count, I64(_UNROLL.bit_length() - 1))
    with cgutils.for_range(builder, blocks) as block:
        first_k = builder.mul(block.index, I64(_UNROLL))
        for j in range(_UNROLL):
            add(builder.add(first_k, I64(j)), sums[j % chains])
    done = builder.mul(blocks, I64(_UNROLL))
    with cgutils.for_range(builder, builder.sub(count, done)) as rest:
        add(builder.add(done, rest.index), sums[0])
    while len(sums) > 1:
        half = len(sums) // 2
        for left, right in zip(sums[:half], sums[half:], strict=True):
            for a, b in zip(left, right, strict=True):
                builder.store(builder.fadd(builder.load(a), builder.load(b)), a)
        sums = sums[:half]
    return [builder.load(total) for total in sums[0]]


def store_clipped(builder: Any, results: list[Any], floor: Any, out: Any) -> None:
    """Write ``max(floor, result)``, vector after vector. A NaN passes, as it does through torch.relu."""
    limit = splat(builder, floor)
    for i, y in enumerate(results):
        clipped = builder.select(builder.fcmp_ordered(">", limit, y), limit, y)
        store(builder, clipped, builder.add(out, I64(VECTOR_BYTES * i)), VECTOR_BYTES)


@intrinsic
def row_forward(
    typingctx: Any, width: Any, x: Any, index: Any, values: Any, count: Any, bias: Any, floor: Any, out: Any
) -> Any:
    """One unit of one tile: ``out = max(floor, bias + Σ_k values[k] · x[index[k]])``; floor 0 is ReLU, -inf is linear."""
    vectors = width.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x_, index_, values_, count_, bias_, floor_, out_ = args

        def term(k: Any) -> tuple[Any, Any]:
            weight = load(builder, advance(builder, values_, k, 4), F32, 4)
            return weight, advance(builder, x_, load_index(builder, index_, k), vectors)

        store_clipped(builder, accumulate(builder, [splat(builder, bias_)] * vectors, count_, term), floor_, out_)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(width, i64, i64, i64, i64, types.float32, types.float32, i64), codegen


@intrinsic
def row_backward(
    typingctx: Any,
    width: Any,
    dy: Any,
    index: Any,
    position: Any,
    values: Any,
    count: Any,
    gated: Any,
    unit: Any,
) -> Any:
    """One input unit of one tile: ``Σ_k values[position[k]] · dy[index[k]]``, in the place of the unit's activation.

    Where ``gated``, 0 for activations that are not positive.
    """
    vectors = width.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, dy_, index_, position_, values_, count_, gated_, unit_ = args
        zero = ir.Constant(VECTOR, [0.0] * LANES)

        def term(k: Any) -> tuple[Any, Any]:
            weight = load(builder, advance(builder, values_, load_index(builder, position_, k), 4), F32, 4)
            return weight, advance(builder, dy_, load_index(builder, index_, k), vectors)

        results = accumulate(builder, [zero] * vectors, count_, term)
        sums = [cgutils.alloca_once_value(builder, dx) for dx in results]
        with cgutils.if_likely(builder, builder.trunc(gated_, ir.IntType(1))):
            for i, (total, dx) in enumerate(zip(sums, results, strict=True)):
                activation = load(builder, builder.add(unit_, I64(VECTOR_BYTES * i)), VECTOR, VECTOR_BYTES)
                builder.store(builder.select(builder.fcmp_ordered(">", activation, zero), dx, zero), total)
        for i, total in enumerate(sums):
            store(builder, builder.load(total), builder.add(unit_, I64(VECTOR_BYTES * i)), VECTOR_BYTES)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(width, i64, i64, i64, i64, i64, i64, i64), codegen


@intrinsic
def transpose(
    typingctx: Any,
    source: Any,
    source_step: Any,
    rows: Any,
    lanes: Any,
    out: Any,
    out_step: Any,
    columns: Any,
    width: Any,
) -> Any:
    """Up to 16 x 16 floats: ``rows`` vectors, ``lanes`` long and ``source_step`` bytes apart, become ``columns`` vectors.

    These are ``out_step`` bytes apart and ``width`` long; what was not read counts as zero.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source_, source_step_, rows_, lanes_, out_, out_step_, columns_, width_ = args
        vectors = []
        for i in range(LANES):
            wanted = builder.select(builder.icmp_signed(">", rows_, I64(i)), lanes_, I64(0))
            address = builder.add(source_, builder.mul(source_step_, I64(i)))
            pointer = builder.inttoptr(address, VECTOR.as_pointer())
            vectors.append(masked_load(builder, pointer, first_lanes(builder, wanted), VECTOR))
        for i, vector in enumerate(transposed(builder, vectors)):
            wanted = builder.select(builder.icmp_signed(">", columns_, I64(i)), width_, I64(0))
            address = builder.add(out_, builder.mul(out_step_, I64(i)))
            masked_store(builder, vector, builder.inttoptr(address, VECTOR.as_pointer()), first_lanes(builder, wanted))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen


@intrinsic
def row_gather(typingctx: Any, x: Any, index: Any, values: Any, count: Any) -> Any:
    """One unit for a single sample, one float per unit: ``Σ_k values[k] · x[index[k]]``, 16 weights at a time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_, index_, values_, count_ = args
        zero = ir.Constant(VECTOR, [0.0] * LANES)
        total = cgutils.alloca_once_value(builder, zero)
        indices = ir.VectorType(I32, LANES)
        shift = ir.Constant(indices, [VECTOR_BYTES.bit_length() - 1] * LANES)

        def step(k: Any, mask: Any) -> None:
            position = builder.inttoptr(advance(builder, index_, k, 4), indices.as_pointer())
            columns = builder.lshr(masked_load(builder, position, mask, indices), shift)
            weights = builder.inttoptr(advance(builder, values_, k, 4), VECTOR.as_pointer())
            gathered = masked_gather(builder, x_, columns, mask)
            weighted = fma(builder, masked_load(builder, weights, mask, VECTOR), gathered, builder.load(total))
            builder.store(weighted, total)

        blocks = builder.lshr(count_, I64(LANES.bit_length() - 1))
        with cgutils.for_range(builder, blocks) as block:
            step(builder.mul(block.index, I64(LANES)), ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * LANES))
        done = builder.mul(blocks, I64(LANES))
        with cgutils.if_likely(builder, builder.icmp_signed("<", done, count_)):
            step(done, first_lanes(builder, builder.sub(count_, done)))
        return builder.extract_element(fold(builder, [builder.load(total)]), I32(0))

    i64 = types.int64
    return types.float32(i64, i64, i64, i64), codegen
