"""Runs a :class:`SparsePlan` on addresses or on NumPy arrays; needs NumPy and Numba only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.recording import recorder
from sparse_offline_rl.sparse import kernels
from sparse_offline_rl.sparse.layout import MAX_INPUTS, MAX_VECTORS
from sparse_offline_rl.sparse.plan import SparsePlan
from sparse_offline_rl.types import FloatArray

_LANES = 16
_ALIGNMENT = 64
_WORTH_A_THREAD = 20_000  # weights times vectors of the batch, some 8 µs of work
_CACHE_BYTES = 1 << 20  # half of a core's second-level cache

Span = tuple[int, int, int]  # address, row stride in bytes, width; address 0 asks for nothing
_NO_SPAN: Span = (0, 0, 0)


class Buffer:
    """``count`` float32 at a 64-byte aligned ``address``."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._memory = np.empty(count + _ALIGNMENT // 4, np.float32)
        raw = self._memory.ctypes.data
        self.address = raw + (-raw) % _ALIGNMENT


class Tiles(NamedTuple):
    """How a batch is cut: ``table`` ``[count, 3]`` holds byte offset, vectors and first row of each tile."""

    table: NDArray[np.int64]
    address: int
    length: int
    vectors: int  # 16-column vectors of the whole batch
    width: int  # vectors of the widest tile
    group: int  # tiles whose activations and gradients fit the cache together
    threads: int  # that share the tiles


class Workspace(NamedTuple):
    """Activations kept by a forward for its backward."""

    tiles: Tiles
    batch: int
    buffer: Buffer


