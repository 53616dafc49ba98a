"""Intrinsics that call one of several compiled functions, chosen at run time, through one jump table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numba import types

from sparse_offline_rl.engines.sparse.layout import MAX_VECTORS
from sparse_offline_rl.engines.sparse.simd import I64, cgutils, intrinsic

Emit = Callable[[Any], None]  # emits code with a builder


def _switch(builder: Any, selector: Any, cases: Mapping[int, Emit], default: int) -> None:
    """Run the code of the case that ``selector`` names; that of ``default`` for every other value."""
    end = builder.append_basic_block("chosen")
    blocks = {value: builder.append_basic_block(f"case_{value}") for value in cases}
    switch = builder.switch(selector, blocks[default])
    for value, emit in cases.items():
        if value != default:
            switch.add_case(I64(value), blocks[value])
        builder.position_at_end(blocks[value])
        emit(builder)
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def call_with_width(typingctx: Any, function: Any, vectors: Any, arguments: Any) -> Any:
    """``function(width, *arguments)`` with a tuple ``width`` of ``vectors`` zeros, 1 … 7: Numba compiles a version for each length."""
    widths = {count: types.UniTuple(types.int64, count) for count in range(1, MAX_VECTORS + 1)}
    versions = {count: function.get_call_type(typingctx, (w, *arguments.types), {}) for count, w in widths.items()}

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[2])

        def version(count: int) -> Emit:
            def emit(builder: Any) -> None:
                call = context.get_function(function, versions[count])
                call(builder, [context.get_constant_null(widths[count]), *given])

            return emit

        _switch(builder, args[1], {count: version(count) for count in widths}, MAX_VECTORS)
        return context.get_dummy_value()

    return types.void(function, types.int64, arguments), codegen
