"""Elementwise functions on ``<16 x float>`` as LLVM IR; all let a NaN through, as torch does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from sparse_offline_rl.engines.capture.opcodes import Map
from sparse_offline_rl.engines.sparse.simd import I32, VECTOR, cgutils, fma
from sparse_offline_rl.engines.sparse.tables import LANES

_INTEGERS = ir.VectorType(I32, LANES)
_TAYLOR = [
    1 / math.factorial(n) for n in range(8, 0, -1)
]  # of (exp(r) - 1) / r, to below half an ulp for |r| <= ln 2 / 2


def constant(value: float) -> Any:
    """16 times ``value``."""
    return ir.Constant(VECTOR, [value] * LANES)


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    signature = ir.FunctionType(VECTOR, [VECTOR] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, arguments)


def _choose(builder: Any, test: str, left: Any, right: Any, yes: Any, no: Any) -> Any:
    return builder.select(builder.fcmp_ordered(test, left, right), yes, no)


def _keep_nan(builder: Any, x: Any, result: Any) -> Any:
    return builder.select(builder.fcmp_unordered("uno", x, x), x, result)


def _power_of_two(builder: Any, n: Any) -> Any:
    """``2 ** n`` for integers -126 … 127, put together from its bits."""
    biased = builder.add(n, ir.Constant(_INTEGERS, [127] * LANES))
    return builder.bitcast(builder.shl(biased, ir.Constant(_INTEGERS, [23] * LANES)), VECTOR)


def _reduced(builder: Any, x: Any) -> tuple[Any, Any]:
    """``n`` (integers) and ``exp(r) - 1`` with ``x = n ln 2 + r`` and ``|r| <= ln 2 / 2``."""
    n = _call(builder, "rint", builder.fmul(x, constant(1 / math.log(2))))
    high = math.floor(math.log(2) * 2**15) / 2**15  # so few bits that n · high is exact
    r = fma(builder, n, constant(-high), x)
    r = fma(builder, n, constant(high - math.log(2)), r)
    series = constant(_TAYLOR[0])
    for coefficient in _TAYLOR[1:]:
        series = fma(builder, series, r, constant(coefficient))
    return builder.fptosi(n, _INTEGERS), builder.fmul(series, r)


def exp(builder: Any, x: Any) -> Any:
    """``e ** x``; infinity above 88.7, 0 where the result would be denormal."""
    limited = _choose(builder, ">", x, constant(89.0), constant(89.0), x)
    limited = _choose(builder, ">", limited, constant(-88.0), limited, constant(-88.0))  # a NaN, too
    n, fraction = _reduced(builder, limited)
    half = builder.ashr(n, ir.Constant(_INTEGERS, [1] * LANES))  # 2 ** 128 is not a float, so in two steps
    scaled = builder.fmul(builder.fadd(fraction, constant(1.0)), _power_of_two(builder, half))
    scaled = builder.fmul(scaled, _power_of_two(builder, builder.sub(n, half)))
    scaled = _choose(builder, "<", x, constant(math.log(2.0**-126)), constant(0.0), scaled)
    return _keep_nan(builder, x, scaled)


def tanh(builder: Any, x: Any) -> Any:
    """``-e / (e + 2)`` with ``e = exp(-2 |x|) - 1``, which loses no digits near 0, with the sign of x."""
    size = _call(builder, "fabs", x)
    limited = _choose(builder, "<", size, constant(20.0), size, constant(20.0))  # a NaN, too
    n, fraction = _reduced(builder, builder.fmul(limited, constant(-2.0)))
    power = _power_of_two(builder, n)
    e = fma(builder, power, fraction, builder.fsub(power, constant(1.0)))
    result = builder.fdiv(builder.fneg(e), builder.fadd(e, constant(2.0)))
    return _keep_nan(builder, x, _call(builder, "copysign", result, x))


def _largest(sign: str) -> Callable[..., Any]:
    def codegen(builder: Any, a: Any, b: Any, c: Any) -> Any:
        return _keep_nan(builder, b, builder.select(builder.fcmp_unordered(sign, a, b), a, b))

    return codegen


def _test(sign: str) -> Callable[..., Any]:
    def codegen(builder: Any, a: Any, b: Any, c: Any) -> Any:
        return _choose(builder, sign, a, b, constant(1.0), constant(0.0))

    return codegen


def _lerp(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """From the nearer end, so that weight 1 gives exactly b."""
    difference = builder.fsub(b, a)
    from_b = fma(builder, builder.fsub(c, constant(1.0)), difference, b)
    return _choose(builder, "<", c, constant(0.5), fma(builder, c, difference, a), from_b)


MAPS: dict[Map, Callable[[Any, Any, Any, Any], Any]] = {
    Map.COPY: lambda builder, a, b, c: a,
    Map.ADD: lambda builder, a, b, c: builder.fadd(a, b),
    Map.SUB: lambda builder, a, b, c: builder.fsub(a, b),
    Map.MUL: lambda builder, a, b, c: builder.fmul(a, b),
    Map.DIV: lambda builder, a, b, c: builder.fdiv(a, b),
    Map.MULADD: lambda builder, a, b, c: fma(builder, b, c, a),
    Map.MAX: _largest(">"),
    Map.MIN: _largest("<"),
    Map.SELECT: lambda builder, a, b, c: builder.select(builder.fcmp_unordered("!=", a, constant(0.0)), b, c),
    Map.GREATER: _test(">"),
    Map.GREATER_EQUAL: _test(">="),
    Map.EQUAL: _test("=="),
    Map.GATE: lambda builder, a, b, c: _choose(builder, "<=", b, c, constant(0.0), a),
    Map.EXP: lambda builder, a, b, c: exp(builder, a),
    Map.TANH: lambda builder, a, b, c: tanh(builder, a),
    Map.TANH_SLOPE: lambda builder, a, b, c: builder.fmul(a, fma(builder, builder.fneg(b), b, constant(1.0))),
    Map.SQRT: lambda builder, a, b, c: _call(builder, "sqrt", a),
    Map.ABS: lambda builder, a, b, c: _call(builder, "fabs", a),
    Map.LERP: _lerp,
    Map.SQUARED_DIFFERENCE: lambda builder, a, b, c: builder.fmul(builder.fsub(a, b), builder.fsub(a, b)),
}
