"""The instructions of :mod:`.interpreter`.

An instruction is ``[opcode, length, words …]`` in 64-bit words; ``length`` counts all of them. The words are the arguments of the
function that executes it. Addresses are absolute, strides are bytes, and constants are addresses of one float. Opcodes from
``FIRST_OPCODE`` of ``kernel_table.py`` on are kernels.
"""

from __future__ import annotations

import enum


class Call(enum.IntEnum):
    """Opcodes of the instructions that are not kernels; ``interpreter.py`` has a function for each."""

    MAP = 0  # a function of each element
    REDUCE = 1
    INPUT = 2  # copies a field of the batch to where the program reads it
    ADAM = 3
    SIGNAL = 4  # sets a counter that other workers wait for
    WAIT = 5


class Map(enum.IntEnum):
    """Functions of the instruction MAP: ``out[i] = f(a[i], b[i], c[i])``, over up to three dimensions."""

    COPY = 0  # a
    ADD = 1  # a + b
    SUB = 2  # a - b
    MUL = 3  # a * b
    DIV = 4  # a / b
    MULADD = 5  # a + b * c
    MAX = 6  # NaN if either is
    MIN = 7
    SELECT = 8  # b where a is not 0, else c
    GREATER = 9  # 1 where a > b, else 0
    GREATER_EQUAL = 10
    EQUAL = 11
    GATE = 12  # 0 where b <= c, else a
    EXP = 13
    TANH = 14
    TANH_SLOPE = 15  # a (1 - b²), with b a tanh
    SQRT = 16
    ABS = 17
    LERP = 18  # a + c (b - a)
    SQUARED_DIFFERENCE = 19  # (a - b)²


class Reduce(enum.IntEnum):
    """Functions of the instruction REDUCE: ``out[i, j] = scale · reduction over k of a[i, j, k]``."""

    SUM = 0
    MAX = 1
    MIN = 2
