"""The SIMD primitives of the kernels, emitted as LLVM IR on ``<16 x float>``.

LLVM lowers them to AVX-512, to pairs of AVX2 registers or to quadruples of NEON registers. Addresses are plain ``int64``, so
that a call passes no arrays. A tile holds 16·V batch columns per unit; V is the length of the tuple ``width``, so that Numba
compiles (and caches) one version per V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic as _intrinsic

LANES = 16  # floats in one vector
VECTOR_BYTES = 64
_UNROLL = 4

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_VECTOR = ir.VectorType(_F32, LANES)

# Typed by hand: Numba ships no annotations.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = _intrinsic
cgutils: Any = _cgutils


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder: Any, value: Any, address: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def _offset(builder: Any, base: Any, index: Any, scale: int) -> Any:
    return builder.add(base, builder.mul(index, _I64(scale)))


def _index(builder: Any, base: Any, position: Any) -> Any:
    """The int32 at ``base[position]``, widened."""
    return builder.sext(_load(builder, _offset(builder, base, position, 4), _I32, 4), _I64)


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    single = builder.insert_element(undefined, scalar, _I32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    signature = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    fma = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.v{LANES}f32")
    return builder.call(fma, (a, b, c))


@intrinsic
def load_i64(typingctx: Any, address: Any) -> Any:
    """The int64 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0], _I64, 8)

    return types.int64(types.int64), codegen


@intrinsic
def load_i32(typingctx: Any, address: Any) -> Any:
    """The int32 at ``address``, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sext(_load(builder, args[0], _I32, 4), _I64)

    return types.int64(types.int64), codegen


@intrinsic
def load_f32(typingctx: Any, address: Any) -> Any:
    """The float32 at ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(builder, args[0], _F32, 4)

    return types.float32(types.int64), codegen


