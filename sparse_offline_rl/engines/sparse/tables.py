"""The numbers that the kernels and those who call them agree on: the size of a vector, and where tables hold what.

A kernel takes 64-bit words only, so a call passes no arrays. Its parameters are annotated with what a word is.
"""

from __future__ import annotations

from typing import TypeAlias

Address: TypeAlias = int  # of a byte in memory
Bytes: TypeAlias = int  # a stride, a size or an offset
Count: TypeAlias = int  # of rows, units, tiles, …
Flag: TypeAlias = int  # 0 or 1

FLOAT_BYTES = 4
INDEX_BYTES = 4  # of an entry in an index table
WORD_BYTES = 8  # of an entry in a table of words
LANES = 16  # floats in one vector
VECTOR_BYTES = LANES * FLOAT_BYTES
MAX_INPUTS = 3  # matrices that the kernels concatenate themselves
MAX_VECTORS = 7  # of the widest tile: batch 100, the usual one, fits 7 · 16 columns

# Byte offsets into the table of a plan (engine.py): a header, which begins with the number of layers, then a record for each layer.
UNITS, OUTPUTS, DEAD, DEAD_LIST = range(8, 40, 8)
HEADER_BYTES = 40
ROWS, ROW_UNIT, FIRST, ROW_START, ROW_INDEX, BIAS, IN_UNIT, OUT_UNIT = range(0, 64, 8)
COLUMNS, COLUMN_UNIT, COLUMN_START, COLUMN_INDEX, COLUMN_VALUE, RELU = range(64, 112, 8)
RECORD_BYTES = 112

# An entry for each tile of a batch (chunks.py): byte offset in the workspace, number of vectors, first row of the batch.
TILE_OFFSET, TILE_VECTORS, TILE_ROW = range(0, 24, 8)
TILE_BYTES = 24

# The table of a split plan (broadcast.py): a header, which begins with the number of records, then records of some rows of a layer.
SPLIT_UNITS, SPLIT_OUTPUTS = 8, 16
SPLIT_HEADER_BYTES = 24
(
    PART_ROWS,
    PART_UNIT,
    PART_START,
    PART_INDEX,
    PART_VALUE,
    PART_INITIAL,
    PART_IN_UNIT,
    PART_OUT_UNIT,
    PART_SUMS,
    PART_LINEAR,
) = range(0, 80, 8)
PART_BYTES = 80

# An entry for each tile of candidates (placement.py): number of vectors, the first of them, and where the state-only part
# has left the sums of its block: byte offset, bytes from one unit to the next.
PLACED_VECTORS, PLACED_FIRST, PLACED_OFFSET, PLACED_STRIDE = range(0, 32, 8)
PLACED_BYTES = 32
