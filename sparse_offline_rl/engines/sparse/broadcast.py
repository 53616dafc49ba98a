"""Runs a network whose first input is broadcast; see :mod:`.split` for why and :mod:`.placement` for how."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.buffers import Buffer, Buffers
from sparse_offline_rl.engines.sparse.calls import Effects, Span, Spans, rows_of, run
from sparse_offline_rl.engines.sparse.chunks import CHUNKS_PER_THREAD
from sparse_offline_rl.engines.sparse.costs import FORWARD_NS
from sparse_offline_rl.engines.sparse.kernel_table import KERNELS
from sparse_offline_rl.engines.sparse.placement import Placement
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.split import RowTables, SplitPlan
from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES, LANES, MAX_VECTORS, Address, Count
from sparse_offline_rl.tracing import Region, Tracer

_FROM_BIAS = -1  # in the place of the unit at which sums are stored
_STATE_ONLY, _CANDIDATES = KERNELS["state_only"], KERNELS["candidates"]


class BroadcastForward:
    """The split plan of ``plan`` for a first input of ``width`` columns, with its tables at fixed addresses."""

    def __init__(self, plan: SparsePlan, width: int, buffers: Buffers) -> None:
        self._plan, self._buffers = plan, buffers
        self._split = SplitPlan(plan, width)
        self._arrays: list[NDArray[np.generic]] = []
        self._build_tables()
        self._tile_size = MAX_VECTORS * LANES * self._candidate_units
        self._placements: dict[tuple[int, int, int], Placement] = {}

    def __call__(
        self,
        values: Address,
        inputs: Spans,
        states: Count,
        batch: Count,
        out: Address,
        threads: int,
        tracer: Tracer | None,
    ) -> None:
        """Outputs ``[batch, out]`` to address ``out``, of a first input with ``states`` rows and others with ``batch``."""
        placement = self._placement(states, batch // states, threads)
        sums = self._buffers.take(placement.state_only.vectors * LANES * self._state_only_units, tracer)
        self._run_state_only(placement, values, inputs[0], sums, tracer)
        self._run_candidates(placement, values, inputs, out, sums, threads, tracer)
        self._buffers.give_back(sums, tracer)

    def _run_state_only(
        self, placement: Placement, values: Address, states: Span, sums: Buffer, tracer: Tracer | None
    ) -> None:
        tiles = placement.state_only
        chunks = tiles.chunks(tiles.threads)
        calls = [
            (
                self._state_only_table, values, chunk.address, chunk.length,
                placement.source_address, sums.address, *states,
            )
            for chunk in chunks
        ]  # fmt: skip

        def effects(i: int) -> Effects:
            chunk = chunks[i]
            return Effects(
                reads=[self._parameters(values), *rows_of([states], 0, placement.states)],
                writes=[(sums.address + chunk.offset, chunk.bytes)],
                scratch={},
                nanoseconds=FORWARD_NS * self._split.state_only_weights * chunk.vectors,
            )

        run(_STATE_ONLY, calls, effects, tracer)

    def _run_candidates(
        self,
        placement: Placement,
        values: Address,
        inputs: Spans,
        out: Address,
        sums: Buffer,
        threads: int,
        tracer: Tracer | None,
    ) -> None:
        parts = threads if tracer is None or threads == 1 else CHUNKS_PER_THREAD * threads
        chunks = placement.chunks(parts)
        tile_bytes = FLOAT_BYTES * self._tile_size
        scratch = self._buffers.take(self._tile_size * threads)
        calls = [
            (
                self._candidate_table, values, chunk.address, chunk.length, placement.place_address, sums.address,
                scratch.address + tile_bytes * (i % threads), *inputs[1], *inputs[2], out,
            )
            for i, chunk in enumerate(chunks)
        ]  # fmt: skip

        def effects(i: int) -> Effects:
            chunk, width = chunks[i], self._plan.out_features
            state_only = (sums.address + chunk.offset, chunk.bytes)
            return Effects(
                reads=[self._parameters(values), state_only, *rows_of(inputs[1:], chunk.first_row, chunk.rows)],
                writes=rows_of([(out, FLOAT_BYTES * width, width)], chunk.first_row, chunk.rows),
                scratch={"work": tile_bytes},
                nanoseconds=FORWARD_NS * self._split.candidate_weights * chunk.vectors,
            )

        run(_CANDIDATES, calls, effects, tracer)
        self._buffers.give_back(scratch)

    def _parameters(self, values: Address) -> Region:
        return values, FLOAT_BYTES * self._plan.parameter_count

    def _placement(self, states: int, candidates: int, threads: int) -> Placement:
        key = (states, candidates, threads)
        placement = self._placements.get(key)
        if placement is None:
            made = Placement(states, candidates, self._state_only_units, threads)
            placement = self._placements.setdefault(key, made)
        return placement

    def _build_tables(self) -> None:
        """Addresses of both tables, and the number of units that each part stores.

        Units lie layer by layer; in the state-only part a layer's state-only units, then the sums at which mixed units begin.
        """
        split = self._split
        state_only: list[list[int]] = []
        candidates: list[list[int]] = []
        state_only_in, state_only_out = 0, split.state_only_units[0]
        candidate_in, candidate_out = 0, split.candidate_units[0]
        for i, layer in enumerate(split.layers):
            linear = int(not self._plan.layers[i].relu)
            sums = state_only_out + split.state_only_units[i + 1]
            state_only.append(self._record(layer.state_only, state_only_in, state_only_out, _FROM_BIAS, linear))
            state_only.append(self._record(layer.sums, state_only_in, sums, _FROM_BIAS, 1))
            candidates.append(self._record(layer.mixed, candidate_in, candidate_out, sums, linear))
            candidates.append(self._record(layer.unmixed, candidate_in, candidate_out, _FROM_BIAS, linear))
            state_only_in, state_only_out = state_only_out, sums + len(layer.sums.unit)
            candidate_in, candidate_out = candidate_out, candidate_out + split.candidate_units[i + 1]
        self._state_only_units, self._candidate_units = state_only_out, candidate_out
        self._state_only_table = self._table(state_only, state_only_out)
        self._candidate_table = self._table(candidates, candidate_out)

    def _record(self, rows: RowTables, inputs: int, outputs: int, sums: int, linear: int) -> list[int]:
        """A record of the table (tables.py: ``PART_…``)."""
        self._arrays += rows
        return [len(rows.unit), *(table.ctypes.data for table in rows), inputs, outputs, sums, linear]

    def _table(self, records: list[list[int]], units: int) -> Address:
        header = [len(records), units, self._plan.out_features]
        table = np.array([*header, *(word for record in records for word in record)], np.int64)
        self._arrays.append(table)
        return table.ctypes.data
