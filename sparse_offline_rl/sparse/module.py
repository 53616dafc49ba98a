"""A pruned MLP that stores and trains its surviving weights only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.sparse.fallback import dense_forward, dense_weight, engine_factory
from sparse_offline_rl.sparse.plan import SparsePlan

_threads = 1
_MAX_INPUTS = 3  # matrices that the kernels concatenate themselves


def set_threads(count: int) -> None:
    """Threads that sparse networks use from now on (default 1). Outputs do not depend on it; parameter gradients do in their last bits.

    Raises ValueError when ``count`` is not between 1 and the number of threads that Numba was started with.
    """
    global _threads
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    if engine_factory() is not None:
        from sparse_offline_rl.sparse.engine import set_threads as set_kernel_threads

        torch_threads = torch.get_num_threads()
        set_kernel_threads(count)
        # Numba and torch share one OpenMP runtime, and starting Numba's threads would raise torch's number of them.
        torch.set_num_threads(torch_threads)
    _threads = count


class SparseLayer(NamedTuple):
    """What is left of one named layer; live units are those that have a path to the network's output."""

    name: str
    kept: int
    total: int
    live_inputs: int
    live_outputs: int


class SparseMLP(nn.Module):
    """The sparse twin of :class:`~sparse_offline_rl.networks.mlp.MLP`: same function, same gradients, no pruned weights.

    All parameters are one float32 vector ``values`` ``[n]`` in the order of :class:`SparsePlan`. Copies and targets share
    the plan. The masks are not in ``state_dict``: a module is built from masks, then loads its values.
    """

    def __init__(self, plan: SparsePlan, heads: Mapping[str, int], values: Tensor) -> None:
        super().__init__()
        if values.shape != (plan.parameter_count,):
            raise ValueError(
                f"{plan.parameter_count} parameters are needed, not a tensor of shape {tuple(values.shape)}"
            )
        if sum(heads.values()) != plan.out_features:
            raise ValueError(f"heads {dict(heads)} do not add up to the plan's {plan.out_features} outputs")
        self.plan = plan
        self.heads = dict(heads)
        self.values = nn.Parameter(values.detach().clone().contiguous())
        factory = engine_factory()
        self.engine = factory(plan) if factory is not None else None

    @classmethod
    def from_mlp(cls, mlp: MLP) -> SparseMLP:
        """The surviving weights and the biases of ``mlp``; a ``ValueError`` names a layer with a weight that is not pruned away."""
        layers, depth = list(mlp.layers().values()), len(mlp.hidden)
        masks = [layer.mask.cpu().numpy() for layer in layers[:depth]]
        masks.append(torch.cat([layer.mask for layer in layers[depth:]]).cpu().numpy())
        heads = {name: layer.out_features for name, layer in list(mlp.layers().items())[depth:]}
        plan = SparsePlan.from_masks(masks)
        module = cls(plan, heads, torch.zeros(plan.parameter_count, device=layers[0].weight.device))
        module.load_dense([(layer.weight, layer.bias) for layer in layers])
        return module

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs ``[B, ·]`` concatenated along features, to ``[B, sum(heads)]``. ValueError if the widths do not fit."""
        widths = [x.shape[-1] for x in inputs]
        if sum(widths) != self.plan.in_features or any(x.dim() != 2 or len(x) != len(inputs[0]) for x in inputs):
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise ValueError(f"inputs [B, ·] with {self.plan.in_features} columns together are needed, not {shapes}")
        values = self.values
        if self.engine is None or len(inputs[0]) == 0 or not all(map(_is_native, (values, *inputs))):
            return dense_forward(values, self.plan, inputs)
        if len(inputs) > _MAX_INPUTS:
            inputs = (torch.cat(inputs, 1),)
        inputs = tuple(x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous() for x in inputs)
        if torch.is_grad_enabled() and (values.requires_grad or any(x.requires_grad for x in inputs)):
            output: Tensor = _apply(values, self.engine, _threads, *inputs)
            return output
        out = values.new_empty(len(inputs[0]), self.plan.out_features)
        self.engine.forward(values.data_ptr(), _spans(inputs), len(out), out.data_ptr(), _threads)
        return out

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """As :meth:`MLP.pack`: the one tensor shaped like ``values`` is packed already."""
        (vector,) = tensors
        return vector

    def unpack(self, vector: Tensor) -> list[Tensor]:
        """As :meth:`MLP.unpack`."""
        return [vector]

    def layers(self) -> list[SparseLayer]:
        """What is left of each layer, from input to output, by the names of the :class:`MLP` it came from."""
        names = [f"hidden{i}" for i in range(len(self.plan.layers) - 1)]
        reports = []
        for name, layer in zip(names, self.plan.layers, strict=False):
            live = len(layer.live_inputs), len(layer.live_outputs)
            reports.append(SparseLayer(name, layer.nnz, layer.in_features * layer.out_features, *live))
        last = self.plan.layers[-1].mask()
        for name, mask in zip(self.heads, self._split(torch.from_numpy(last)), strict=True):
            live_inputs = int(mask.any(0).sum())
            reports.append(SparseLayer(name, int(mask.sum()), mask.numel(), live_inputs, mask.shape[0]))
        return reports

    @torch.no_grad()
    def dense_state(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(weight ``[out, in]``, bias ``[out]``, mask) of each layer, heads apart, as :meth:`MLP.layers` orders them."""
        *hidden, last = [
            (dense_weight(self.values, layer), self.values[layer.bias].clone(), torch.from_numpy(layer.mask()))
            for layer in self.plan.layers
        ]
        return hidden + list(zip(*map(self._split, last), strict=True))

    @torch.no_grad()
    def load_dense(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take the surviving weights from (weight, bias) of each layer, heads apart.

        Raises ValueError when a shape differs or a weight that the mask removes is not zero.
        """
        depth = len(self.plan.layers) - 1
        pairs = [
            *layers[:depth],
            (torch.cat([w for w, _ in layers[depth:]]), torch.cat([b for _, b in layers[depth:]])),
        ]
        for i, (plan, (weight, bias)) in enumerate(zip(self.plan.layers, pairs, strict=True)):
            if weight.shape != (plan.out_features, plan.in_features) or bias.shape != (plan.out_features,):
                raise ValueError(
                    f"layer {i} needs weights [{plan.out_features}, {plan.in_features}], not {list(weight.shape)}"
                )
            mask = torch.from_numpy(plan.mask()).to(weight.device)
            if bool(weight[~mask].any()):
                raise ValueError(f"layer {i} has weights that are not zero where the mask removes them")
            self.values[plan.values] = weight[mask].to(self.values)
            self.values[plan.bias] = bias.to(self.values)

    def to_mlp(self) -> MLP:
        """An :class:`MLP` with the same weights, biases and masks."""
        plan = self.plan
        mlp = MLP(plan.in_features, [layer.out_features for layer in plan.layers[:-1]], self.heads)
        mlp = mlp.to(self.values.device)
        with torch.no_grad():
            for layer, (weight, bias, mask) in zip(mlp.layers().values(), self.dense_state(), strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
                layer.set_mask(mask.to(weight.device))
        return mlp

    def extra_repr(self) -> str:
        """Sizes and survivors, for ``print(network)``."""
        sizes = [self.plan.in_features, *(layer.out_features for layer in self.plan.layers)]
        total = sum(layer.in_features * layer.out_features for layer in self.plan.layers)
        return f"{' -> '.join(map(str, sizes))}, kept {self.plan.nnz} of {total}"

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = rows.split(list(self.heads.values()))
        return parts


def convert(root: nn.Module) -> None:
    """Replace every :class:`MLP` below ``root`` by its :class:`SparseMLP`, in place."""
    for name, child in root.named_children():
        if isinstance(child, MLP):
            setattr(root, name, SparseMLP.from_mlp(child))
        else:
            convert(child)


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
