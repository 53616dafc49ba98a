"""The instruction set of :mod:`.machine`: numbers of the instructions and how each is laid out in 64-bit words.

Every instruction is ``[code, words, …]``. Strides are bytes, addresses are absolute, and constants are addresses of one float.
"""

from __future__ import annotations

import enum


class Map(enum.IntEnum):
    """``out[i] = f(a[i], b[i], c[i])`` over up to three dimensions.

    Layout: ``n0, n1, n2``, then out, a, b and c with an address and three strides each; out's last stride is 4.
    """

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
    """``out[i, j] = scale · reduction over k of a[i, j, k]``.

    Layout: ``n0, n1, n2``, out with an address and two strides, a with an address and three, address of the scale.
    """

    SUM = 32
    MAX = 33
    MIN = 34


class Call(enum.IntEnum):
    """Everything else."""

    FORWARD = 48  # the arguments of kernels.forward_serial
    BACKWARD = 49  # those of kernels.backward_serial
    SINGLE = 50  # those of kernels.forward_single
    ADD = 51  # those of kernels.add_serial
    ADAM = 52  # addresses of parameters, both moments, gradients and factors; number of parameters
    INPUT = 53  # rows, columns, target, address of (address, row stride) of what to copy there
    SIGNAL = 54  # address of a counter, its new value
    WAIT = 55  # address of a counter, the value that it must reach
    SHARED = 56  # the arguments of split_kernels.shared_serial
    REPEATS = 57  # those of split_kernels.repeats_serial


# How many arguments the kernels take.
ARGUMENTS = {
    Call.FORWARD: 18, Call.BACKWARD: 22, Call.SINGLE: 10, Call.ADD: 5, Call.SHARED: 9, Call.REPEATS: 16
}  # fmt: skip