@intrinsic
def store_f32(typingctx: Any, address: Any, value: Any) -> Any:
    """Write the float32 ``value`` to ``address``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _store(builder, args[1], args[0], 4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), codegen


def _accumulate(builder: Any, sums: list[Any], weight: Any, row: Any) -> None:
    """``sums[i] += weight · row[i]`` for the V vectors of one unit."""
    broadcast = _splat(builder, weight)
    for i, total in enumerate(sums):
        x = _load(builder, builder.add(row, _I64(VECTOR_BYTES * i)), _VECTOR, VECTOR_BYTES)
        builder.store(_fma(builder, broadcast, x, builder.load(total)), total)


def _unrolled(builder: Any, count: Any, body: Callable[[Any], None]) -> None:
    """``body(k)`` for k in range(count), four at a time and then one by one."""
    blocks = builder.lshr(count, _I64(_UNROLL.bit_length() - 1))
    with cgutils.for_range(builder, blocks) as block:
        first = builder.mul(block.index, _I64(_UNROLL))
        for j in range(_UNROLL):
            body(builder.add(first, _I64(j)))
    done = builder.mul(blocks, _I64(_UNROLL))
    with cgutils.for_range(builder, builder.sub(count, done)) as rest:
        body(builder.add(done, rest.index))


@intrinsic
def row_forward(
    typingctx: Any, width: Any, x: Any, index: Any, values: Any, count: Any, bias: Any, floor: Any, out: Any
) -> Any:
    """One unit of one tile: ``out = max(floor, bias + Σ_k values[k] · x[index[k]])``; floor 0 is ReLU, -inf is linear."""
    vectors = width.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x_, index_, values_, count_, bias_, floor_, out_ = args
        start = _splat(builder, bias_)
        sums = [cgutils.alloca_once_value(builder, start) for _ in range(vectors)]

        def body(k: Any) -> None:
            row = _offset(builder, x_, _index(builder, index_, k), VECTOR_BYTES * vectors)
            _accumulate(builder, sums, _load(builder, _offset(builder, values_, k, 4), _F32, 4), row)

        _unrolled(builder, count_, body)
        limit = _splat(builder, floor_)
        for i, total in enumerate(sums):
            y = builder.load(total)
            # A NaN passes, as it does through torch.relu.
            y = builder.select(builder.fcmp_ordered(">", limit, y), limit, y)
            _store(builder, y, builder.add(out_, _I64(VECTOR_BYTES * i)), VECTOR_BYTES)
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
    x: Any,
    out: Any,
) -> Any:
    """One input unit of one tile: ``out = Σ_k values[position[k]] · dy[index[k]]``, and 0 where ``gated`` and ``x <= 0``."""
    vectors = width.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, dy_, index_, position_, values_, count_, gated_, x_, out_ = args
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(vectors)]

        def body(k: Any) -> None:
            row = _offset(builder, dy_, _index(builder, index_, k), VECTOR_BYTES * vectors)
            weight = _load(builder, _offset(builder, values_, _index(builder, position_, k), 4), _F32, 4)
            _accumulate(builder, sums, weight, row)

        _unrolled(builder, count_, body)
        results = [builder.load(total) for total in sums]
        with cgutils.if_likely(builder, builder.trunc(gated_, ir.IntType(1))):
            for i, (total, dx) in enumerate(zip(sums, results, strict=True)):
                activation = _load(builder, builder.add(x_, _I64(VECTOR_BYTES * i)), _VECTOR, VECTOR_BYTES)
                builder.store(builder.select(builder.fcmp_ordered(">", activation, zero), dx, zero), total)
        for i, total in enumerate(sums):
            _store(builder, builder.load(total), builder.add(out_, _I64(VECTOR_BYTES * i)), VECTOR_BYTES)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(width, i64, i64, i64, i64, i64, i64, i64, i64), codegen


def _fold(builder: Any, vectors: list[Any]) -> Any:
    """Sum the lanes of each of ``n`` vectors (a power of two): a vector whose first n lanes are the n sums.

    Each step adds halves: two vectors become one that holds the half sums of both.
    """
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    size = LANES  # lanes that still have to be summed into one
    while size > 1:
        half, pairs = size // 2, len(vectors) > 1
        low = [b * size + i for b in range(LANES // size) for i in range(half)]
        high = [lane + half for lane in low]
        partners = list(zip(vectors[0::2], vectors[1::2], strict=True)) if pairs else [(vectors[0], undefined)]
        shift = LANES if pairs else 0
        masks = [
            ir.Constant(ir.VectorType(_I32, LANES), lanes + [lane + shift for lane in lanes]) for lanes in (low, high)
        ]
        vectors = [
            builder.fadd(builder.shuffle_vector(a, b, masks[0]), builder.shuffle_vector(a, b, masks[1]))
            for a, b in partners
        ]
        size = half
    return vectors[0]


def _over_tiles(builder: Any, tiles: Any, count: Any, body: Callable[[Any, Any], None]) -> None:
    """``body(start, v)`` for each tile: its byte offset in a workspace and its number of vectors."""
    with cgutils.for_range(builder, count) as tile:
        entry = _offset(builder, tiles, tile.index, 24)
        body(_load(builder, entry, _I64, 8), _load(builder, builder.add(entry, _I64(8)), _I64, 8))


@intrinsic
def weight_gradients(
    typingctx: Any,
    group: Any,
    tiles: Any,
    tile_count: Any,
    dy: Any,
    dy_unit: Any,
    x: Any,
    x_unit: Any,
    index: Any,
    out: Any,
) -> Any:
    """Gradients of G neighbouring weights of one row, ``out[j] = Σ_batch dy · x[index[j]]``; G is the length of ``group``.

    The batch is summed in the same order whatever the tiles: lane i takes columns i, i + 16, …, then the lanes are folded.
    """
    size = group.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, tiles_, tile_count_, dy_, dy_unit_, x_, x_unit_, index_, out_ = args
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(size)]
        units = [builder.add(x_unit_, _index(builder, index_, _I64(j))) for j in range(size)]

        def body(start: Any, vectors: Any) -> None:
            bytes_per_unit = builder.mul(vectors, _I64(VECTOR_BYTES))
            delta = builder.add(builder.add(dy_, start), builder.mul(dy_unit_, bytes_per_unit))
            base = builder.add(x_, start)
            rows = [builder.add(base, builder.mul(unit, bytes_per_unit)) for unit in units]
            with cgutils.for_range(builder, vectors) as vector:
                shift = builder.mul(vector.index, _I64(VECTOR_BYTES))
                d = _load(builder, builder.add(delta, shift), _VECTOR, VECTOR_BYTES)
                for total, row in zip(sums, rows, strict=True):
                    activation = _load(builder, builder.add(row, shift), _VECTOR, VECTOR_BYTES)
                    builder.store(_fma(builder, d, activation, builder.load(total)), total)

        _over_tiles(builder, tiles_, tile_count_, body)
        folded = _fold(builder, [builder.load(total) for total in sums])
        lanes = ir.Constant(ir.VectorType(_I32, size), list(range(size)))
        _store(builder, builder.shuffle_vector(folded, folded, lanes), out_, 4)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(group, i64, i64, i64, i64, i64, i64, i64, i64), codegen


@intrinsic
def bias_gradient(typingctx: Any, tiles: Any, tile_count: Any, dy: Any, dy_unit: Any) -> Any:
    """``Σ_batch dy`` of one unit, summed in the order of :func:`weight_gradients`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        tiles_, tile_count_, dy_, dy_unit_ = args
        total = cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES))

        def body(start: Any, vectors: Any) -> None:
            bytes_per_unit = builder.mul(vectors, _I64(VECTOR_BYTES))
            delta = builder.add(builder.add(dy_, start), builder.mul(dy_unit_, bytes_per_unit))
            with cgutils.for_range(builder, vectors) as vector:
                d = _load(builder, _offset(builder, delta, vector.index, VECTOR_BYTES), _VECTOR, VECTOR_BYTES)
                builder.store(builder.fadd(builder.load(total), d), total)

        _over_tiles(builder, tiles_, tile_count_, body)
        return builder.extract_element(_fold(builder, [builder.load(total)]), _I32(0))

    i64 = types.int64
    return types.float32(i64, i64, i64, i64), codegen


