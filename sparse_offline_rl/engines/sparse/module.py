"""A pruned MLP that stores and trains its surviving weights only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparse_offline_rl.engines.sparse.available import engine_factory
from sparse_offline_rl.engines.sparse.fallback import dense_forward
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.tables import MAX_INPUTS
from sparse_offline_rl.networks.mlp import PrunableMLP, repeat_first, repeats_of_first
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.tracing import current_tracer

_threads = 1


def set_threads(count: int) -> None:
    """Threads that sparse networks use from now on (default 1). Outputs do not depend on it; parameter gradients do in their last bits.

    Raises ValueError when ``count`` is not between 1 and the number of threads that Numba was started with.
    """
    global _threads
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    if engine_factory() is not None:
        from sparse_offline_rl.engines.sparse.engine import set_threads as set_kernel_threads

        torch_threads = torch.get_num_threads()
        set_kernel_threads(count)
        # Numba and torch share one OpenMP runtime, and starting Numba's threads would raise torch's number of them.
        torch.set_num_threads(torch_threads)
    _threads = count


def thread_count() -> int:
    """What :func:`set_threads` was last told."""
    return _threads


class SparseMLP(PrunableMLP):
    """The sparse twin of :class:`~sparse_offline_rl.networks.mlp.MLP`: same function, same gradients, no pruned weights.

    All parameters are one float32 vector ``values`` ``[n]`` in packed order. Copies and targets share the plan. The masks are not in
    ``state_dict``: a module is built from masks, then loads its values.
    """

    def __init__(self, topology: Topology, values: NDArray[Any]) -> None:
        """``values`` ``[n]`` are the survivors of ``topology`` in its packed order. ValueError for another length."""
        super().__init__()
        self._topology = topology
        self.plan = SparsePlan.from_masks(topology.stacked, topology.rectified)
        if values.shape != (self.plan.parameter_count,):
            raise ValueError(f"{self.plan.parameter_count} parameters are needed, not an array of shape {values.shape}")
        self.values = nn.Parameter(torch.from_numpy(values.copy()))
        factory = engine_factory()
        self.engine = factory(self.plan) if factory is not None else None

    @property
    def topology(self) -> Topology:
        """As :attr:`PrunableMLP.topology`."""
        return self._topology

    def forward(self, *inputs: Tensor) -> Tensor:
        """As :class:`PrunableMLP` says. ValueError if the shapes do not fit."""
        widths = [x.shape[-1] for x in inputs]
        if sum(widths) != self.plan.in_features or any(x.dim() != 2 for x in inputs):
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise ValueError(f"inputs [B, ·] with {self.plan.in_features} columns together are needed, not {shapes}")
        values, rows, repeats = self.values, len(inputs[-1]), repeats_of_first(inputs)
        native = rows > 0 and all(map(_is_native, (values, *inputs)))
        needs_graph = torch.is_grad_enabled() and (values.requires_grad or any(x.requires_grad for x in inputs))
        if repeats > 1 and (needs_graph or not native or self.engine is None or len(inputs) > MAX_INPUTS):
            inputs, repeats = repeat_first(inputs), 1
        if self.engine is None or not native:
            return dense_forward(values, self.plan, inputs)
        if len(inputs) > MAX_INPUTS:
            inputs = (torch.cat(inputs, 1),)
        tracer = current_tracer()
        if tracer is not None:
            tracer.reads((values, *inputs))
        inputs = tuple(x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous() for x in inputs)
        if needs_graph:
            output: Tensor = _apply(values, self.engine, _threads, *inputs)
            return output
        out = values.new_empty(rows, self.plan.out_features)
        spans, address = _spans(inputs), values.data_ptr()
        if repeats > 1:
            self.engine.forward_broadcast(address, spans, rows // repeats, rows, out.data_ptr(), _threads)
        else:
            self.engine.forward(address, spans, rows, out.data_ptr(), _threads)
        return out

    def pack(self, tensors: Sequence[Tensor]) -> NDArray[Any]:
        """As :meth:`PrunableMLP.pack`: the one tensor shaped like ``values`` is in packed order already."""
        (vector,) = tensors
        return vector.cpu().numpy().copy()

    def unpack(self, vector: NDArray[Any]) -> list[Tensor]:
        """As :meth:`PrunableMLP.unpack`."""
        return [torch.from_numpy(vector.copy()).to(self.values.device)]

    def extra_repr(self) -> str:
        """Sizes and survivors, for ``print(network)``."""
        sizes = [self.plan.in_features, *(layer.out_features for layer in self.plan.layers)]
        total = sum(layer.in_features * layer.out_features for layer in self.plan.layers)
        return f"{' -> '.join(map(str, sizes))}, kept {self.plan.nnz} of {total}"


def _is_native(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _spans(inputs: Sequence[Tensor]) -> list[tuple[int, int, int]]:
    return [(x.data_ptr(), 4 * x.stride(0), x.shape[1]) for x in inputs]


class _SparseProduct(torch.autograd.Function):
    """The whole MLP as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, engine: Any, threads: int, *inputs: Tensor) -> Tensor:
        out = values.new_empty(len(inputs[0]), engine.plan.out_features)
        ctx.engine = engine
        ctx.widths = [x.shape[1] for x in inputs]
        ctx.workspace = engine.forward(values.data_ptr(), _spans(inputs), len(out), out.data_ptr(), threads, keep=True)
        ctx.save_for_backward(values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.workspace is None:
            raise RuntimeError(
                "the activations of this sparse forward were used by a first backward: run the forward again"
            )
        (values,) = ctx.saved_tensors
        (grad,) = grad_outputs
        if grad.stride(1) != 1 and grad.shape[1] > 1:
            grad = grad.contiguous()
        wants_values, _, _, *wants_inputs = ctx.needs_input_grad
        grad_values = torch.empty_like(values) if wants_values else None
        grads = [
            grad.new_empty(len(grad), width) if wanted else None
            for width, wanted in zip(ctx.widths, wants_inputs, strict=True)
        ]
        spans = [
            (0 if g is None else g.data_ptr(), 4 * width, width) for g, width in zip(grads, ctx.widths, strict=True)
        ]
        address = 0 if grad_values is None else grad_values.data_ptr()
        workspace, ctx.workspace = ctx.workspace, None
        ctx.engine.backward(values.data_ptr(), workspace, grad.data_ptr(), 4 * grad.stride(0), spans, address)
        return grad_values, None, None, *grads


_apply: Any = _SparseProduct.apply
