"""What of a pruned MLP must be computed once only when one of its inputs is repeated.

BCQ scores many candidate actions for one state. A unit whose surviving weights lead back to the state alone is the same for all of
them; so is what such units give to the others. In a dense network that holds for the first product only; at 5 % density for a
fifth to a half of everything, and perturbation actors often read nothing but the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparse_offline_rl.engines.sparse.plan import VECTOR_BYTES, IntArray, LayerPlan, SparsePlan
from sparse_offline_rl.types import BoolArray


class RowTables(NamedTuple):
    """Some units of a layer over some of its inputs, in order of their number of weights; offsets are units times 64."""

    unit: IntArray  # [rows] where the unit is stored among those of its kind
    start: IntArray  # [rows + 1] into the next two
    column: IntArray  # stored input unit of each weight
    value: IntArray  # position of each weight in the parameter vector
    begin: IntArray  # [rows] position of the bias in the parameter vector, or of the sum at which the unit begins


@dataclass(frozen=True)
class SplitLayer:
    """A layer's live units in two kinds: *shared* ones depend on the repeated input alone, *own* ones on the others as well."""

    shared: RowTables  # shared units
    sums: RowTables  # bias of, and what shared inputs give to, those own units that read any
    begun: RowTables  # what the other inputs give to these units
    fresh: RowTables  # own units that read no shared input


class SplitPlan:
    """A plan whose first ``width`` inputs are repeated. All output units count as own ones."""

    def __init__(self, plan: SparsePlan, width: int) -> None:
        shared = np.arange(plan.in_features) < width
        positions = np.where(shared, np.arange(plan.in_features), np.arange(plan.in_features) - width)
        self.layers: list[SplitLayer] = []
        self.shared_units, self.own_units = [width], [plan.in_features - width]
        for layer in plan.layers:
            last = layer is plan.layers[-1]
            mine = np.zeros(layer.out_features, bool)
            if not last:
                mine[layer.live_outputs] = True
                mine[layer.rows()[~shared[layer.columns]]] = False
            own = np.zeros(layer.out_features, bool)
            own[layer.live_outputs] = True
            own &= ~mine
            outputs = np.where(mine, np.cumsum(mine), np.cumsum(own)) - 1
            begun = np.zeros(layer.out_features, bool)
            begun[layer.rows()[shared[layer.columns]]] = True
            begun &= own
            at = np.cumsum(begun) - 1  # of the sums
            self.layers.append(
                SplitLayer(
                    _rows(layer, mine, shared, positions, outputs),
                    _rows(layer, begun, shared, positions, at),
                    _rows(layer, begun, ~shared, positions, outputs, at),
                    _rows(layer, own & ~begun, ~shared, positions, outputs),
                )
            )
            shared, positions = mine, outputs
            self.shared_units.append(int(mine.sum()))
            self.own_units.append(int(own.sum()))
        self.shared_weights = sum(len(rows.column) for layer in self.layers for rows in (layer.shared, layer.sums))
        self.own_weights = sum(len(rows.column) for layer in self.layers for rows in (layer.begun, layer.fresh))


def _rows(
    layer: LayerPlan,
    chosen: BoolArray,
    inputs: BoolArray,
    positions: IntArray,
    outputs: IntArray,
    sums: IntArray | None = None,
) -> RowTables:
    """The rows ``chosen`` over the columns ``inputs``, stored at ``positions``; results go to ``outputs``, and begin at ``sums``."""
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
        layer.bias.start + walked if sums is None else sums[walked],
    )
    return RowTables(*(np.ascontiguousarray(table, np.int32) for table in tables))
