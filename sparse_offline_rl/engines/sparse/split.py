"""Which part of a pruned MLP need be computed only once when its first input is broadcast: when each row stands for several rows.

BCQ scores many candidate actions for one state. A unit whose surviving weights lead back to the state alone is the same for all
candidates, and so is what such units add to the sums of others. In a dense network that is true of the first product only; at
5 % density of a fifth to a half of all weights, and perturbation actors often read nothing but the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparse_offline_rl.engines.sparse.plan import IntArray, LayerPlan, SparsePlan
from sparse_offline_rl.engines.sparse.tables import VECTOR_BYTES
from sparse_offline_rl.types import BoolArray


class RowTables(NamedTuple):
    """Some units of a layer over some of its inputs, in order of their number of weights; ``column`` holds units times 64."""

    unit: IntArray  # [rows] where the unit is stored among those of its kind
    start: IntArray  # [rows + 1] into the next two
    column: IntArray  # stored input unit of each weight
    value: IntArray  # position of each weight in the parameter vector
    initial: IntArray  # [rows] position of the bias in the parameter vector, or of the sum at which the unit begins


@dataclass(frozen=True)
class SplitLayer:
    """A layer's live units in two kinds: *state-only* units depend on the broadcast input alone, *candidate* units on others as well."""

    state_only: RowTables  # state-only units
    sums: RowTables  # for each mixed unit, a candidate unit that reads state-only units: its bias and what these add to it
    mixed: RowTables  # what the other inputs add to the mixed units
    unmixed: RowTables  # candidate units that read no state-only unit


class SplitPlan:
    """A plan whose first ``width`` inputs are broadcast. All output units count as candidate units.

    ``state_only_units`` and ``candidate_units`` are the numbers of stored units of each kind: of the inputs, then of each layer.
    ``state_only_weights`` are read once a state, ``candidate_weights`` for every candidate.
    """

    def __init__(self, plan: SparsePlan, width: int) -> None:
        inputs = np.arange(plan.in_features)
        state_only = inputs < width  # of the units that the next layer reads
        positions = np.where(state_only, inputs, inputs - width)  # of each among those of its kind
        self.layers: list[SplitLayer] = []
        self.state_only_units, self.candidate_units = [width], [plan.in_features - width]
        for layer in plan.layers:
            found, next_state_only, next_positions = _split(layer, state_only, positions, layer is plan.layers[-1])
            self.layers.append(found)
            self.state_only_units.append(len(found.state_only.unit))
            self.candidate_units.append(len(found.mixed.unit) + len(found.unmixed.unit))
            state_only, positions = next_state_only, next_positions
        self.state_only_weights = sum(len(x.column) for layer in self.layers for x in (layer.state_only, layer.sums))
        self.candidate_weights = sum(len(x.column) for layer in self.layers for x in (layer.mixed, layer.unmixed))


def _split(
    layer: LayerPlan, state_only_inputs: BoolArray, positions: IntArray, last: bool
) -> tuple[SplitLayer, BoolArray, IntArray]:
    """The tables of a layer, which of its outputs are state-only, and where each output is stored among those of its kind."""
    rows, reads_state_only = layer.rows(), state_only_inputs[layer.columns]
    live = _mask(layer, layer.live_outputs)
    reads_candidate = _mask(layer, rows[~reads_state_only])
    state_only = live & ~reads_candidate & (not last)
    candidate = live & ~state_only
    mixed = candidate & _mask(layer, rows[reads_state_only])
    outputs = np.where(state_only, np.cumsum(state_only), np.cumsum(candidate)) - 1
    sums = np.cumsum(mixed) - 1
    tables = SplitLayer(
        state_only=_rows(layer, state_only, state_only_inputs, positions, outputs),
        sums=_rows(layer, mixed, state_only_inputs, positions, sums),
        mixed=_rows(layer, mixed, ~state_only_inputs, positions, outputs, initial=sums),
        unmixed=_rows(layer, candidate & ~mixed, ~state_only_inputs, positions, outputs),
    )
    return tables, state_only, outputs


def _mask(layer: LayerPlan, units: IntArray) -> BoolArray:
    mask = np.zeros(layer.out_features, bool)
    mask[units] = True
    return mask


def _rows(
    layer: LayerPlan,
    chosen: BoolArray,
    inputs: BoolArray,
    positions: IntArray,
    outputs: IntArray,
    initial: IntArray | None = None,
) -> RowTables:
    """The rows ``chosen`` over the columns ``inputs``, which are stored at ``positions``; results are stored at ``outputs``.

    A row begins at its bias or, where ``initial`` is given, at the sum of that number.
    """
    rows, columns = layer.rows(), layer.columns
    weights = np.flatnonzero(chosen[rows] & inputs[columns])
    units = np.flatnonzero(chosen)
    counts = np.bincount(rows[weights], minlength=layer.out_features)[units]
    order = np.argsort(counts, kind="stable")
    walked = units[order]
    rank = np.empty(layer.out_features, np.int64)
    rank[walked] = np.arange(len(units))
    weights = weights[np.argsort(rank[rows[weights]], kind="stable")]
    tables = (
        outputs[walked],
        np.concatenate([[0], np.cumsum(counts[order])]),
        VECTOR_BYTES * positions[columns[weights]],
        layer.values.start + weights,
        layer.bias.start + walked if initial is None else initial[walked],
    )
    return RowTables(*(np.ascontiguousarray(table, np.int32) for table in tables))
