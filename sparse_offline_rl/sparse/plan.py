"""What a pruned MLP computes: index tables, built once from the masks, immutable and shared by copies and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.types import BoolArray

IntArray = NDArray[np.int32]

_CHUNKS = 32  # pieces of the weight gradient that threads share out
_ROW_COST = 6  # what a row costs beside its weights, in weights


@dataclass(frozen=True)
class LayerPlan:
    """One layer ``in_features -> out_features``: where its parameters are and which units matter.

    ``start`` ``[out + 1]`` and ``columns`` ``[nnz]`` are the mask in CSR form; ``live_inputs`` and ``live_outputs`` are the
    indices of the units that have a path to the network's output (and of the inputs that such units read).
    """

    in_features: int
    out_features: int
    values: slice
    bias: slice
    start: IntArray
    columns: IntArray
    live_inputs: IntArray
    live_outputs: IntArray

    @property
    def nnz(self) -> int:
        """Number of surviving weights."""
        return len(self.columns)

    def rows(self) -> IntArray:
        """Row of each surviving weight, ``[nnz]``."""
        return np.repeat(np.arange(self.out_features, dtype=np.int32), np.diff(self.start))

    def mask(self) -> BoolArray:
        """The boolean mask ``[out, in]``."""
        mask = np.zeros((self.out_features, self.in_features), bool)
        mask[self.rows(), self.columns] = True
        return mask


@dataclass(frozen=True)
class LayerTables:
    """Index tables of a layer over its live units only, as the kernels walk them.

    Units are stored sorted by their number of incoming weights, so that neighbouring loops have equal lengths and the
    branch predictor is right; columns of the transpose are walked in an order (``column_unit``) chosen likewise.
    """

    first: IntArray  # [rows] position of the row's first value in the parameter vector
    row_start: IntArray  # [rows + 1] into row_index
    row_index: IntArray  # stored input unit of each weight
    bias: IntArray  # [rows] position of the bias in the parameter vector
    column_unit: IntArray  # [columns] stored input unit
    column_start: IntArray  # [columns + 1] into the next two
    column_index: IntArray  # stored output unit of each weight
    column_value: IntArray  # position of each weight in the parameter vector


class SparsePlan:
    """Everything about an MLP with ReLU hidden layers and a linear last layer except its parameters.

    Parameters live in one float32 vector, ``[values_0, bias_0, values_1, bias_1, …]``, with the values of a layer in the
    row-major order of its mask's True positions. A hidden unit without a path to the output has zero gradient for ever, so
    it is left out of every computation; its parameters keep their place in the vector and their gradient is 0.
    """

    layers: tuple[LayerPlan, ...]

    def __init__(self, masks: Sequence[BoolArray]) -> None:
        masks = [np.asarray(mask) for mask in masks]
        _check(masks)
        live = _live_units(masks)
        layers, offset = [], 0
        for i, mask in enumerate(masks):
            layers.append(_layer(mask, offset, live[i], live[i + 1]))
            offset = layers[-1].bias.stop
        self.layers = tuple(layers)
        self.parameter_count = offset
        self.in_features = self.layers[0].in_features
        self.out_features = self.layers[-1].out_features
        self._build_tables()

    @classmethod
    def from_masks(cls, masks: Sequence[BoolArray]) -> SparsePlan:
        """Plan for masks ``[out, in]`` from input to output; several heads are stacked as one last mask.

        Raises ValueError when there is no mask, one is not a boolean matrix, or two do not fit together.
        """
        return cls(masks)

    @property
    def nnz(self) -> int:
        """Number of surviving weights of all layers (biases not counted)."""
        return sum(layer.nnz for layer in self.layers)

    @property
    def live_units(self) -> tuple[tuple[int, int], ...]:
        """(live inputs, live outputs) of each layer."""
        return tuple((len(layer.live_inputs), len(layer.live_outputs)) for layer in self.layers)

    def masks(self) -> list[BoolArray]:
        """The masks ``[out, in]`` that the plan was made from."""
        return [layer.mask() for layer in self.layers]

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsePlan:
        return self

    def __copy__(self) -> SparsePlan:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsePlan, (self.masks(),)

    def _build_tables(self) -> None:
        features = self.layers[0].live_inputs
        position = np.zeros(self.in_features, np.int32)
        position[features] = np.arange(len(features))
        tables, units = [], [len(features)]
        for layer in self.layers:
            table, position = _tables(layer, position)
            tables.append(table)
            units.append(len(table.first))
        self.features = features
        self.tables = tuple(tables)
        self.unit_offsets = tuple(int(n) for n in np.cumsum([0, *units]))
        self.unit_count = self.unit_offsets[-1]
        self.output_units = _int32(position + self.unit_offsets[-2])
        self.dead = self._dead_parameters()
        self.chunks = self._gradient_chunks()

    def _dead_parameters(self) -> IntArray:
        alive = np.zeros(self.parameter_count, bool)
        for layer, table in zip(self.layers, self.tables, strict=True):
            alive[table.bias] = True
            alive[table.column_value] = True
            for row in layer.live_outputs:
                alive[layer.values.start + layer.start[row] : layer.values.start + layer.start[row + 1]] = True
        return np.flatnonzero(~alive).astype(np.int32)

    def _gradient_chunks(self) -> NDArray[np.int64]:
        """``[chunks, 3]``: (layer, first row, end row) of about equal cost."""
        costs = [np.diff(table.row_start) + _ROW_COST for table in self.tables]
        share = max(1, -(-sum(int(cost.sum()) for cost in costs) // _CHUNKS))
        chunks = []
        for layer, cost in enumerate(costs):
            piece = (np.cumsum(cost) - cost) // share
            edges = [*np.flatnonzero(np.diff(piece, prepend=-1)), len(cost)]
            chunks += [(layer, begin, end) for begin, end in pairwise(edges)]
        return np.array(chunks, np.int64).reshape(-1, 3)


def _check(masks: Sequence[BoolArray]) -> None:
    if not masks:
        raise ValueError("a plan needs at least one mask")
    for i, mask in enumerate(masks):
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"mask {i} must be a boolean matrix [out, in], not {mask.dtype} of shape {mask.shape}")
        if i and mask.shape[1] != masks[i - 1].shape[0]:
            raise ValueError(
                f"mask {i} has {mask.shape[1]} inputs but mask {i - 1} has {masks[i - 1].shape[0]} outputs"
            )


def _live_units(masks: Sequence[BoolArray]) -> list[IntArray]:
    """Inputs, then the units of each layer, that have a path to the output."""
    live: list[BoolArray] = [np.ones(masks[-1].shape[0], bool)]
    for mask in reversed(masks):
        live.insert(0, np.any(mask[live[0]], axis=0))
    return [np.flatnonzero(units).astype(np.int32) for units in live]


def _layer(mask: BoolArray, offset: int, live_inputs: IntArray, live_outputs: IntArray) -> LayerPlan:
    out_features, in_features = mask.shape
    rows, columns = np.nonzero(mask)
    start = np.searchsorted(rows, np.arange(out_features + 1)).astype(np.int32)
    end = offset + len(columns)
    return LayerPlan(
        in_features=in_features,
        out_features=out_features,
        values=slice(offset, end),
        bias=slice(end, end + out_features),
        start=start,
        columns=columns.astype(np.int32),
        live_inputs=live_inputs,
        live_outputs=live_outputs,
    )


def _tables(layer: LayerPlan, in_position: IntArray) -> tuple[LayerTables, IntArray]:
    """The kernels' tables, and the stored position of each output unit ``[out]``."""
    lengths = np.diff(layer.start)
    stored = layer.live_outputs[np.argsort(lengths[layer.live_outputs], kind="stable")]
    out_position = np.full(layer.out_features, -1, np.int32)
    out_position[stored] = np.arange(len(stored))
    rows = out_position[layer.rows()]
    alive = np.flatnonzero(rows >= 0)
    rows, inputs = rows[alive], in_position[layer.columns[alive]]
    value = layer.values.start + alive
    by_row = np.argsort(rows, kind="stable")
    counts = np.bincount(inputs, minlength=len(layer.live_inputs))
    column_unit = np.argsort(counts, kind="stable")
    rank = np.argsort(column_unit, kind="stable")
    by_column = np.lexsort((rows, rank[inputs]))
    table = LayerTables(
        first=_int32(layer.values.start + layer.start[stored]),
        row_start=_starts(lengths[stored]),
        row_index=_int32(inputs[by_row]),
        bias=_int32(layer.bias.start + stored),
        column_unit=_int32(column_unit),
        column_start=_starts(counts[column_unit]),
        column_index=_int32(rows[by_column]),
        column_value=_int32(value[by_column]),
    )
    return table, out_position


def _starts(lengths: NDArray[Any]) -> IntArray:
    return _int32(np.concatenate([[0], np.cumsum(lengths)]))


def _int32(array: NDArray[Any]) -> IntArray:
    return np.ascontiguousarray(array, np.int32)
