"""Runs a :class:`SparsePlan` on addresses or on NumPy arrays; needs NumPy and Numba only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse import kernels, recorded
from sparse_offline_rl.engines.sparse.buffers import Buffer, Buffers
from sparse_offline_rl.engines.sparse.layout import MAX_INPUTS, MAX_VECTORS
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.recorded import Span, Spans
from sparse_offline_rl.engines.sparse.repeated import RepeatedForward
from sparse_offline_rl.engines.sparse.shares import Tiles, cut
from sparse_offline_rl.engines.sparse.simd import LANES
from sparse_offline_rl.tracing import Recorder, recorder
from sparse_offline_rl.types import FloatArray

_WORTH_A_THREAD = 20_000  # weights times vectors of the batch, some 8 µs of work

_NO_SPAN: Span = (0, 0, 0)


class Workspace(NamedTuple):
    """Activations kept by a forward for its backward."""

    tiles: Tiles
    buffer: Buffer


class KernelEngine:
    """A plan's tables at fixed addresses and its recycled buffers. Safe to share between copies, targets and threads."""

    def __init__(self, plan: SparsePlan) -> None:
        self.plan = plan
        self._arrays, self._table = _layout(plan)
        self.table = self._table.ctypes.data
        self._tiles: dict[tuple[int, int], Tiles] = {}
        self._weights = sum(len(table.row_index) for table in plan.tables)
        self._buffers = Buffers()
        self._repeated: dict[int, RepeatedForward] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return KernelEngine, (self.plan,)

    def tiles(self, batch: int, threads: int) -> Tiles:
        """The cut of ``batch`` rows."""
        key = (batch, threads)
        tiles = self._tiles.get(key)
        if tiles is None:
            # Not a plain store: what another thread has put there meanwhile may be in use by its address.
            tiles = self._tiles.setdefault(key, cut(batch, self.plan.unit_count, self._useful(threads, batch)))
        return tiles

    def forward(
        self, values: int, inputs: Sequence[Span], batch: int, out: int, threads: int = 1, keep: bool = False
    ) -> Workspace | None:
        """Outputs ``[batch, out]`` to address ``out``; with ``keep`` the workspace that :meth:`backward` needs.

        ``values`` is the address of the parameter vector; ``inputs`` are at most three row-major float32 matrices that
        together have ``plan.in_features`` columns.
        """
        spans = _three(inputs)
        listener = recorder()
        if batch == 1 and not keep:
            self._single(values, spans, out, listener)
            return None
        tiles = self.tiles(batch, threads)
        slot = MAX_VECTORS * LANES * self.plan.unit_count
        count = self._workspace_size(tiles) if keep else slot * tiles.threads
        buffer = self._buffers.take(count, listener if keep else None)
        scratch = 0 if keep else 4 * slot
        if listener is None:
            run = kernels.forward_serial if tiles.threads == 1 else kernels.forward_parallel
            run(
                self.table, values, tiles.address, tiles.length, batch, buffer.address, scratch,
                *spans[0], *spans[1], *spans[2], out, tiles.threads,
            )  # fmt: skip
        else:
            recorded.forward(listener, self._network(values), spans, tiles, out, buffer.address, scratch)
        if keep:
            return Workspace(tiles, buffer)
        self._buffers.give_back(count, buffer)
        return None

    def forward_repeated(
        self, values: int, inputs: Sequence[Span], distinct: int, batch: int, out: int, threads: int = 1
    ) -> None:
        """As :meth:`forward`, where the first input has ``distinct`` rows, each of which stands for ``batch / distinct`` of
        the rows of the others. What depends on it alone is computed once. ValueError if ``distinct`` does not divide ``batch``.
        """
        if distinct < 1 or batch % distinct:
            raise ValueError(f"{distinct} rows cannot stand for equally many of {batch} each")
        spans = _three(inputs)
        width = spans[0][2]
        network = self._repeated.get(width)
        if network is None:
            network = self._repeated.setdefault(width, RepeatedForward(self.plan, width, self._buffers))
        network(values, spans, distinct, batch, out, self._useful(threads, batch), recorder())

    def _useful(self, threads: int, batch: int) -> int:
        """One thread where ``batch`` rows are too little work for more."""
        return threads if -(-batch // LANES) * self._weights >= _WORTH_A_THREAD else 1

    def _workspace_size(self, tiles: Tiles) -> int:
        return tiles.vectors * LANES * self.plan.unit_count

    def _network(self, values: int) -> recorded.Network:
        return recorded.Network(self.plan, self.table, values, self._weights)

    def backward(
        self, values: int, workspace: Workspace, grad: int, grad_stride: int, inputs: Sequence[Span], out: int
    ) -> None:
        """Gradients, from ``grad`` ``[batch, out]`` with a row stride in bytes, on as many threads as the forward.

        ``out``: address for the gradient of the parameter vector, 0 for none. ``inputs``: where the gradient of each input
        goes, address 0 for none. The workspace is given back.
        """
        spans = _three(inputs)
        listener = recorder()
        tiles, buffer = workspace
        threads, parameters = tiles.threads, self.plan.parameter_count
        # A result and scratch for each thread; a replay has scratch of its own.
        extra = (2 * threads - 1 if listener is None else threads) * parameters if out else 0
        partial = self._buffers.take(extra, listener)
        if listener is None:
            run = kernels.backward_serial if threads == 1 else kernels.backward_parallel
            run(
                self.table, values, tiles.address, tiles.length, tiles.group, tiles.batch, buffer.address, grad,
                grad_stride, *spans[0], *spans[1], *spans[2], out, partial.address, parameters, threads,
            )  # fmt: skip
        else:
            target = (grad, grad_stride, self.plan.out_features)
            network = self._network(values)
            recorded.backward(listener, network, spans, tiles, target, out, buffer.address, partial.address)
        self._buffers.give_back(extra, partial, listener)
        self._buffers.give_back(self._workspace_size(tiles), buffer, listener)

    def _single(self, values: int, spans: Spans, out: int, listener: Recorder | None) -> None:
        count = self.plan.unit_count
        buffer = self._buffers.take(count)
        if listener is None:
            (a0, _, w0), (a1, _, w1), (a2, _, w2) = spans
            kernels.forward_single(self.table, values, buffer.address, a0, w0, a1, w1, a2, w2, out)
        else:
            recorded.single(listener, self._network(values), spans, out, buffer.address)
        self._buffers.give_back(count, buffer)

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


def _three(inputs: Sequence[Span]) -> Spans:
    first, second, third = (*inputs, _NO_SPAN, _NO_SPAN)[:MAX_INPUTS]
    return first, second, third


def set_threads(count: int) -> None:
    """Let the parallel kernels use ``count`` threads of this process; ValueError beyond what Numba was started with."""
    limit: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if not 1 <= count <= limit:
        raise ValueError(f"threads must be between 1 and {limit} on this machine, not {count}")
    numba.set_num_threads(count)


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
