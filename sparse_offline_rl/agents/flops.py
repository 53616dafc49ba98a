"""FLOPs and bytes of acting and of an update, counted from an agent's masks.

No agent has a formula: it is built on networks that note how they are called, acts once and does an update. What is counted are
the multiplications and additions of the products with weights, two for each surviving weight and row: forward, and backward where
autograd really asks, for the weights' gradients and for those of the inputs. Where a state stands for several candidate actions,
what depends on the state alone counts once a state, unpruned networks alike. Not counted: biases, activations, losses, noise, the
steps of Adam and of the averages, and what a change of masks needs; indices of sparse formats are no bytes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.types import Batch, BoolArray

_LONGEST_CYCLE = 100  # updates
_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Call:
    """How a network was called: forward, or backward."""

    network: str
    rows: int
    states: int  # rows of the first input, each of which stands for ``rows / states``
    state_only: BoolArray  # [in], the columns of the first input
    backward: bool = False
    weights: bool = False  # backward: whether the weights' gradients were asked for
    inputs: BoolArray | None = None  # [in], backward: the columns whose gradients were asked for

    def flops(self, topology: Topology) -> int:
        """Two for each product of a surviving weight of ``topology``."""
        return 2 * (self._backward_products(topology) if self.backward else self._forward_products(topology))

    def _forward_products(self, topology: Topology) -> int:
        if self.states == self.rows:
            return self.rows * topology.kept
        products, state_only = 0, self.state_only
        for mask in topology.stacked:
            once = int(np.count_nonzero(mask[:, state_only]))
            products += self.states * once + self.rows * (int(np.count_nonzero(mask)) - once)
            state_only = ~np.any(mask[:, ~state_only], axis=1)  # units that read nothing else
        return products

    def _backward_products(self, topology: Topology) -> int:
        first, *others = topology.stacked
        products = topology.kept if self.weights else 0
        products += sum(int(np.count_nonzero(mask)) for mask in others)
        if self.inputs is not None:
            products += int(np.count_nonzero(first[:, self.inputs]))
        return self.rows * products


class CountingMLP(MLP):
    """Notes its calls and multiplies nothing: all its outputs are 1, all its gradients 0."""

    note: Callable[[Call], None]

    def forward(self, *inputs: Tensor, shifts: Sequence[Tensor | None] = ()) -> Tensor:
        """Inputs as :class:`~sparse_offline_rl.networks.mlp.PrunableMLP` says."""
        output: Tensor = _Noted.apply(self, len(inputs), *inputs, *self.parameters())  # type: ignore[no-untyped-call]
        return output


class _Noted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mlp: CountingMLP, count: int, *tensors: Tensor) -> Tensor:
        inputs = tensors[:count]
        widths = [x.shape[1] for x in inputs]
        first = np.arange(sum(widths)) < widths[0]
        ctx.call = Call(mlp.name, len(inputs[-1]), len(inputs[0]), first)
        ctx.note, ctx.widths, ctx.shapes = mlp.note, widths, [x.shape for x in tensors]
        mlp.note(ctx.call)
        layers = mlp.layers()
        return inputs[-1].new_ones(len(inputs[-1]), sum(layers[name].out_features for name in mlp.heads))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        _, _, *needed = ctx.needs_input_grad
        count = len(ctx.widths)
        columns = np.repeat(needed[:count], ctx.widths)
        call = ctx.call
        ctx.note(Call(call.network, call.rows, call.states, call.state_only, True, any(needed[count:]), columns))
        zeros = (grad.new_zeros(shape) if wanted else None for shape, wanted in zip(ctx.shapes, needed, strict=True))
        return None, None, *zeros


@dataclass(frozen=True)
class Work:
    """What an agent's networks are asked for."""

    act: tuple[Call, ...]  # one action for one observation
    update: tuple[Call, ...]  # a whole cycle of updates
    updates: int  # in that cycle


def work_of(agent: Agent, batch_size: int) -> Work:
    """The calls of one act and of updates on ``batch_size`` transitions, until the agent's phase comes round to that of the first.

    They are those of a new agent of the same kind, settings and sizes; ``agent`` itself does nothing.
    """
    calls: list[Call] = []
    topologies = {name: mlp.topology.expanded for name, mlp in agent.mlps().items()}

    def build(name: str, in_features: int, hidden: Sequence[int], heads: Mapping[str, int]) -> CountingMLP:
        topology = topologies[name]
        mlp = CountingMLP.from_packed(topology, np.zeros(topology.size, np.float32))
        assert isinstance(mlp, CountingMLP)
        mlp.name, mlp.note = name, calls.append
        return mlp

    spaces = agent.spaces
    counted = type(agent).assemble(spaces, agent.config, build, "cpu")
    generator = torch.Generator().manual_seed(0)
    counted.act(torch.zeros(1, spaces.observation_dim), generator)
    act, calls[:] = tuple(calls), []
    widths = (spaces.observation_dim, spaces.action_dim, 1, spaces.observation_dim, 1)
    batch = Batch(*(torch.zeros(batch_size, width) for width in widths))
    first, updates, left = counted.phase(), 0, False
    while updates < _LONGEST_CYCLE:
        counted.update(batch, generator)
        updates += 1
        left |= counted.phase() != first
        if first is None or (left and counted.phase() == first):
            break
    return Work(act, tuple(calls), updates)


def flops_and_bytes(agent: Agent, batch_size: int) -> dict[str, float]:
    """``act_flops`` of one action, ``update_flops`` of a mean update, ``act_bytes`` of the float32 parameters that acting reads, and
    ``update_bytes`` of all parameters, targets and moments; and each as ``…_dense_…``, as it would be if nothing were pruned. Of a hashed
    network the bytes are those of the values that its weights share.
    """
    work = work_of(agent, batch_size)
    pruned = {name: mlp.topology for name, mlp in agent.mlps().items()}
    unpruned = {name: topology.original for name, topology in pruned.items()}
    state = agent.state()
    others = sum(vector.nbytes for it in state.parameters.values() for vector in it.vectors().values())
    found: dict[str, float] = {}
    for infix, topologies in (("", pruned), ("dense_", unpruned)):
        sizes = {name: _FLOAT_BYTES * topology.size for name, topology in topologies.items()}
        found[f"act_{infix}flops"] = sum(call.flops(topologies[call.network]) for call in work.act)
        found[f"act_{infix}bytes"] = sum(sizes[name] for name in {call.network for call in work.act})
        found[f"update_{infix}flops"] = sum(call.flops(topologies[call.network]) for call in work.update) / work.updates
        held = sum(len(state.networks[name].vectors()) * size for name, size in sizes.items())
        found[f"update_{infix}bytes"] = held + others
    return found
