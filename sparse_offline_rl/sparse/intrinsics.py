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


def _chains(vectors: int) -> int:
    """Independent sums per register, so that a narrow tile does not wait for the latency of one chain of FMAs."""
    return {1: 4, 2: 2}.get(vectors, 1)


def _accumulate(builder: Any, start: list[Any], count: Any, term: Callable[[Any], tuple[Any, Any]]) -> list[Any]:
    """``start[i] + Σ_k weight_k · row_k[i]`` for the V vectors of a unit; ``term(k)`` gives weight and row address."""
    chains = _chains(len(start))
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    sums = [
        [cgutils.alloca_once_value(builder, zero if chain else first) for first in start] for chain in range(chains)
    ]

    def add(k: Any, totals: list[Any]) -> None:
        weight, row = term(k)
        broadcast = _splat(builder, weight)
        for i, total in enumerate(totals):
            x = _load(builder, builder.add(row, _I64(VECTOR_BYTES * i)), _VECTOR, VECTOR_BYTES)
            builder.store(_fma(builder, broadcast, x, builder.load(total)), total)

    blocks = builder.lshr(count, _I64(_UNROLL.bit_length() - 1))
    with cgutils.for_range(builder, blocks) as block:
        first_k = builder.mul(block.index, _I64(_UNROLL))
        for j in range(_UNROLL):
            add(builder.add(first_k, _I64(j)), sums[j % chains])
    done = builder.mul(blocks, _I64(_UNROLL))
    with cgutils.for_range(builder, builder.sub(count, done)) as rest:
        add(builder.add(done, rest.index), sums[0])
    while len(sums) > 1:
        half = len(sums) // 2
        for left, right in zip(sums[:half], sums[half:], strict=True):
            for a, b in zip(left, right, strict=True):
                builder.store(builder.fadd(builder.load(a), builder.load(b)), a)
        sums = sums[:half]
    return [builder.load(total) for total in sums[0]]


@intrinsic
def row_forward(
    typingctx: Any, width: Any, x: Any, index: Any, values: Any, count: Any, bias: Any, floor: Any, out: Any
) -> Any:
    """One unit of one tile: ``out = max(floor, bias + Σ_k values[k] · x[index[k]])``; floor 0 is ReLU, -inf is linear."""
    vectors = width.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x_, index_, values_, count_, bias_, floor_, out_ = args

        def term(k: Any) -> tuple[Any, Any]:
            weight = _load(builder, _offset(builder, values_, k, 4), _F32, 4)
            return weight, _offset(builder, x_, _index(builder, index_, k), vectors)

        limit = _splat(builder, floor_)
        for i, y in enumerate(_accumulate(builder, [_splat(builder, bias_)] * vectors, count_, term)):
            # A NaN passes, as it does through torch.relu.
            clipped = builder.select(builder.fcmp_ordered(">", limit, y), limit, y)
            _store(builder, clipped, builder.add(out_, _I64(VECTOR_BYTES * i)), VECTOR_BYTES)
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

        def term(k: Any) -> tuple[Any, Any]:
            weight = _load(builder, _offset(builder, values_, _index(builder, position_, k), 4), _F32, 4)
            return weight, _offset(builder, dy_, _index(builder, index_, k), vectors)

        results = _accumulate(builder, [zero] * vectors, count_, term)
        sums = [cgutils.alloca_once_value(builder, dx) for dx in results]
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
        units = [_index(builder, index_, _I64(j)) for j in range(size)]

        def body(start: Any, vectors: Any) -> None:
            bytes_per_unit = builder.mul(vectors, _I64(VECTOR_BYTES))
            delta = builder.add(builder.add(dy_, start), builder.mul(dy_unit_, bytes_per_unit))
            base = builder.add(builder.add(x_, start), builder.mul(x_unit_, bytes_per_unit))
            rows = [builder.add(base, builder.mul(unit, vectors)) for unit in units]
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
def bias_gradients(
    typingctx: Any, group: Any, tiles: Any, tile_count: Any, dy: Any, dy_unit: Any, unit: Any, position: Any, out: Any
) -> Any:
    """Gradients of G biases, ``out[position[j]] = Σ_batch dy`` of unit ``dy_unit + unit[j]``, summed as the weights' are."""
    size = group.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, tiles_, tile_count_, dy_, dy_unit_, unit_, position_, out_ = args
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(size)]
        units = [builder.add(dy_unit_, _index(builder, unit_, _I64(j))) for j in range(size)]

        def body(start: Any, vectors: Any) -> None:
            bytes_per_unit = builder.mul(vectors, _I64(VECTOR_BYTES))
            base = builder.add(dy_, start)
            rows = [builder.add(base, builder.mul(unit, bytes_per_unit)) for unit in units]
            with cgutils.for_range(builder, vectors) as vector:
                shift = builder.mul(vector.index, _I64(VECTOR_BYTES))
                for total, row in zip(sums, rows, strict=True):
                    d = _load(builder, builder.add(row, shift), _VECTOR, VECTOR_BYTES)
                    builder.store(builder.fadd(builder.load(total), d), total)

        _over_tiles(builder, tiles_, tile_count_, body)
        folded = _fold(builder, [builder.load(total) for total in sums])
        for j in range(size):
            target = _offset(builder, out_, _index(builder, position_, _I64(j)), 4)
            _store(builder, builder.extract_element(folded, _I32(j)), target, 4)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(group, *[i64] * 7), codegen


