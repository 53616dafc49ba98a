"""Runs a network on rows of which the first input's are repeated; see :mod:`.split` for why and :mod:`.repeats` for how."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse import split_kernels
from sparse_offline_rl.engines.sparse.buffers import Buffer, Buffers
from sparse_offline_rl.engines.sparse.layout import MAX_VECTORS
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.recorded import FORWARD_COST, Spans, rows_of
from sparse_offline_rl.engines.sparse.repeats import Layout
from sparse_offline_rl.engines.sparse.shares import SHARES
from sparse_offline_rl.engines.sparse.simd import LANES
from sparse_offline_rl.engines.sparse.split import RowTables, SplitPlan
from sparse_offline_rl.tracing import KernelCall, Recorder, Region

_SCRATCH = 6  # which argument of the kernel
_FROM_BIAS = -1  # in the place of the unit at which sums are stored


class _Job(NamedTuple):
    """One call."""

    layout: Layout
    values: int
    inputs: Spans
    out: int
    shared: Buffer
    scratch: Buffer
    slot: int  # bytes of scratch that a thread needs
    threads: int


class RepeatedForward:
    """The split plan of ``plan`` for a first input of ``width`` columns, with its tables at fixed addresses."""

    def __init__(self, plan: SparsePlan, width: int, buffers: Buffers) -> None:
        self._plan, self._buffers = plan, buffers
        self._split = SplitPlan(plan, width)
        self._arrays: list[NDArray[np.generic]] = []
        self._shared, self._shared_units, self._own, self._own_units = self._tables()
        self._layouts: dict[tuple[int, int, int], Layout] = {}

    def __call__(
        self, values: int, inputs: Spans, distinct: int, batch: int, out: int, threads: int, listener: Recorder | None
    ) -> None:
        """Outputs ``[batch, out]`` to address ``out``, of a first input with ``distinct`` rows and others with ``batch``."""
        layout = self._layout(distinct, batch // distinct, threads)
        count, slot = layout.shared.vectors * LANES * self._shared_units, MAX_VECTORS * LANES * self._own_units
        shared, scratch = self._buffers.take(count, listener), self._buffers.take(slot * threads)
        job = _Job(layout, values, inputs, out, shared, scratch, 4 * slot, threads)
        if listener is None:
            self._run(job)
        else:
            self._record_shared(job, listener)
            self._record_repeats(job, listener)
        self._buffers.give_back(slot * threads, scratch)
        self._buffers.give_back(count, shared, listener)

    def _run(self, job: _Job) -> None:
        """The shared part, which is small, on one thread; the own part on all."""
        tiles, places = job.layout.shared, job.layout.places.ctypes.data
        sources = job.layout.sources.ctypes.data
        split_kernels.shared_serial(
            self._shared, job.values, tiles.address, tiles.length, sources, job.shared.address, *job.inputs[0]
        )
        run = split_kernels.repeats_serial if job.threads == 1 else split_kernels.repeats_parallel
        run(
            self._own, job.values, job.layout.tiles.ctypes.data, len(job.layout.tiles), places, job.shared.address,
            job.scratch.address, *job.inputs[1], *job.inputs[2], job.out, job.threads, job.slot,
        )  # fmt: skip

    def _record_shared(self, job: _Job, listener: Recorder) -> None:
        """The shared part in as many shares as there are threads."""
        layout, first = job.layout, job.inputs[:1]
        for share in layout.shared.shares(layout.shared.threads):
            arguments = (
                self._shared, job.values, share.address, share.length, layout.sources.ctypes.data, job.shared.address,
                *job.inputs[0],
            )  # fmt: skip
            split_kernels.shared_serial(*arguments)
            reads = [self._parameters(job), *rows_of(first, 0, layout.distinct)]
            writes = [(job.shared.address + share.offset, share.bytes)]
            cost = FORWARD_COST * self._split.shared_weights * share.vectors
            listener.kernel(KernelCall("shared", arguments, reads, writes, {}, cost))

    def _record_repeats(self, job: _Job, listener: Recorder) -> None:
        """The own part in shares of whole blocks, whose rows lie together."""
        layout = job.layout
        parts = min(len(layout.blocks), SHARES * job.threads) if job.threads > 1 else 1
        for i in range(parts):
            blocks = range(len(layout.blocks) * i // parts, len(layout.blocks) * (i + 1) // parts)
            tiles = layout.tiles_of(blocks)
            arguments = (
                self._own, job.values, tiles.ctypes.data, len(tiles), layout.places.ctypes.data, job.shared.address,
                job.scratch.address, *job.inputs[1], *job.inputs[2], job.out, 1, job.slot,
            )  # fmt: skip
            split_kernels.repeats_serial(*arguments)
            first, count = layout.rows_of(blocks)
            columns = self._plan.out_features
            begin, end = layout.shared_bytes(blocks)
            reads = [self._parameters(job), (job.shared.address + begin, end - begin)]
            reads += rows_of(job.inputs[1:], first, count)
            writes = rows_of([(job.out, 4 * columns, columns)], first, count)
            cost = FORWARD_COST * self._split.own_weights * int(tiles[:, 0].sum())
            listener.kernel(KernelCall("repeats", arguments, reads, writes, {_SCRATCH: job.slot}, cost))

    def _parameters(self, job: _Job) -> Region:
        return job.values, 4 * self._plan.parameter_count

    def _layout(self, distinct: int, repeats: int, threads: int) -> Layout:
        key = (distinct, repeats, threads)
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts.setdefault(key, Layout(distinct, repeats, self._shared_units, threads))
        return layout

    def _tables(self) -> tuple[int, int, int, int]:
        """Addresses of both tables, each with the number of units that it stores.

        Units lie layer by layer; in the shared part a layer's shared units, then the sums at which own units begin.
        """
        split = self._split
        shared, own = [], []
        shared_in, shared_out = 0, split.shared_units[0]
        own_in, own_out = 0, split.own_units[0]
        for i, layer in enumerate(split.layers):
            linear, sums = int(layer is split.layers[-1]), shared_out + split.shared_units[i + 1]
            shared.append(self._record(layer.shared, shared_in, shared_out, _FROM_BIAS, 0))
            shared.append(self._record(layer.sums, shared_in, sums, _FROM_BIAS, 1))
            own.append(self._record(layer.begun, own_in, own_out, sums, linear))
            own.append(self._record(layer.fresh, own_in, own_out, _FROM_BIAS, linear))
            shared_in, shared_out = shared_out, sums + len(layer.sums.unit)
            own_in, own_out = own_out, own_out + split.own_units[i + 1]
        outputs = self._plan.out_features
        return self._table(shared, shared_out, outputs), shared_out, self._table(own, own_out, outputs), own_out

    def _record(self, rows: RowTables, inputs: int, outputs: int, sums: int, linear: int) -> list[int]:
        self._arrays += rows
        return [len(rows.unit), *(table.ctypes.data for table in rows), inputs, outputs, sums, linear]

    def _table(self, records: list[list[int]], units: int, outputs: int) -> int:
        table = np.array([len(records), units, outputs, *(word for record in records for word in record)], np.int64)
        self._arrays.append(table)
        return table.ctypes.data
