"""What an engine does while a recorder listens: the serial kernels, share by share, each with what it reads and writes.

Threads that replay the shares need no parallel kernels: whoever knows what every call touches can run them side by side. Where
sums depend on the shares, in a backward, they are those of the parallel kernels, and the bits the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sparse_offline_rl.engines.sparse import kernels
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.shares import SHARES, Tiles
from sparse_offline_rl.tracing import KernelCall, Recorder, Region

Span = tuple[int, int, int]  # address, row stride in bytes, width; address 0 asks for nothing
Spans = tuple[Span, Span, Span]

# What a weight costs for a vector of the batch, in ns: in a forward, and in one of the two products of a backward.
FORWARD_COST, _BACKWARD_COST = 0.38, 0.48
_PARTIAL, _WORK = 19, 5  # arguments


class Network(NamedTuple):
    """A plan, its table and its parameters at addresses; ``weights`` are those that the kernels read."""

    plan: SparsePlan
    table: int
    values: int
    weights: int

    @property
    def parameters(self) -> Region:
        """Where the parameters lie."""
        return self.values, 4 * self.plan.parameter_count


def forward(
    listener: Recorder, network: Network, inputs: Spans, tiles: Tiles, out: int, work: int, scratch: int
) -> None:
    """As :func:`kernels.forward_serial`; ``scratch`` > 0: nothing in ``work`` is kept."""
    columns = network.plan.out_features
    threads = tiles.threads
    parts = min(tiles.length, SHARES * threads) if scratch and threads > 1 else threads
    for share in tiles.shares(parts):
        arguments = (
            network.table, network.values, share.address, share.length, tiles.batch, work, scratch,
            *inputs[0], *inputs[1], *inputs[2], out, 1,
        )  # fmt: skip
        kernels.forward_serial(*arguments)
        reads = [network.parameters, *rows_of(inputs, share.first_row, share.rows)]
        writes = rows_of([(out, 4 * columns, columns)], share.first_row, share.rows)
        if not scratch:
            writes.append((work + share.offset, share.bytes))
        needs = {_WORK: scratch} if scratch else {}
        cost = FORWARD_COST * network.weights * share.vectors
        listener.kernel(KernelCall("forward", arguments, reads, writes, needs, cost))


def backward(
    listener: Recorder,
    network: Network,
    inputs: Spans,
    tiles: Tiles,
    grad: Span,
    out: int,
    work: int,
    partial: int,
) -> None:
    """As :func:`kernels.backward_parallel`."""
    count = network.plan.parameter_count if out else 0
    size = 4 * count
    scratch = partial + size * (tiles.threads - 1)
    for i, share in enumerate(tiles.shares(tiles.threads)):
        target = out if i == 0 or not out else partial + size * (i - 1)
        arguments = (
            network.table, network.values, share.address, share.length, tiles.group, tiles.batch, work,
            grad[0], grad[1], *inputs[0], *inputs[1], *inputs[2], target, scratch, count, 1,
        )  # fmt: skip
        kernels.backward_serial(*arguments)
        kept = (work + share.offset, share.bytes)
        reads = [network.parameters, kept, *rows_of([grad], share.first_row, share.rows)]
        writes = [kept, *rows_of(inputs, share.first_row, share.rows), *([(target, size)] if out else [])]
        cost = _BACKWARD_COST * network.weights * share.vectors * (2 if out else 1)
        needs = {_PARTIAL: size} if out and share.length > tiles.group else {}
        listener.kernel(KernelCall("backward", arguments, reads, writes, needs, cost))
    if out and tiles.threads > 1:
        _add(listener, out, partial, count, tiles.threads)


def single(listener: Recorder, network: Network, inputs: Spans, out: int, work: int) -> None:
    """As :func:`kernels.forward_single`."""
    addresses = [word for address, _, width in inputs for word in (address, width)]
    arguments = (network.table, network.values, work, *addresses, out)
    kernels.forward_single(*arguments)
    reads = [network.parameters, *((address, 4 * width) for address, _, width in inputs if width)]
    writes = [(out, 4 * network.plan.out_features)]
    listener.kernel(
        KernelCall("single", arguments, reads, writes, {2: 4 * network.plan.unit_count}, float(network.weights))
    )


def _add(listener: Recorder, total: int, terms: int, count: int, threads: int) -> None:
    """Add what all shares but the first have left to what that one has, a part of it for each thread."""
    for part in range(threads):
        first = count * part // threads
        share, rows = count * (part + 1) // threads - first, threads - 1
        arguments = (total + 4 * first, terms + 4 * first, share, rows, 4 * count)
        kernels.add_serial(*arguments)
        mine = (arguments[0], 4 * share)
        others = [(arguments[1] + 4 * count * row, 4 * share) for row in range(rows)]
        listener.kernel(KernelCall("add", arguments, [mine, *others], [mine], {}, 0.1 * share * rows))


def rows_of(spans: Sequence[Span], first: int, count: int) -> list[Region]:
    """Where ``count`` rows of some matrices lie."""
    return [
        (address + stride * first, stride * (count - 1) + 4 * width)
        for address, stride, width in spans
        if address and width
    ]