def _masked_load(builder: Any, pointer: Any, mask: Any, kind: Any) -> Any:
    """A vector whose lanes outside the mask are 0 and never touched."""
    suffix = {_F32: "f32", _I32: "i32"}[kind.element]
    signature = ir.FunctionType(kind, [pointer.type, _I32, mask.type, kind])
    load = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.load.v{LANES}{suffix}.p0")
    return builder.call(load, (pointer, _I32(4), mask, ir.Constant(kind, [0] * LANES)))


def _masked_gather(builder: Any, base: Any, offsets: Any, mask: Any) -> Any:
    """The float32 at ``base + 4 offsets[lane]``, 0 outside the mask."""
    pointers = builder.gep(builder.inttoptr(base, _F32.as_pointer()), [offsets], source_etype=_F32)
    # llvmlite overlooks that a vector of indices gives a vector of pointers.
    pointers.type = ir.VectorType(pointers.type, LANES)
    signature = ir.FunctionType(_VECTOR, [pointers.type, _I32, mask.type, _VECTOR])
    gather = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.gather.v{LANES}f32.v{LANES}p0")
    return builder.call(gather, (pointers, _I32(4), mask, ir.Constant(_VECTOR, [0] * LANES)))


def _masked_store(builder: Any, value: Any, pointer: Any, mask: Any) -> None:
    signature = ir.FunctionType(ir.VoidType(), [_VECTOR, pointer.type, _I32, mask.type])
    store = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.store.v{LANES}f32.p0")
    builder.call(store, (value, pointer, _I32(4), mask))


def _first_lanes(builder: Any, count: Any) -> Any:
    """The mask of lanes 0 … count - 1."""
    lanes = ir.Constant(ir.VectorType(_I32, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(count, _I32)))


def _transposed(builder: Any, vectors: list[Any]) -> list[Any]:
    """16 vectors to their transpose: four rounds of the perfect shuffle."""
    half = LANES // 2
    pairs = [lane for i in range(LANES) for lane in (i, i + LANES)]
    low, high = (ir.Constant(ir.VectorType(_I32, LANES), lanes) for lanes in (pairs[:LANES], pairs[LANES:]))
    for _ in range(LANES.bit_length() - 1):
        vectors = [
            builder.shuffle_vector(a, b, mask)
            for a, b in zip(vectors[:half], vectors[half:], strict=True)
            for mask in (low, high)
        ]
    return vectors


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
            wanted = builder.select(builder.icmp_signed(">", rows_, _I64(i)), lanes_, _I64(0))
            address = builder.add(source_, builder.mul(source_step_, _I64(i)))
            pointer = builder.inttoptr(address, _VECTOR.as_pointer())
            vectors.append(_masked_load(builder, pointer, _first_lanes(builder, wanted), _VECTOR))
        for i, vector in enumerate(_transposed(builder, vectors)):
            wanted = builder.select(builder.icmp_signed(">", columns_, _I64(i)), width_, _I64(0))
            address = builder.add(out_, builder.mul(out_step_, _I64(i)))
            _masked_store(
                builder, vector, builder.inttoptr(address, _VECTOR.as_pointer()), _first_lanes(builder, wanted)
            )
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen


@intrinsic
def add_vectors(typingctx: Any, total: Any, term: Any, count: Any) -> Any:
    """``total += term``, ``count`` floats."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total_, term_, count_ = args
        blocks = builder.lshr(builder.add(count_, _I64(LANES - 1)), _I64(LANES.bit_length() - 1))
        with cgutils.for_range(builder, blocks) as block:
            done = builder.mul(block.index, _I64(LANES))
            rest = builder.sub(count_, done)
            mask = _first_lanes(builder, builder.select(builder.icmp_signed("<", rest, _I64(LANES)), rest, _I64(LANES)))
            target = builder.inttoptr(_offset(builder, total_, done, 4), _VECTOR.as_pointer())
            source = builder.inttoptr(_offset(builder, term_, done, 4), _VECTOR.as_pointer())
            old, new = (_masked_load(builder, pointer, mask, _VECTOR) for pointer in (target, source))
            _masked_store(builder, builder.fadd(old, new), target, mask)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def row_gather(typingctx: Any, x: Any, index: Any, values: Any, count: Any) -> Any:
    """One unit for a single sample, one float per unit: ``Σ_k values[k] · x[index[k]]``, 16 weights at a time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x_, index_, values_, count_ = args
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        total = cgutils.alloca_once_value(builder, zero)
        indices = ir.VectorType(_I32, LANES)
        shift = ir.Constant(indices, [VECTOR_BYTES.bit_length() - 1] * LANES)

        def step(k: Any, mask: Any) -> None:
            position = builder.inttoptr(_offset(builder, index_, k, 4), indices.as_pointer())
            columns = builder.lshr(_masked_load(builder, position, mask, indices), shift)
            weights = builder.inttoptr(_offset(builder, values_, k, 4), _VECTOR.as_pointer())
            gathered = _masked_gather(builder, x_, columns, mask)
            weighted = _fma(builder, _masked_load(builder, weights, mask, _VECTOR), gathered, builder.load(total))
            builder.store(weighted, total)

        blocks = builder.lshr(count_, _I64(LANES.bit_length() - 1))
        with cgutils.for_range(builder, blocks) as block:
            step(builder.mul(block.index, _I64(LANES)), ir.Constant(ir.VectorType(ir.IntType(1), LANES), [1] * LANES))
        done = builder.mul(blocks, _I64(LANES))
        with cgutils.if_likely(builder, builder.icmp_signed("<", done, count_)):
            step(done, _first_lanes(builder, builder.sub(count_, done)))
        return builder.extract_element(_fold(builder, [builder.load(total)]), _I32(0))

    i64 = types.int64
    return types.float32(i64, i64, i64, i64), codegen
