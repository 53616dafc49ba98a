"""How the kernels find their data: byte offsets into a plan's table."""

from __future__ import annotations

MAX_INPUTS = 3  # matrices that the kernels concatenate themselves
MAX_VECTORS = 7  # widest tile: batch 100, the usual one, fits 7 · 16 columns

# Byte offsets into the plan's table (engine.py): a header, then one record per layer.
UNITS, OUTPUTS, DEAD, DEAD_LIST = range(8, 40, 8)
HEADER_BYTES = 40
ROWS, ROW_UNIT, FIRST, ROW_START, ROW_INDEX, BIAS, IN_UNIT, OUT_UNIT = range(0, 64, 8)
COLUMNS, COLUMN_UNIT, COLUMN_START, COLUMN_INDEX, COLUMN_VALUE = range(64, 104, 8)
RECORD_BYTES = 104
TILE_BYTES = 24  # byte offset in the workspace, number of vectors, first batch row
