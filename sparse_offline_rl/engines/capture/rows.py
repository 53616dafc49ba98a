"""One row of an elementwise instruction or of a reduction, as intrinsics."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from sparse_offline_rl.engines.capture.opcodes import Map, Reduce
from sparse_offline_rl.engines.capture.vector_math import MAPS, constant
from sparse_offline_rl.engines.sparse.simd import (
    F32,
    I32,
    I64,
    VECTOR,
    advance,
    cgutils,
    for_each_vector,
    intrinsic,
    load,
    masked_gather,
    masked_load,
    masked_store,
    splat,
)
from sparse_offline_rl.engines.sparse.tables import LANES


def _operand(builder: Any, address: Any, stride: Any, first: Any, mask: Any) -> Any:
    """16 elements ``stride`` bytes apart from element ``first`` on; the stride is mostly 4, or 0 for a constant."""
    result = cgutils.alloca_once(builder, VECTOR)
    place = builder.add(address, builder.mul(first, stride))
    with builder.if_else(builder.icmp_signed("==", stride, I64(4))) as (dense, other):
        with dense:
            vector = masked_load(builder, builder.inttoptr(place, VECTOR.as_pointer()), mask, VECTOR)
            builder.store(vector, result)
        with other, builder.if_else(builder.icmp_signed("==", stride, I64(0))) as (single, apart):
            with single:
                builder.store(splat(builder, load(builder, address, F32, 4)), result)
            with apart:
                lanes = ir.Constant(ir.VectorType(I32, LANES), list(range(LANES)))
                step = splat(builder, builder.trunc(builder.ashr(stride, I64(2)), I32))
                builder.store(masked_gather(builder, place, builder.mul(lanes, step), mask), result)
    return builder.load(result)


@intrinsic
def map_row(
    typingctx: Any, function: Any, count: Any, out: Any, a: Any, sa: Any, b: Any, sb: Any, c: Any, sc: Any
) -> Any:
    """``out[i] = f(a[i], b[i], c[i])`` for ``count`` elements; f is a :class:`~.opcodes.Map`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_, count_, out_, *operands = args
        result = cgutils.alloca_once(builder, VECTOR)

        def body(first: Any, mask: Any) -> None:
            places = zip(operands[0::2], operands[1::2], strict=True)
            vectors = [_operand(builder, address, stride, first, mask) for address, stride in places]
            end = builder.append_basic_block("mapped")
            switch = builder.switch(function_, end)
            for value, emit in MAPS.items():
                block = builder.append_basic_block(value.name.lower())
                switch.add_case(I64(int(value)), block)
                builder.position_at_end(block)
                builder.store(emit(builder, *vectors), result)
                builder.branch(end)
            builder.position_at_end(end)
            target = builder.inttoptr(advance(builder, out_, first, 4), VECTOR.as_pointer())
            masked_store(builder, builder.load(result), target, mask)

        for_each_vector(builder, count_, body)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), codegen


@intrinsic
def reduce_row(typingctx: Any, function: Any, count: Any, a: Any, stride: Any) -> Any:
    """Sum, maximum or minimum of ``count`` >= 1 elements ``stride`` bytes apart, by :class:`~.opcodes.Reduce`.

    Lane i takes elements i, i + 16, …; then the lanes are folded in a fixed order.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_, count_, a_, stride_ = args
        # A maximum starts from the first element in every lane, and lanes beyond the end stay at it.
        first = splat(builder, load(builder, a_, F32, 4))
        summing = builder.icmp_signed("==", function_, I64(int(Reduce.SUM)))
        total = cgutils.alloca_once_value(builder, builder.select(summing, constant(0.0), first))

        def body(position: Any, mask: Any) -> None:
            x, old = _operand(builder, a_, stride_, position, mask), builder.load(total)
            builder.store(builder.select(mask, _combine(builder, function_, old, x), old), total)

        for_each_vector(builder, count_, body)
        return _fold(builder, function_, builder.load(total))

    return types.float32(*[types.int64] * 4), codegen


def _combine(builder: Any, function: Any, a: Any, b: Any) -> Any:
    largest, smallest = (MAPS[kind](builder, a, b, b) for kind in (Map.MAX, Map.MIN))
    extreme = builder.select(builder.icmp_signed("==", function, I64(int(Reduce.MAX))), largest, smallest)
    return builder.select(builder.icmp_signed("==", function, I64(int(Reduce.SUM))), builder.fadd(a, b), extreme)


def _fold(builder: Any, function: Any, vector: Any) -> Any:
    size = LANES
    while size > 1:  # each half of the lanes with the other
        size //= 2
        lanes = [(lane + size) % LANES for lane in range(LANES)]
        other = builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, LANES), lanes))
        vector = _combine(builder, function, vector, other)
    return builder.extract_element(vector, I32(0))
