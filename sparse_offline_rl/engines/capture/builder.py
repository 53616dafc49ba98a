"""Puts instructions together: addresses, strides, constants and temporary tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.engines.capture.opcodes import Call, Map, Reduce
from sparse_offline_rl.engines.capture.tasks import NO_SCRATCH, Task
from sparse_offline_rl.engines.sparse.chunks import CHUNKS_PER_THREAD
from sparse_offline_rl.engines.sparse.costs import ELEMENT_NS, INSTRUCTION_NS
from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES, LANES
from sparse_offline_rl.tracing import Region

_DIMENSIONS = 3  # of an instruction
_MIN_ELEMENTS_FOR_CHUNK = 512

Value = Tensor | float


class Unsupported(Exception):
    """The update does something that cannot be replayed; the message says what, as a clause."""


@dataclass(frozen=True)
class _View:
    """Where a tensor lies: address, and strides in bytes."""

    address: int
    strides: tuple[int, ...]


class Builder:
    """Collects instructions, and keeps the memory alive that they name, except that of the agent's modules."""

    def __init__(self, threads: int = 1) -> None:
        self.tasks: list[Task] = []
        self.kept: list[object] = []
        self._threads = threads
        self.constants: dict[bytes, int] = {}  # the bytes of a float32 -> where it lies
        self._boolean_floats: dict[int, Tensor] = {}  # float32 in place of the booleans at an address

    def emit(
        self,
        opcode: int,
        words: Sequence[int],
        reads: Sequence[Region],
        writes: Sequence[Region],
        nanoseconds: float,
        scratch: Mapping[int, int] = NO_SCRATCH,
    ) -> None:
        """Add one instruction; ``scratch`` gives the positions of those ``words`` that are addresses of scratch memory."""
        self.tasks.append(Task(opcode, words, reads, writes, nanoseconds, scratch))

    def chunks(self, rows: int, size: int) -> list[slice]:
        """``rows`` rows in chunks, as many as the kernels have; one chunk where ``size`` elements are too few for more."""
        count = min(size // _MIN_ELEMENTS_FOR_CHUNK, CHUNKS_PER_THREAD * self._threads) if self._threads > 1 else 1
        vectors = -(-rows // LANES)
        ends = [min(rows, LANES * (vectors * i // max(count, 1))) for i in range(count + 1)]
        return [slice(*pair) for pair in pairwise(ends) if pair[0] < pair[1]] if count > 1 else [slice(0, rows)]

    def constant(self, value: float) -> int:
        """Address of a float."""
        with np.errstate(over="ignore"):  # what is too large for a float32 is infinite, as in torch
            memory = np.array([value], np.float64).astype(np.float32)
        key = memory.tobytes()  # differs between 0.0 and -0.0
        if key not in self.constants:
            self.kept.append(memory)
            self.constants[key] = memory.ctypes.data
        return self.constants[key]

    def temporary(self, shape: Sequence[int]) -> Tensor:
        """Memory for an intermediate result."""
        tensor = torch.empty(tuple(shape))
        self.kept.append(tensor)
        return tensor

    def _provide_floats(self, tensor: Tensor) -> None:
        """Memory for the floats, 0 or 1, that stand for the booleans that an instruction makes."""
        storage = tensor.untyped_storage()
        if tensor.dtype == torch.bool and storage.data_ptr() not in self._boolean_floats:
            self._boolean_floats[storage.data_ptr()] = self.temporary((storage.nbytes(),))

    def map(self, function: Map, out: Tensor, *operands: Value) -> None:
        """``out = f(operands)``, broadcast to the shape of ``out``."""
        shape = tuple(out.shape)
        if 0 in shape:
            return
        self._provide_floats(out)
        out, rows = out.detach(), shape[0] if shape else 1
        chunks = self.chunks(rows, out.numel())
        if len(chunks) == 1:
            self._map(function, out, operands)
            return
        for part in chunks:
            self._map(function, out[part], [_rows(operand, part, shape) for operand in operands])

    def _map(self, function: Map, out: Tensor, operands: Sequence[Value]) -> None:
        shape, filled = tuple(out.shape), (*operands, 0.0, 0.0)[:3]
        views = [self._view(out, shape), *(self._view(operand, shape) for operand in filled)]
        order = sorted(range(len(shape)), key=lambda d: views[0].strides[d], reverse=True)
        sizes, strides = _merge([shape[d] for d in order], [[v.strides[d] for d in order] for v in views])
        if strides[0][-1] != FLOAT_BYTES:  # rows of one element
            sizes, strides = [*sizes, 1], [[*s, FLOAT_BYTES] for s in strides]
        if any(size != 1 for size in sizes[:-_DIMENSIONS]):
            raise Unsupported(f"no instruction goes over shape {shape} with strides {out.stride()}")
        sizes, strides = sizes[-_DIMENSIONS:], [s[-_DIMENSIONS:] for s in strides]
        words = [*sizes, *(word for v, s in zip(views, strides, strict=True) for word in (v.address, *s))]
        target, *sources = [_region(v.address, sizes, s) for v, s in zip(views, strides, strict=True)]
        self.emit(Call.MAP, [int(function), *words], sources, [target], INSTRUCTION_NS + ELEMENT_NS * math.prod(sizes))

    def reduce(self, function: Reduce, out: Tensor, x: Tensor, dims: Sequence[int], scale: float = 1.0) -> None:
        """``out = scale · reduction of x over dims``; ``out`` has the other dimensions, ``dims`` kept as 1 or dropped."""
        dims = sorted(d % x.dim() for d in dims) if x.dim() else []
        kept = [d for d in range(x.dim()) if d not in dims]
        if x.numel() == 0:
            raise Unsupported("it reduces a tensor without elements")
        if out.dim() == x.dim():
            out = out.permute(kept + dims).reshape([x.shape[d] for d in kept])
        x = x.permute(kept + dims)
        source, target = self._view(x, tuple(x.shape)), self._view(out, tuple(out.shape))
        length, inner = _merge(x.shape[len(kept) :], [source.strides[len(kept) :]])
        outer, strides = _merge(out.shape, [target.strides, source.strides[: len(kept)]])
        if length[:-1] != [1, 1]:  # several dimensions that do not lie as one
            copy = self.temporary(x.shape)
            self.map(Map.COPY, copy, x)
            self.reduce(function, out, copy, range(len(kept), x.dim()), scale)
            return
        if outer[:-2] != [1]:
            raise Unsupported(f"no instruction reduces shape {tuple(x.shape)} to {tuple(out.shape)}")
        out_strides, x_strides = (s[1:] for s in strides)
        words = [int(function), *outer[1:], length[-1], target.address, *out_strides, source.address, *x_strides]
        words += [inner[0][-1], self.constant(scale)]
        read = _region(source.address, [*outer[1:], length[-1]], [*x_strides, inner[0][-1]])
        written = _region(target.address, outer[1:], out_strides)
        self.emit(Call.REDUCE, words, [read], [written], INSTRUCTION_NS + ELEMENT_NS * x.numel())

    def _view(self, value: Value, shape: tuple[int, ...]) -> _View:
        if not isinstance(value, Tensor):
            return _View(self.constant(float(value)), (0,) * len(shape))
        if value.device.type != "cpu" or value.is_neg():
            raise Unsupported("it uses a tensor that is not on the CPU, or a lazily negated one")
        strides = tuple(FLOAT_BYTES * s for s in value.detach().expand(shape).stride())
        if value.dtype == torch.bool:
            storage = value.untyped_storage().data_ptr()
            floats = self._boolean_floats.get(storage)
            if floats is None:
                raise Unsupported("it reads a boolean tensor from outside the update")
            return _View(floats.data_ptr() + FLOAT_BYTES * (value.data_ptr() - storage), strides)
        if value.dtype != torch.float32:
            raise Unsupported(f"it uses a tensor of type {value.dtype}")
        return _View(value.data_ptr(), strides)


def _rows(operand: Value, part: slice, shape: tuple[int, ...]) -> Value:
    """What of an operand belongs to some rows of a result of that shape."""
    whole = isinstance(operand, Tensor) and operand.dim() == len(shape) and operand.shape[0] == shape[0]
    return operand.detach()[part] if isinstance(operand, Tensor) and whole else operand


def _region(address: int, sizes: Sequence[int], strides: Sequence[int]) -> Region:
    """From the first to the last byte of a strided array."""
    reach = FLOAT_BYTES
    for size, stride in zip(sizes, strides, strict=True):
        reach += (size - 1) * stride
    return address, reach


def _merge(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Join neighbouring dimensions that lie as one in every operand; at least three come back, ones in front.

    The stride of a dimension of size 1 is ignored; where nothing else is left, the last one is given as that of a float.
    """
    merged: list[int] = []
    joined: list[list[int]] = [[] for _ in strides]
    for d, size in enumerate(sizes):
        if size == 1:
            continue
        here = [s[d] for s in strides]
        if merged and all(previous[-1] == now * size for previous, now in zip(joined, here, strict=True)):
            merged[-1] *= size
            for previous, now in zip(joined, here, strict=True):
                previous[-1] = now
        else:
            merged.append(size)
            for previous, now in zip(joined, here, strict=True):
                previous.append(now)
    if not merged:
        merged = [1]
        for previous in joined:
            previous.append(FLOAT_BYTES)
    pad = max(0, _DIMENSIONS - len(merged))
    return [1] * pad + merged, [[0] * pad + s for s in joined]
