"""The engine's constants of the machine (``engines/sparse/costs.py``), measured where this runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import torch

from sparse_offline_rl.benchmarks.bench import Bench
from sparse_offline_rl.benchmarks.results import Row, Table
from sparse_offline_rl.engines.capture.builder import Builder
from sparse_offline_rl.engines.capture.executable import Executable
from sparse_offline_rl.engines.capture.interpreter import adam, run_workers
from sparse_offline_rl.engines.capture.opcodes import Call, Map
from sparse_offline_rl.engines.capture.tasks import instruction
from sparse_offline_rl.engines.capture.workers import COUNTER_BYTES
from sparse_offline_rl.engines.sparse import costs
from sparse_offline_rl.engines.sparse.engine import KernelEngine
from sparse_offline_rl.engines.sparse.kernel_table import KERNELS
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.tables import WORD_BYTES
from sparse_offline_rl.types import FloatArray

TITLE = "Constants of the sparse engine"
_INPUTS, _OUTPUTS, _DENSITY = 23, 12, 0.05
_VECTORS = 7  # of batch 112
_FLOATS = 1 << 16
_SMALL, _LARGE = 1, 1 << 12  # elements of an instruction
_REPEATS = 100
_LEVEL2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")  # of Linux, such as 1024K


def measure(bench: Bench) -> list[Table]:
    """One table: the constants as they are, and the least time of many repetitions here."""
    found = dict(_measured(bench.scale.layer, bench.scale.seconds))
    rows: list[Row] = [
        {"constant": name, "in costs.py": getattr(costs, name), "here": found.get(name)}
        for name in vars(costs)
        if name.isupper()
    ]
    notes = [
        "Times in ns. CACHE_BYTES is half of the second-level cache. SYNC_NS needs two threads. MIN_WORK_FOR_THREADS and BYTES_PER_NS are "
        "not measured."
    ]
    return [Table(TITLE, rows, notes)]


def _measured(width: int, seconds: float) -> Iterator[tuple[str, float]]:
    if _LEVEL2.exists():
        yield "CACHE_BYTES", 1024 * int(_LEVEL2.read_text().rstrip("K\n")) // 2
    yield from _kernels(width, seconds)
    yield "ADD_NS", _add(seconds)
    yield "ADAM_NS", _adam(seconds)
    small, large = (_instruction(size, seconds) for size in (_SMALL, _LARGE))
    yield "INSTRUCTION_NS", small
    yield "ELEMENT_NS", (large - small) / (_LARGE - _SMALL)
    if numba.get_num_threads() > 1:
        yield "SYNC_NS", _sync(seconds)


def _least(step: Callable[[], object], seconds: float) -> float:
    """The least ns of a call, of as many as fit into ``seconds``, after a first one that is not counted."""
    step()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter_ns()
        step()
        least = min(least, time.perf_counter_ns() - begin)
    return least


def _kernels(width: int, seconds: float) -> Iterator[tuple[str, float]]:
    draw = np.random.default_rng(0)
    masks = [draw.random((n, m)) < _DENSITY for m, n in pairwise((_INPUTS, width, width, _OUTPUTS))]
    engine = KernelEngine(SparsePlan.from_masks(masks))
    batch = 16 * _VECTORS
    values, x, out, grad, gradient = (
        draw.standard_normal(shape).astype(np.float32)
        for shape in (engine.plan.parameter_count, (batch, _INPUTS), *((batch, _OUTPUTS),) * 2, engine.plan.parameter_count)
    )  # fmt: skip
    address, spans = values.ctypes.data, ((x.ctypes.data, 4 * _INPUTS, _INPUTS),)

    def forward(rows: int = batch) -> None:
        engine.forward(address, spans, rows, out.ctypes.data)

    def both() -> None:
        workspace = engine.forward(address, spans, batch, out.ctypes.data, keep=True)
        assert workspace is not None
        engine.backward(address, workspace, grad.ctypes.data, 4 * _OUTPUTS, ((0, 0, _INPUTS),), gradient.ctypes.data)

    weights = sum(len(table.row_index) for table in engine.plan.tables)
    alone = _least(forward, seconds)
    yield "FORWARD_NS", alone / (weights * _VECTORS)
    yield "BACKWARD_NS", (_least(both, seconds) - alone) / (2 * weights * _VECTORS)
    yield "SINGLE_NS", _least(lambda: forward(1), seconds) / weights


def _floats(count: int) -> list[FloatArray]:
    return [np.ones(_FLOATS, np.float32) for _ in range(count)]


def _add(seconds: float) -> float:
    total, term = _floats(2)
    words = (total.ctypes.data, term.ctypes.data, _FLOATS, 1, 0)
    return _least(lambda: KERNELS["add"].function(*words), seconds) / _FLOATS


def _adam(seconds: float) -> float:
    vectors, factors = _floats(4), np.array([1e-3, 1, 0], np.float32)
    words = (*(vector.ctypes.data for vector in vectors), factors.ctypes.data, _FLOATS)
    return _least(lambda: adam(*words), seconds) / _FLOATS


def _instruction(elements: int, seconds: float) -> float:
    builder, x, out = Builder(), torch.ones(elements), torch.empty(elements)
    for _ in range(_REPEATS):
        builder.map(Map.ADD, out, x, 1.0)
    return _least(Executable(builder.tasks, 1), seconds) / _REPEATS


def _sync(seconds: float) -> float:
    """Two workers that wait for each other in turn."""
    counters = np.zeros((3, COUNTER_BYTES // WORD_BYTES), np.int64)
    first, second, meeting = (row.ctypes.data for row in counters)
    rounds = range(1, _REPEATS + 1)
    programs = [
        [instruction(*step) for i in rounds for step in ((Call.SIGNAL, [first, i]), (Call.WAIT, [second, i]))],
        [instruction(*step) for i in rounds for step in ((Call.WAIT, [first, i]), (Call.SIGNAL, [second, i]))],
        [],
    ]
    words = [np.array(program, np.int64) for program in programs]
    table = np.array([(program.ctypes.data, len(program)) for program in words], np.int64)

    def step() -> None:
        counters.fill(0)
        run_workers(table.ctypes.data, 2, meeting)

    return _least(step, seconds) / (2 * _REPEATS)
