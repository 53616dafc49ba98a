"""Intrinsics that call one of several compiled functions, chosen at run time, through one jump table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numba import types

from sparse_offline_rl.engines.sparse.simd import I64, cgutils, intrinsic, load
from sparse_offline_rl.engines.sparse.tables import MAX_VECTORS, WORD_BYTES

_tuple_type: Any = types.UniTuple  # typed by hand: Numba ships no annotations
Emit = Callable[[Any], None]  # emits code with a builder


def switch(builder: Any, selector: Any, cases: Mapping[int, Emit], default: int) -> None:
    """Run the code of the case that ``selector`` names; that of ``default`` for every other value."""
    end = builder.append_basic_block("chosen")
    blocks = {value: builder.append_basic_block(f"case_{value}") for value in cases}
    jump = builder.switch(selector, blocks[default])
    for value, emit in cases.items():
        if value != default:
            jump.add_case(I64(value), blocks[value])
        builder.position_at_end(blocks[value])
        emit(builder)
        builder.branch(end)
    builder.position_at_end(end)


def load_words(builder: Any, address: Any, count: int) -> list[Any]:
    """``count`` words from ``address`` on."""
    return [load(builder, builder.add(address, I64(WORD_BYTES * i)), I64, WORD_BYTES) for i in range(count)]


def compiled_for(typingctx: Any, function: Any, arguments: Sequence[Any]) -> Callable[[Any, Any, Sequence[Any]], None]:
    """Compile ``function`` for arguments of these types. What comes back emits a call, given context, builder and values."""
    signature = function.get_call_type(typingctx, tuple(arguments), {})

    def call(context: Any, builder: Any, values: Sequence[Any]) -> None:
        context.get_function(function, signature)(builder, list(values))

    return call


@intrinsic
def call_with_width(typingctx: Any, function: Any, vectors: Any, arguments: Any) -> Any:
    """``function(width, *arguments)`` with a tuple ``width`` of ``vectors`` zeros, 1 … 7: Numba compiles a version for each length."""
    widths: dict[int, Any] = {count: _tuple_type(types.int64, count) for count in range(1, MAX_VECTORS + 1)}
    versions = {count: compiled_for(typingctx, function, (w, *arguments.types)) for count, w in widths.items()}

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[2])

        def case(count: int) -> Emit:
            width = context.get_constant_null(widths[count])
            return lambda builder: versions[count](context, builder, [width, *given])

        switch(builder, args[1], {count: case(count) for count in widths}, MAX_VECTORS)
        return context.get_dummy_value()

    return types.void(function, types.int64, arguments), codegen


def call_by_opcode(functions: Mapping[int, Any]) -> Any:
    """An intrinsic ``(opcode, address)`` that calls the function of that opcode. Its arguments are the words from the address on.

    For an opcode that no function has, that of the largest one is called.
    """
    counts = {code: len(inspect.signature(function.py_func).parameters) for code, function in functions.items()}

    @intrinsic
    def call(typingctx: Any, opcode: Any, address: Any) -> Any:
        versions = {
            code: compiled_for(typingctx, types.Dispatcher(function), [types.int64] * counts[code])
            for code, function in functions.items()
        }

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def case(code: int) -> Emit:
                return lambda builder: versions[code](context, builder, load_words(builder, args[1], counts[code]))

            switch(builder, args[0], {code: case(code) for code in functions}, max(functions))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    return call
