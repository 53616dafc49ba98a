"""Kernels and how they are called: words, opcodes, chunks, and the three ways to run calls."""

import inspect
from itertools import pairwise

import numpy as np
import pytest
from helpers import needs_two_threads

from sparse_offline_rl.compilation import serial
from sparse_offline_rl.engines.sparse.calls import Effects, run
from sparse_offline_rl.engines.sparse.chunks import cut
from sparse_offline_rl.engines.sparse.dispatch import call_by_opcode
from sparse_offline_rl.engines.sparse.intrinsics import store_f32
from sparse_offline_rl.engines.sparse.kernel_table import KERNELS


@serial
def put_product(out, a, b):
    store_f32(out, a * b)


@serial
def put_sum(out, a, b, c):
    store_f32(out, a + b + c)


_call = call_by_opcode({3: put_product, 70: put_sum})


@serial
def _execute(opcode, words):
    _call(opcode, words)


@pytest.mark.parametrize(("opcode", "expected"), [(3, 10.0), (70, 14.0), (8, 14.0)])
def test_an_opcode_calls_its_function_with_the_words_of_its_signature(opcode, expected):
    out = np.zeros(1, np.float32)
    words = np.array([out.ctypes.data, 2, 5, 7], np.int64)
    _execute(opcode, words.ctypes.data)
    assert out[0] == expected


def test_kernels_have_opcodes_of_their_own_and_say_what_each_word_is():
    assert len({kernel.opcode for kernel in KERNELS.values()}) == len(KERNELS)
    for name, kernel in KERNELS.items():
        parameters = inspect.signature(kernel.function.py_func).parameters
        assert kernel.name == name == kernel.function.py_func.__name__
        assert [kernel.position(word) for word in parameters] == list(range(len(parameters)))
        assert {p.annotation for p in parameters.values()} <= {"Address", "Bytes", "Count", "Flag"}, name


class Listener:
    def __init__(self):
        self.calls = []

    def kernel(self, call):
        self.calls.append(call)


@pytest.mark.parametrize("how", ["in turn", pytest.param("side by side", marks=needs_two_threads), "traced"])
def test_all_ways_to_run_calls_do_the_same(use_threads, how):
    use_threads(2 if how == "side by side" else 1)
    totals, terms = np.ones((2, 40), np.float32), np.arange(240, dtype=np.float32).reshape(2, 3, 40)
    expected = totals + terms[:, 0] + terms[:, 1] + terms[:, 2]
    calls = [(total.ctypes.data, term.ctypes.data, 40, 3, 160) for total, term in zip(totals, terms, strict=True)]
    listener = Listener() if how == "traced" else None

    def effects(i):
        return Effects([(i, 1)], [(i, 2)], {"terms": 8}, 5.0)

    for group in [[call] for call in calls] if how == "in turn" else [calls]:
        run(KERNELS["add"], group, effects, listener)
    np.testing.assert_array_equal(totals, expected)
    if listener is not None:
        assert [(call.name, call.words, call.reads) for call in listener.calls] == [
            ("add", words, [(i, 1)]) for i, words in enumerate(calls)
        ]


@pytest.mark.parametrize("batch", [1, 16, 100, 113, 1000])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_chunks_are_all_tiles_in_order(batch, threads):
    tiles = cut(batch, 10, threads)
    assert tiles.table[:, 1].sum() == tiles.vectors == -(-batch // 16)
    for count in (1, 2, 3, 8):
        chunks = tiles.chunks(count)
        assert sum(chunk.length for chunk in chunks) == len(tiles.table)
        assert sum(chunk.rows for chunk in chunks) == batch
        assert sum(chunk.vectors for chunk in chunks) == tiles.vectors
        for chunk, following in pairwise(chunks):
            assert following.first_row == chunk.first_row + chunk.rows
            assert following.offset == chunk.offset + chunk.bytes
            assert following.address == chunk.address + 24 * chunk.length
