"""Runs one network of a policy on NumPy arrays: through the sparse kernels where few weights survive, else densely."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from sparse_offline_rl.policy.content import PolicyNetwork
from sparse_offline_rl.types import FloatArray

if TYPE_CHECKING:
    from sparse_offline_rl.engines.sparse.engine import KernelEngine
    from sparse_offline_rl.engines.sparse.plan import SparsePlan

DENSE_ABOVE = 0.5  # density from which dense products act sooner than the sparse kernels: measured 0.5 to 0.6


class Rows(NamedTuple):
    """A row-major float32 matrix and where it lies, so that a call need not ask NumPy for the address again."""

    array: FloatArray  # [n, width]
    address: int
    stride: int  # bytes from row to row
    width: int


class NetworkRunner(Protocol):
    """One network, ready to run."""

    def run(self, first: Rows, second: Rows, out: Rows) -> None:
        """The network of ``first`` and ``second`` side by side, to ``out`` ``[n, out_features]``.

        ``first`` may have fewer rows, each of which then stands for equally many of the others; ``second`` may have no columns.
        """


def rows(array: FloatArray) -> Rows:
    """Describe a C-contiguous float32 matrix ``[n, width]``."""
    width = array.shape[1]
    return Rows(array, array.ctypes.data, 4 * width, width)


def make_runner(network: PolicyNetwork) -> NetworkRunner:
    """The runner that suits ``network``: sparse up to a density of one half where Numba is installed.

    Warns once where it is installed and does not work.
    """
    if network.density <= DENSE_ABOVE and importlib.util.find_spec("numba") is not None:
        from sparse_offline_rl.engines.sparse.available import engine_factory  # here, for it is slow to import

        factory = engine_factory()
        if factory is not None:
            return SparseRunner(network, factory)
    return DenseRunner(network)


class DenseRunner:
    """Plain matrix products on preallocated buffers."""

    def __init__(self, network: PolicyNetwork) -> None:
        head = (
            np.concatenate([head.weight for head in network.heads]),
            np.concatenate([head.bias for head in network.heads]),
        )
        matrices = [*((layer.weight, layer.bias) for layer in network.hidden), head]
        self._layers = [(*it, relu) for it, relu in zip(matrices, network.topology.rectified, strict=True)]
        self._buffers: list[FloatArray] = []

    def run(self, first: Rows, second: Rows, out: Rows) -> None:
        """As :meth:`NetworkRunner.run`."""
        count = len(out.array)
        if not self._buffers or len(self._buffers[0]) < count:
            widths = [weight.shape[1] for weight, _, _ in self._layers]
            self._buffers = [np.empty((count, width), np.float32) for width in widths]
        x, *following = [*(buffer[:count] for buffer in self._buffers), out.array]
        x.reshape(len(first.array), -1, x.shape[1])[:, :, : first.width] = first.array[:, None]
        if second.width:
            x[:, first.width :] = second.array
        for (weight, bias, relu), y in zip(self._layers, following, strict=True):
            np.matmul(x, weight.T, out=y)
            y += bias
            if relu:
                np.maximum(y, 0, out=y)
            x = y


class SparseRunner:
    """The kernels of the sparse engine: only surviving weights between units that matter, whole network in one call."""

    def __init__(self, network: PolicyNetwork, factory: Callable[[SparsePlan], KernelEngine]) -> None:
        from sparse_offline_rl.engines.sparse.plan import SparsePlan

        topology = network.topology
        arrays = [array for layer in network.layers for array in (layer.weight, layer.bias)]
        self._values: FloatArray = topology.pack(arrays)
        self._address = self._values.ctypes.data
        self._engine = factory(SparsePlan.from_masks(topology.stacked, topology.rectified))

    def run(self, first: Rows, second: Rows, out: Rows) -> None:
        """As :meth:`NetworkRunner.run`."""
        distinct, count = len(first.array), len(out.array)
        spans = (first[1:], second[1:]) if second.width else (first[1:],)
        if distinct < count:
            self._engine.forward_broadcast(self._address, spans, distinct, count, out.address)
        else:
            self._engine.forward(self._address, spans, count, out.address)
