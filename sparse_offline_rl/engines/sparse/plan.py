"""What a pruned MLP computes: index tables, built once from the masks, immutable and shared by copies and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.engines.sparse.tables import VECTOR_BYTES
from sparse_offline_rl.networks.liveness import live_units
from sparse_offline_rl.networks.packing import Span, packed_spans
from sparse_offline_rl.types import BoolArray

IntArray = NDArray[np.int32]


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
    relu: bool  # whether its sums are cut at 0

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

    Rows (and columns of the transpose) are walked in order of their number of weights: neighbouring loops then have
    equal lengths, which the processor's branch predictor gets right. Indices are units times 64, the bytes of one vector a unit.
    """

    row_unit: IntArray  # [rows] stored output unit
    first: IntArray  # [rows] position of the row's first value in the parameter vector
    row_start: IntArray  # [rows + 1] into row_index
    row_index: IntArray  # stored input unit of each weight, times 64
    bias: IntArray  # [rows] position of the bias in the parameter vector
    column_unit: IntArray  # [columns] stored input unit
    column_start: IntArray  # [columns + 1] into the next two
    column_index: IntArray  # stored output unit of each weight, times 64
    column_value: IntArray  # position of each weight in the parameter vector


class SparsePlan:
    """Everything about an MLP except its parameters.

    Parameters live in one float32 vector in packed order (:mod:`sparse_offline_rl.networks.packing`). A hidden unit without a path to the output has zero gradient for ever, so
    it is left out of every computation; its parameters keep their place in the vector and their gradient is 0.
    """

    layers: tuple[LayerPlan, ...]

    def __init__(self, masks: Sequence[BoolArray], rectified: Sequence[bool] | None = None) -> None:
        masks = [np.asarray(mask) for mask in masks]
        _check(masks)
        if rectified is None:
            rectified = [*(True for _ in masks[:-1]), False]
        live = [_int32(np.flatnonzero(units)) for units in live_units(masks)]
        spans = enumerate(packed_spans(masks))
        self.layers = tuple(_layer(masks[i], span, live[i], live[i + 1], rectified[i]) for i, span in spans)
        self.parameter_count = self.layers[-1].bias.stop
        self.in_features = self.layers[0].in_features
        self.out_features = self.layers[-1].out_features
        self._build_tables()

    @classmethod
    def from_masks(cls, masks: Sequence[BoolArray], rectified: Sequence[bool] | None = None) -> SparsePlan:
        """Plan for masks ``[out, in]`` from input to output; several heads are stacked as one last mask.

        ``rectified`` says which layers ReLU follows: all but the last if it is not given. Raises ValueError when there is no mask, one is not a boolean matrix, or two do not fit together.
        """
        return cls(masks, rectified)

    @property
    def nnz(self) -> int:
        """Number of surviving weights of all layers (biases not counted)."""
        return sum(layer.nnz for layer in self.layers)

    def masks(self) -> list[BoolArray]:
        """The masks ``[out, in]`` that the plan was made from."""
        return [layer.mask() for layer in self.layers]

    def __deepcopy__(self, memo: dict[int, Any]) -> SparsePlan:
        return self

    def __copy__(self) -> SparsePlan:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return SparsePlan, (self.masks(), [layer.relu for layer in self.layers])

    def _build_tables(self) -> None:
        position = np.arange(self.in_features, dtype=np.int32)  # every input is stored, read or not
        tables, units = [], [self.in_features]
        for layer in self.layers:
            tables.append(_tables(layer, position, units[-1]))
            units.append(len(layer.live_outputs))
            position = _positions(layer)
        self.tables = tuple(tables)
        self.unit_offsets = tuple(int(n) for n in np.cumsum([0, *units]))
        self.unit_count = self.unit_offsets[-1]
        self.dead = self._dead_parameters()

    def _dead_parameters(self) -> IntArray:
        alive = np.zeros(self.parameter_count, bool)
        for layer, table in zip(self.layers, self.tables, strict=True):
            alive[table.bias] = True
            alive[table.column_value] = True
            live = np.zeros(layer.out_features, bool)
            live[layer.live_outputs] = True
            alive[layer.values] |= live[layer.rows()]
        return np.flatnonzero(~alive).astype(np.int32)


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


def _layer(mask: BoolArray, span: Span, live_inputs: IntArray, live_outputs: IntArray, relu: bool) -> LayerPlan:
    out_features, in_features = mask.shape
    rows, columns = np.nonzero(mask)
    start = np.searchsorted(rows, np.arange(out_features + 1)).astype(np.int32)
    return LayerPlan(
        in_features=in_features,
        out_features=out_features,
        values=span.values,
        bias=span.bias,
        start=start,
        columns=columns.astype(np.int32),
        live_inputs=live_inputs,
        live_outputs=live_outputs,
        relu=relu,
    )


def _positions(layer: LayerPlan) -> IntArray:
    """Where each output unit is stored among the live ones, -1 for a dead one: ``[out]``."""
    position = np.full(layer.out_features, -1, np.int32)
    position[layer.live_outputs] = np.arange(len(layer.live_outputs))
    return position


def _tables(layer: LayerPlan, in_position: IntArray, in_units: int) -> LayerTables:
    lengths = np.diff(layer.start)
    out_position = _positions(layer)
    walked = layer.live_outputs[np.argsort(lengths[layer.live_outputs], kind="stable")]
    rank = np.empty(layer.out_features, np.int32)
    rank[walked] = np.arange(len(walked))
    alive = np.flatnonzero(out_position[layer.rows()] >= 0)
    rows, inputs = layer.rows()[alive], in_position[layer.columns[alive]]
    by_row = np.argsort(rank[rows], kind="stable")
    counts = np.bincount(inputs, minlength=in_units)
    column_unit = np.argsort(counts, kind="stable")
    by_column = np.lexsort((rows, np.argsort(column_unit, kind="stable")[inputs]))
    return LayerTables(
        row_unit=_int32(out_position[walked]),
        first=_int32(layer.values.start + layer.start[walked]),
        row_start=_starts(lengths[walked]),
        row_index=_int32(VECTOR_BYTES * inputs[by_row]),
        bias=_int32(layer.bias.start + walked),
        column_unit=_int32(column_unit),
        column_start=_starts(counts[column_unit]),
        column_index=_int32(VECTOR_BYTES * out_position[rows[by_column]]),
        column_value=_int32(layer.values.start + alive[by_column]),
    )


def _starts(lengths: NDArray[Any]) -> IntArray:
    return _int32(np.concatenate([[0], np.cumsum(lengths)]))


def _int32(array: NDArray[Any]) -> IntArray:
    return np.ascontiguousarray(array, np.int32)
