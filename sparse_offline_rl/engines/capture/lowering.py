"""Translates torch's operations into instructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparse_offline_rl.engines.capture.builder import Builder, Unsupported, Value
from sparse_offline_rl.engines.capture.opcodes import Map, Reduce

Lowering = Callable[..., None]  # (builder, out, *arguments of the operation)

_MEAN, _SUM = 1, 2  # torch's numbers for a loss's reduction


def _plain(function: Map) -> Lowering:
    def lower(b: Builder, out: Tensor, *operands: Value) -> None:
        b.map(function, out, *operands)

    return lower


def _swapped(function: Map) -> Lowering:
    def lower(b: Builder, out: Tensor, x: Value, y: Value) -> None:
        b.map(function, out, y, x)

    return lower


def _add(b: Builder, out: Tensor, x: Value, y: Value, alpha: float = 1) -> None:
    if alpha == 1:
        b.map(Map.ADD, out, x, y)
    else:
        b.map(Map.MULADD, out, x, y, alpha)


def _sub(b: Builder, out: Tensor, x: Value, y: Value, alpha: float = 1) -> None:
    _add(b, out, x, y, -alpha)  # one rounding, as that of a difference


def _rsub(b: Builder, out: Tensor, x: Value, y: Value, alpha: float = 1) -> None:
    if alpha != 1:
        raise Unsupported("no instruction does rsub with alpha")
    b.map(Map.SUB, out, y, x)


def _addcmul(b: Builder, out: Tensor, x: Value, y: Value, z: Value, value: float = 1) -> None:
    if value != 1:
        raise Unsupported("no instruction does addcmul with value")
    b.map(Map.MULADD, out, x, y, z)


def _power(b: Builder, out: Tensor, x: Value, exponent: Value) -> None:
    if isinstance(exponent, Tensor) or exponent not in (1, 2):
        raise Unsupported("no instruction takes powers but the first and the second")
    b.map(Map.MUL, out, x, x if exponent == 2 else 1.0)


def _clamp(b: Builder, out: Tensor, x: Value, low: Value | None = None, high: Value | None = None) -> None:
    # The bound is the first operand, so that the result is NaN where x is. Not in place: the processor waits when it loads what
    # was just stored with another mask.
    if low is not None:
        between = out if high is None else b.temporary(out.shape)
        b.map(Map.MAX, between, low, x)
        x = between
    if high is not None:
        b.map(Map.MIN, out, high, x)
    elif low is None:
        b.map(Map.COPY, out, x)


def _fill(value: float) -> Lowering:
    def lower(b: Builder, out: Tensor, *_: Any) -> None:
        b.map(Map.COPY, out, value)

    return lower


def _second(b: Builder, out: Tensor, _: Any, x: Value) -> None:
    """For operations whose second argument is what is copied into the result."""
    b.map(Map.COPY, out, x)


def _not_equal(b: Builder, out: Tensor, x: Value, y: Value) -> None:
    b.map(Map.EQUAL, out, x, y)
    b.map(Map.SUB, out, 1.0, out)


def _reduction(function: Reduce, mean: bool = False) -> Lowering:
    def lower(
        b: Builder, out: Tensor, x: Tensor, dim: Sequence[int] | int | None = None, keepdim: bool = False
    ) -> None:
        dims = [dim] if isinstance(dim, int) else list(dim or range(x.dim()))
        b.reduce(function, out, x, dims, out.numel() / x.numel() if mean and x.numel() else 1.0)

    return lower


def _mse(b: Builder, out: Tensor, x: Tensor, y: Tensor, reduction: int = _MEAN) -> None:
    squares = out if reduction not in (_MEAN, _SUM) else b.temporary(x.shape)
    b.map(Map.SQUARED_DIFFERENCE, squares, x, y)
    if squares is not out:
        b.reduce(Reduce.SUM, out, squares, range(x.dim()), 1 / x.numel() if reduction == _MEAN else 1.0)


def _mse_backward(b: Builder, out: Tensor, grad: Tensor, x: Tensor, y: Tensor, reduction: int) -> None:
    b.map(Map.SUB, out, x, y)
    b.map(Map.MUL, out, out, grad)
    b.map(Map.MUL, out, out, 2 / x.numel() if reduction == _MEAN else 2.0)


def _sigmoid(b: Builder, out: Tensor, x: Tensor) -> None:
    b.map(Map.MUL, out, x, 0.5)  # σ(x) = ½ + ½ tanh(x / 2)
    b.map(Map.TANH, out, out)
    b.map(Map.MULADD, out, 0.5, out, 0.5)


def _sigmoid_backward(b: Builder, out: Tensor, grad: Tensor, y: Tensor) -> None:
    slope = b.temporary(y.shape)
    b.map(Map.SUB, slope, 1.0, y)
    b.map(Map.MUL, slope, slope, y)
    b.map(Map.MUL, out, grad, slope)


def _sign(b: Builder, out: Tensor, x: Tensor) -> None:
    negative = b.temporary(x.shape)
    b.map(Map.GREATER, negative, 0.0, x)
    b.map(Map.GREATER, out, x, 0.0)
    b.map(Map.SUB, out, out, negative)


def _cat(b: Builder, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    start = 0
    for tensor in tensors:
        if tensor.numel():
            b.map(Map.COPY, out.narrow(dim, start, tensor.shape[dim]), tensor)
            start += tensor.shape[dim]


def _each_lerp(
    b: Builder, out: Sequence[Tensor], starts: Sequence[Tensor], ends: Sequence[Tensor], weight: Any
) -> None:
    if out is not starts or not isinstance(weight, float | int):
        raise Unsupported("no instruction does _foreach_lerp but in place and with one number")
    for start, end in zip(starts, ends, strict=True):
        b.map(Map.LERP, start, start, end, weight)


_LOGIC: dict[str, Lowering] = {  # of booleans, which are 0 or 1
    "and": _plain(Map.MUL),
    "or": _plain(Map.MAX),
    "not": lambda b, out, x: b.map(Map.EQUAL, out, x, 0.0),
}
# By the name of the operation; one that works in place has the same entry as the one that does not.
LOWERINGS: dict[str, Lowering] = {
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _plain(Map.MUL),
    "div": _plain(Map.DIV),
    "reciprocal": lambda b, out, x: b.map(Map.DIV, out, 1.0, x),
    "neg": lambda b, out, x: b.map(Map.MUL, out, x, -1.0),
    "square": lambda b, out, x: b.map(Map.MUL, out, x, x),
    "pow": _power,
    "addcmul": _addcmul,
    "lerp": _plain(Map.LERP),
    "_foreach_lerp": _each_lerp,
    "exp": _plain(Map.EXP),
    "tanh": _plain(Map.TANH),
    "tanh_backward": _plain(Map.TANH_SLOPE),
    "sigmoid": _sigmoid,
    "sigmoid_backward": _sigmoid_backward,
    "sqrt": _plain(Map.SQRT),
    "abs": _plain(Map.ABS),
    "sgn": _sign,  # the gradient of abs
    "sign": _sign,
    "relu": lambda b, out, x: b.map(Map.MAX, out, 0.0, x),
    "threshold_backward": _plain(Map.GATE),
    "clamp": _clamp,
    "clamp_min": lambda b, out, x, low: _clamp(b, out, x, low, None),
    "clamp_max": lambda b, out, x, high: _clamp(b, out, x, None, high),
    "maximum": _plain(Map.MAX),
    "minimum": _plain(Map.MIN),
    "gt": _plain(Map.GREATER),
    "ge": _plain(Map.GREATER_EQUAL),
    "lt": _swapped(Map.GREATER),
    "le": _swapped(Map.GREATER_EQUAL),
    "eq": _plain(Map.EQUAL),
    "ne": _not_equal,
    **{f"{kind}_{name}": lowering for kind in ("logical", "bitwise") for name, lowering in _LOGIC.items()},
    "where": _plain(Map.SELECT),
    "clone": _plain(Map.COPY),
    "copy": _second,
    "fill": _second,
    "full": _second,
    "full_like": _second,
    "new_full": lambda b, out, _like, _size, value: b.map(Map.COPY, out, value),
    "scalar_tensor": _plain(Map.COPY),
    "zero": _fill(0.0),
    "zeros": _fill(0.0),
    "zeros_like": _fill(0.0),
    "new_zeros": _fill(0.0),
    "ones": _fill(1.0),
    "ones_like": _fill(1.0),
    "cat": _cat,
    "sum": _reduction(Reduce.SUM),
    "mean": _reduction(Reduce.SUM, mean=True),
    "amax": _reduction(Reduce.MAX),
    "amin": _reduction(Reduce.MIN),
    "mse_loss": _mse,
    "mse_loss_backward": _mse_backward,
}
_COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
_OF_BOOLEANS = {f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or")}
_KEEP_BOOLEANS = _OF_BOOLEANS | {
    "where",
    "clone",
    "copy",
    "cat",
    "mul",
    "maximum",
    "minimum",
    "zeros_like",
    "ones_like",
}
_ALLOCATIONS = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


def lower(b: Builder, func: Any, out: Any, inputs: Sequence[Tensor], args: Any, options: Any) -> None:
    """Instructions for ``out = func(*args, **options)``, of which ``inputs`` are the tensors. Raises Unsupported."""
    name = func.overloadpacket.__name__.rstrip("_")
    if name in _ALLOCATIONS:
        return
    lowering = LOWERINGS.get(name)
    if lowering is None:
        raise Unsupported(f"no instruction does {func} (docs/engine.md tells how to add one)")
    _check_booleans(func, name, out, inputs)
    try:
        lowering(b, out, *args, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # arguments that the lowering does not know
        raise Unsupported(f"no instruction does {func} with these arguments ({error})") from None


def _check_booleans(func: Any, name: str, out: Any, inputs: Sequence[Tensor]) -> None:
    """Booleans are floats that must stay 0 or 1, and logical operations take nothing else."""
    all_boolean = all(x.dtype == torch.bool for x in inputs)
    makes_booleans = isinstance(out, Tensor) and out.dtype == torch.bool
    if makes_booleans and name not in _COMPARISONS and not name.endswith("_not"):
        fine = name in _KEEP_BOOLEANS and all_boolean
    else:
        fine = name not in _OF_BOOLEANS or all_boolean
    if not fine:
        raise Unsupported(f"no instruction does {func} with booleans like these")