class KernelEngine:
    """A plan's tables at fixed addresses and its recycled buffers. Safe to share between copies, targets and threads."""

    def __init__(self, plan: SparsePlan) -> None:
        self.plan = plan
        self._arrays, self._table = _layout(plan)
        self.table = self._table.ctypes.data
        self._tiles: dict[tuple[int, int], Tiles] = {}
        self._work = sum(len(table.row_index) for table in plan.tables)
        self._free: dict[int, list[Buffer]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return KernelEngine, (self.plan,)

    def tiles(self, batch: int, threads: int) -> Tiles:
        """The cut of ``batch`` rows."""
        key = (batch, threads)
        tiles = self._tiles.get(key)
        if tiles is None:
            vectors = -(-batch // _LANES)
            if vectors * self._work < _WORTH_A_THREAD:
                threads = 1
            table = _cut(vectors, threads, self.plan.unit_count)
            width = int(table[:, 1].max())
            tile_bytes = 2 * 4 * _LANES * self.plan.unit_count * width
            group = min(len(table), max(1, _CACHE_BYTES // tile_bytes))
            tiles = Tiles(table, table.ctypes.data, len(table), vectors, width, group, min(threads, len(table)))
            self._tiles[key] = tiles
        return tiles

    def take(self, count: int) -> Buffer:
        """A buffer of ``count`` float32, recycled if one is free."""
        listener = recorder()
        if listener is not None:
            private: Buffer = listener.take(count)
            return private
        free = self._free.get(count)
        try:
            return free.pop() if free else Buffer(count)
        except IndexError:  # another thread took the last one
            return Buffer(count)

    def give_back(self, count: int, buffer: Buffer) -> None:
        """Return a buffer to the free list."""
        listener = recorder()
        if listener is not None:
            listener.give_back(buffer)
            return
        self._free.setdefault(count, []).append(buffer)

    def forward(
        self, values: int, inputs: Sequence[Span], batch: int, out: int, threads: int = 1, keep: bool = False
    ) -> Workspace | None:
        """Outputs ``[batch, out]`` to address ``out``; with ``keep`` the workspace that :meth:`backward` needs.

        ``values`` is the address of the parameter vector; ``inputs`` are at most three row-major float32 matrices that
        together have ``plan.in_features`` columns.
        """
        if batch == 1 and not keep:
            self._single(values, inputs, out)
            return None
        first, second, third = (*inputs, _NO_SPAN, _NO_SPAN)[:MAX_INPUTS]
        tiles = self.tiles(batch, threads)
        threads = tiles.threads
        slot = MAX_VECTORS * _LANES * self.plan.unit_count
        count = self._workspace_size(tiles) if keep else slot * threads
        buffer = self.take(count)
        run = kernels.forward_serial if threads == 1 else kernels.forward_parallel
        _call(
            "forward", run, self.table, values, tiles.address, tiles.length, batch, buffer.address, 0 if keep else 4 * slot,
            *first, *second, *third, out, threads,
        )  # fmt: skip
        if keep:
            return Workspace(tiles, batch, buffer)
        self.give_back(count, buffer)
        return None

    def _workspace_size(self, tiles: Tiles) -> int:
        return tiles.vectors * _LANES * self.plan.unit_count

    def backward(
        self, values: int, workspace: Workspace, grad: int, grad_stride: int, inputs: Sequence[Span], out: int
    ) -> None:
        """Gradients, from ``grad`` ``[batch, out]`` with a row stride in bytes, on as many threads as the forward.

        ``out``: address for the gradient of the parameter vector, 0 for none. ``inputs``: where the gradient of each input
        goes, address 0 for none. The workspace is given back.
        """
        first, second, third = (*inputs, _NO_SPAN, _NO_SPAN)[:MAX_INPUTS]
        tiles, batch, buffer = workspace
        threads = tiles.threads
        parameters = self.plan.parameter_count
        slot = tiles.group * tiles.width * _LANES * self.plan.unit_count
        deltas = self.take(threads * slot)
        extra = (2 * threads - 1) * parameters if out else 0
        partial = self.take(extra)
        run = kernels.backward_serial if threads == 1 else kernels.backward_parallel
        _call(
            "backward", run, self.table, values, tiles.address, tiles.length, tiles.group, batch, buffer.address, deltas.address, grad,
            grad_stride, *first, *second, *third, out, partial.address, parameters, threads, 4 * slot,
        )  # fmt: skip
        self.give_back(extra, partial)
        self.give_back(threads * slot, deltas)
        self.give_back(self._workspace_size(tiles), buffer)

    def _single(self, values: int, inputs: Sequence[Span], out: int) -> None:
        (a0, _, w0), (a1, _, w1), (a2, _, w2) = (*inputs, _NO_SPAN, _NO_SPAN)[:MAX_INPUTS]
        count = self.plan.unit_count
        buffer = self.take(count)
        _call("single", kernels.forward_single, self.table, values, buffer.address, a0, w0, a1, w1, a2, w2, out)
        self.give_back(count, buffer)

    def act(self, values: FloatArray, observations: FloatArray, threads: int = 1) -> FloatArray:
        """NumPy forward: parameters ``[n]`` and float32 ``[B, in]`` to ``[B, out]``.

        Raises ValueError when the width or the parameter count is not the plan's.
        """
        plan = self.plan
        if values.shape != (plan.parameter_count,) or values.dtype != np.float32 or not values.flags.c_contiguous:
            raise ValueError(
                f"a contiguous float32 vector of {plan.parameter_count} parameters is needed, not {values.shape}"
            )
        x = np.ascontiguousarray(observations, np.float32)
        if x.ndim != 2 or x.shape[1] != plan.in_features:
            raise ValueError(f"inputs of shape [B, {plan.in_features}] are needed, not {x.shape}")
        batch, width = x.shape
        out = np.empty((batch, plan.out_features), np.float32)
        if batch:
            self.forward(values.ctypes.data, ((x.ctypes.data, 4 * width, width),), batch, out.ctypes.data, threads)
        return out


def _call(name: str, kernel: Callable[..., None], *arguments: int) -> None:
    kernel(*arguments)
    listener = recorder()
    if listener is not None:
        listener.kernel(name, arguments)


def set_threads(count: int) -> None:
    """Let the parallel kernels use ``count`` threads of this process; ValueError beyond what Numba was started with."""
    limit: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if not 1 <= count <= limit:
        raise ValueError(f"threads must be between 1 and {limit} on this machine, not {count}")
    numba.set_num_threads(count)


def _widths(vectors: int, threads: int) -> list[int]:
    """Vectors of each tile, as even as possible.

    Up to 7 vectors (batch 112) are one tile in registers; beyond, tiles of 4 were fastest: smaller ones spend more on
    indices, larger ones miss the cache more often. Threads share out tiles of 3 and more only: narrower ones sum in another
    order, and results must not depend on threads.
    """
    tiles = -(-vectors // (4 if vectors > MAX_VECTORS else MAX_VECTORS))
    if vectors >= 3 * threads:
        tiles = min(-(-tiles // threads) * threads, vectors // 3)
    return [vectors * (i + 1) // tiles - vectors * i // tiles for i in range(tiles)]


def _cut(vectors: int, threads: int, units: int) -> NDArray[np.int64]:
    widths = np.array(_widths(vectors, threads), np.int64)
    starts = np.cumsum(widths) - widths
    return np.ascontiguousarray(np.stack([4 * _LANES * units * starts, widths, _LANES * starts], 1))


def _layout(plan: SparsePlan) -> tuple[list[NDArray[np.generic]], NDArray[np.int64]]:
    """The kernels' table of addresses, and the arrays that these addresses keep pointing into."""
    arrays: list[NDArray[np.generic]] = []

    def address(array: NDArray[np.generic]) -> int:
        arrays.append(array)
        return array.ctypes.data

    words = [len(plan.layers), plan.unit_count, plan.out_features, len(plan.dead), address(plan.dead)]
    for i, table in enumerate(plan.tables):
        rows = (table.row_unit, table.first, table.row_start, table.row_index, table.bias)
        columns = (table.column_unit, table.column_start, table.column_index, table.column_value)
        words += [len(table.row_unit), *map(address, rows), plan.unit_offsets[i], plan.unit_offsets[i + 1]]
        words += [len(table.column_unit), *map(address, columns)]
    return arrays, np.array(words, np.int64)
