"""Runs a :class:`SparsePlan` on addresses or on NumPy arrays; needs NumPy and Numba only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.broadcast import BroadcastForward
from sparse_offline_rl.engines.sparse.buffers import Buffer, Buffers
from sparse_offline_rl.engines.sparse.calls import Effects, Span, Spans, rows_of, run
from sparse_offline_rl.engines.sparse.chunks import CHUNKS_PER_THREAD, Chunk, Tiles, cut
from sparse_offline_rl.engines.sparse.costs import ADD_NS, BACKWARD_NS, FORWARD_NS, MIN_WORK_FOR_THREADS, SINGLE_NS
from sparse_offline_rl.engines.sparse.kernel_table import KERNELS
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES, LANES, MAX_INPUTS, MAX_VECTORS, Address, Bytes, Count
from sparse_offline_rl.tracing import Region, Tracer, current_tracer
from sparse_offline_rl.types import FloatArray

_NO_SPAN: Span = (0, 0, 0)
_FORWARD, _BACKWARD, _SINGLE, _ADD = (KERNELS[name] for name in ("forward", "backward", "single", "add"))


class Workspace(NamedTuple):
    """Activations kept by a forward for its backward."""

    tiles: Tiles
    buffer: Buffer


class KernelEngine:
    """A plan's tables at fixed addresses and its recycled buffers. Safe to use for copies, targets and from several threads."""

    def __init__(self, plan: SparsePlan) -> None:
        self.plan = plan
        self._arrays, self._table = _address_table(plan)
        self.table: Address = self._table.ctypes.data
        self._tiles: dict[tuple[int, int], Tiles] = {}
        self._weights = sum(len(table.row_index) for table in plan.tables)  # that the kernels read
        self._buffers = Buffers()
        self._broadcast: dict[int, BroadcastForward] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return KernelEngine, (self.plan,)

    def tiles(self, batch: int, threads: int) -> Tiles:
        """The tiles of ``batch`` rows."""
        key = (batch, threads)
        tiles = self._tiles.get(key)
        if tiles is None:
            # Not a plain store: what another thread has put there meanwhile may be in use by its address.
            tiles = self._tiles.setdefault(key, cut(batch, self.plan.unit_count, self._useful(threads, batch)))
        return tiles

    def forward(
        self, values: Address, inputs: Sequence[Span], batch: Count, out: Address, threads: int = 1, keep: bool = False
    ) -> Workspace | None:
        """Outputs ``[batch, out]`` to address ``out``; with ``keep`` the workspace that :meth:`backward` needs.

        ``values`` is the address of the parameter vector; ``inputs`` are at most three row-major float32 matrices that
        together have ``plan.in_features`` columns.
        """
        spans, tracer = _three(inputs), current_tracer()
        if batch == 1 and not keep:
            self._single(values, spans, out, tracer)
            return None
        tiles, units = self.tiles(batch, threads), self.plan.unit_count
        if keep:
            workspace = Workspace(tiles, self._buffers.take(LANES * tiles.vectors * units, tracer))
            chunks = tiles.chunks(tiles.threads)
            self._run_forward(values, spans, chunks, batch, out, [workspace.buffer.address], 0, tracer)
            return workspace
        tile_size = LANES * MAX_VECTORS * units
        scratch = self._buffers.take(tile_size * tiles.threads)
        places = [scratch.address + FLOAT_BYTES * tile_size * i for i in range(tiles.threads)]
        parts = 1 if tracer is None or tiles.threads == 1 else CHUNKS_PER_THREAD
        chunks = tiles.chunks(min(len(tiles.table), parts * tiles.threads))
        self._run_forward(values, spans, chunks, batch, out, places, FLOAT_BYTES * tile_size, tracer)
        self._buffers.give_back(scratch)
        return None

    def _run_forward(
        self,
        values: Address,
        spans: Spans,
        chunks: Sequence[Chunk],
        batch: Count,
        out: Address,
        places: Sequence[Address],
        scratch_bytes: Bytes,
        tracer: Tracer | None,
    ) -> None:
        """Chunk i has its activations at ``places`` (i modulo their number): scratch of that size, or 0 if they are to be kept."""
        keep = int(scratch_bytes == 0)
        calls = [
            (
                self.table, values, chunk.address, chunk.length, batch, places[i % len(places)], keep,
                *spans[0], *spans[1], *spans[2], out,
            )
            for i, chunk in enumerate(chunks)
        ]  # fmt: skip

        def effects(i: int) -> Effects:
            chunk, width = chunks[i], self.plan.out_features
            reads = [self._parameters(values), *rows_of(spans, chunk.first_row, chunk.rows)]
            writes = rows_of([(out, FLOAT_BYTES * width, width)], chunk.first_row, chunk.rows)
            if keep:
                writes.append((places[0] + chunk.offset, chunk.bytes))
            scratch = {} if keep else {"work": scratch_bytes}
            return Effects(reads, writes, scratch, FORWARD_NS * self._weights * chunk.vectors)

        run(_FORWARD, calls, effects, tracer)

    def forward_broadcast(
        self, values: Address, inputs: Sequence[Span], distinct: Count, batch: Count, out: Address, threads: int = 1
    ) -> None:
        """As :meth:`forward`, where the first input has ``distinct`` rows and is broadcast: each stands for ``batch / distinct`` of
        the rows of the others. What depends on it alone is computed once. ValueError if ``distinct`` does not divide ``batch``.
        """
        if distinct < 1 or batch % distinct:
            raise ValueError(f"{distinct} rows cannot stand for equally many of {batch} each")
        spans = _three(inputs)
        width = spans[0][2]
        network = self._broadcast.get(width)
        if network is None:
            network = self._broadcast.setdefault(width, BroadcastForward(self.plan, width, self._buffers))
        network(values, spans, distinct, batch, out, self._useful(threads, batch), current_tracer())

    def backward(
        self,
        values: Address,
        workspace: Workspace,
        grad: Address,
        grad_stride: Bytes,
        inputs: Sequence[Span],
        out: Address,
    ) -> None:
        """Gradients, from ``grad`` ``[batch, out]`` with ``grad_stride`` bytes from row to row, on as many threads as the forward.

        ``out``: address for the gradient of the parameter vector, 0 for none. ``inputs``: where the gradient of each input
        goes, address 0 for none. The workspace is given back.

        A thread sums the gradient of the parameters over its own tiles, which are in its own cache: the first one into ``out``,
        the others into rows of their own, which are added in order.
        """
        spans, tracer = _three(inputs), current_tracer()
        tiles, buffer = workspace
        threads, count = tiles.threads, self.plan.parameter_count if out else 0
        size = FLOAT_BYTES * count
        chunks = tiles.chunks(threads)
        partial = self._buffers.take(
            (2 * threads - 1) * count, tracer
        )  # sums of all but the first, then scratch of each
        sums = [out, *(partial.address + size * i for i in range(threads - 1))] if out else [0] * threads
        scratch = partial.address + size * (threads - 1)
        calls = [
            (
                self.table, values, chunk.address, chunk.length, tiles.group, tiles.batch, buffer.address,
                grad, grad_stride, *spans[0], *spans[1], *spans[2], sums[i], scratch + size * i, count,
            )
            for i, chunk in enumerate(chunks)
        ]  # fmt: skip

        def effects(i: int) -> Effects:
            chunk = chunks[i]
            kept = (buffer.address + chunk.offset, chunk.bytes)
            gradients = rows_of([(grad, grad_stride, self.plan.out_features)], chunk.first_row, chunk.rows)
            writes = [kept, *rows_of(spans, chunk.first_row, chunk.rows)]
            if out:
                writes.append((sums[i], size))
            return Effects(
                reads=[self._parameters(values), kept, *gradients],
                writes=writes,
                scratch={"partial": size} if out and chunk.length > tiles.group else {},
                nanoseconds=BACKWARD_NS * self._weights * chunk.vectors * (2 if out else 1),
            )

        run(_BACKWARD, calls, effects, tracer)
        if out and threads > 1:
            self._add(out, partial.address, threads, tracer)
        self._buffers.give_back(partial, tracer)
        self._buffers.give_back(buffer, tracer)

    def _add(self, total: Address, terms: Address, threads: int, tracer: Tracer | None) -> None:
        """Add the gradients that all threads but the first have summed to that of the first, a part of them on each thread."""
        count, rows = self.plan.parameter_count, threads - 1
        ends = [count * part // threads for part in range(threads + 1)]
        calls = [
            (total + FLOAT_BYTES * begin, terms + FLOAT_BYTES * begin, end - begin, rows, FLOAT_BYTES * count)
            for begin, end in pairwise(ends)
        ]

        def effects(i: int) -> Effects:
            target, source, length, _, stride = calls[i]
            sums = (target, FLOAT_BYTES * length)
            others = [(source + stride * row, FLOAT_BYTES * length) for row in range(rows)]
            return Effects([sums, *others], [sums], {}, ADD_NS * length * rows)

        run(_ADD, calls, effects, tracer)

    def _single(self, values: Address, spans: Spans, out: Address, tracer: Tracer | None) -> None:
        count = self.plan.unit_count
        buffer = self._buffers.take(count)
        (input0, _, width0), (input1, _, width1), (input2, _, width2) = spans
        words = (self.table, values, buffer.address, input0, width0, input1, width1, input2, width2, out)

        def effects(_: int) -> Effects:
            reads = [
                self._parameters(values),
                *((address, FLOAT_BYTES * width) for address, _, width in spans if width),
            ]
            writes = [(out, FLOAT_BYTES * self.plan.out_features)]
            return Effects(reads, writes, {"work": FLOAT_BYTES * count}, SINGLE_NS * self._weights)

        run(_SINGLE, [words], effects, tracer)
        self._buffers.give_back(buffer)

    def _useful(self, threads: int, batch: int) -> int:
        """One thread where ``batch`` rows are too little work for more."""
        return threads if -(-batch // LANES) * self._weights >= MIN_WORK_FOR_THREADS else 1

    def _parameters(self, values: Address) -> Region:
        return values, FLOAT_BYTES * self.plan.parameter_count

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
            inputs = ((x.ctypes.data, FLOAT_BYTES * width, width),)
            self.forward(values.ctypes.data, inputs, batch, out.ctypes.data, threads)
        return out


def _three(inputs: Sequence[Span]) -> Spans:
    first, second, third = (*inputs, _NO_SPAN, _NO_SPAN)[:MAX_INPUTS]
    return first, second, third


def set_threads(count: int) -> None:
    """Let kernels run on ``count`` threads of this process; ValueError beyond what Numba was started with."""
    limit: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if not 1 <= count <= limit:
        raise ValueError(f"threads must be between 1 and {limit} on this machine, not {count}")
    numba.set_num_threads(count)


def _address_table(plan: SparsePlan) -> tuple[list[NDArray[np.generic]], NDArray[np.int64]]:
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
        words += [len(table.column_unit), *map(address, columns), int(plan.layers[i].relu)]
    return arrays, np.array(words, np.int64)