def _masked(builder: Any, name: str, pointer: Any, mask: Any, kind: Any) -> Any:
    """``llvm.masked.load`` or ``llvm.masked.gather`` of ``kind``; lanes outside the mask are 0 and never touched."""
    suffix = {_F32: "f32", _I32: "i32"}[kind.element]
    name = f"llvm.masked.{name}.v{LANES}{suffix}." + (f"v{LANES}p0" if name == "gather" else "p0")
    signature = ir.FunctionType(kind, [pointer.type, _I32, mask.type, kind])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, (pointer, _I32(4), mask, ir.Constant(kind, [0] * LANES)))


@intrinsic
def row_gather(typingctx: Any, x: Any, index: Any, values: Any, count: Any) -> Any:
    """One unit for a single sample: ``Σ_k values[k] · x[index[k]]``, 16 weights at a time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_, index_, values_, count_ = args
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        total = cgutils.alloca_once_value(builder, zero)
        mask_type, index_type = ir.VectorType(ir.IntType(1), LANES), ir.VectorType(_I32, LANES)
        lanes = ir.Constant(index_type, list(range(LANES)))
        pointer = builder.inttoptr(x_, _F32.as_pointer())

        def step(k: Any, mask: Any) -> None:
            address = builder.inttoptr(_offset(builder, index_, k, 4), index_type.as_pointer())
            columns = _masked(builder, "load", address, mask, index_type)
            address = builder.inttoptr(_offset(builder, values_, k, 4), _VECTOR.as_pointer())
            weights = _masked(builder, "load", address, mask, _VECTOR)
            pointers = builder.gep(pointer, [columns], source_etype=_F32)
            # llvmlite overlooks that a vector of indices gives a vector of pointers.
            pointers.type = ir.VectorType(pointer.type, LANES)
            gathered = _masked(builder, "gather", pointers, mask, _VECTOR)
            builder.store(_fma(builder, weights, gathered, builder.load(total)), total)

        blocks = builder.lshr(count_, _I64(LANES.bit_length() - 1))
        with cgutils.for_range(builder, blocks) as block:
            step(builder.mul(block.index, _I64(LANES)), ir.Constant(mask_type, [1] * LANES))
        done = builder.mul(blocks, _I64(LANES))
        with cgutils.if_likely(builder, builder.icmp_signed("<", done, count_)):
            rest = builder.trunc(builder.sub(count_, done), _I32)
            step(done, builder.icmp_signed("<", lanes, _splat(builder, rest)))
        return builder.extract_element(_fold(builder, [builder.load(total)]), _I32(0))

    i64 = types.int64
    return types.float32(i64, i64, i64, i64), codegen
