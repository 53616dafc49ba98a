"""``<16 x float>`` building blocks in LLVM IR, for the intrinsics of the kernels.

LLVM lowers them to AVX-512, to pairs of AVX2 registers or to quadruples of NEON registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic as _intrinsic

from sparse_offline_rl.engines.sparse.tables import LANES

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(F32, LANES)

# Typed by hand: Numba ships no annotations.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = _intrinsic
cgutils: Any = _cgutils


def load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    """The value of type ``kind`` at an address."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def store(builder: Any, value: Any, address: Any, align: int) -> None:
    """Write ``value`` to an address."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def advance(builder: Any, base: Any, index: Any, scale: int) -> Any:
    """``base + index · scale``, in bytes."""
    return builder.add(base, builder.mul(index, I64(scale)))


def load_index(builder: Any, base: Any, position: Any) -> Any:
    """The int32 at ``base[position]``, widened."""
    return builder.sext(load(builder, advance(builder, base, position, 4), I32, 4), I64)


def splat(builder: Any, scalar: Any) -> Any:
    """A vector whose 16 lanes are ``scalar``."""
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    single = builder.insert_element(undefined, scalar, I32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a · b + c``, rounded once."""
    signature = ir.FunctionType(VECTOR, [VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.v{LANES}f32")
    return builder.call(function, (a, b, c))


def first_lanes(builder: Any, count: Any) -> Any:
    """The mask of lanes 0 … count - 1; all lanes for a larger count."""
    lanes = ir.Constant(ir.VectorType(I32, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, splat(builder, builder.trunc(count, I32)))


def for_each_vector(builder: Any, count: Any, body: Callable[[Any, Any], None]) -> None:
    """``body(first, mask)`` for every 16 of ``count`` elements; the mask leaves out what is beyond the last one."""
    shift = I64(LANES.bit_length() - 1)
    with cgutils.for_range(builder, builder.lshr(builder.add(count, I64(LANES - 1)), shift)) as block:
        first = builder.shl(block.index, shift)
        body(first, first_lanes(builder, builder.sub(count, first)))


def masked_load(builder: Any, pointer: Any, mask: Any, kind: Any) -> Any:
    """A vector whose lanes outside the mask are 0 and never touched."""
    suffix = {F32: "f32", I32: "i32"}[kind.element]
    signature = ir.FunctionType(kind, [pointer.type, I32, mask.type, kind])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.load.v{LANES}{suffix}.p0")
    return builder.call(function, (pointer, I32(4), mask, ir.Constant(kind, [0] * LANES)))


def masked_store(builder: Any, value: Any, pointer: Any, mask: Any) -> None:
    """Write the lanes of the mask."""
    signature = ir.FunctionType(ir.VoidType(), [VECTOR, pointer.type, I32, mask.type])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.store.v{LANES}f32.p0")
    builder.call(function, (value, pointer, I32(4), mask))


def masked_gather(builder: Any, base: Any, offsets: Any, mask: Any) -> Any:
    """The float32 at ``base + 4 offsets[lane]``, 0 outside the mask."""
    pointers = builder.gep(builder.inttoptr(base, F32.as_pointer()), [offsets], source_etype=F32)
    # llvmlite overlooks that a vector of indices gives a vector of pointers.
    pointers.type = ir.VectorType(pointers.type, LANES)
    signature = ir.FunctionType(VECTOR, [pointers.type, I32, mask.type, VECTOR])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.gather.v{LANES}f32.v{LANES}p0")
    return builder.call(function, (pointers, I32(4), mask, ir.Constant(VECTOR, [0] * LANES)))


def transposed(builder: Any, vectors: list[Any]) -> list[Any]:
    """16 vectors to their transpose: four rounds of the perfect shuffle."""
    half = LANES // 2
    pairs = [lane for i in range(LANES) for lane in (i, i + LANES)]
    low, high = (ir.Constant(ir.VectorType(I32, LANES), lanes) for lanes in (pairs[:LANES], pairs[LANES:]))
    for _ in range(LANES.bit_length() - 1):
        vectors = [
            builder.shuffle_vector(a, b, mask)
            for a, b in zip(vectors[:half], vectors[half:], strict=True)
            for mask in (low, high)
        ]
    return vectors


def fold(builder: Any, vectors: list[Any]) -> Any:
    """Sum the lanes of each of ``n`` vectors (a power of two): a vector whose first n lanes are the n sums.

    Each step adds halves: two vectors become one that holds the half sums of both.
    """
    undefined = ir.Constant(VECTOR, ir.Undefined)
    size = LANES  # lanes that still have to be summed into one
    while size > 1:
        half, pairs = size // 2, len(vectors) > 1
        low = [b * size + i for b in range(LANES // size) for i in range(half)]
        high = [lane + half for lane in low]
        partners = list(zip(vectors[0::2], vectors[1::2], strict=True)) if pairs else [(vectors[0], undefined)]
        shift = LANES if pairs else 0
        masks = [
            ir.Constant(ir.VectorType(I32, LANES), lanes + [lane + shift for lane in lanes]) for lanes in (low, high)
        ]
        vectors = [
            builder.fadd(builder.shuffle_vector(a, b, masks[0]), builder.shuffle_vector(a, b, masks[1]))
            for a, b in partners
        ]
        size = half
    return vectors[0]
