"""Updates of an agent whose networks have extensions: gates and penalties that are trained beside the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sparse_offline_rl.agents.base import Agent, Metrics
from sparse_offline_rl.agents.optimizers import Adam
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.pruning.learned.extension import Extension, ExtensionState
from sparse_offline_rl.pruning.learned.schedule import Learned
from sparse_offline_rl.pruning.prune import Twins
from sparse_offline_rl.pruning.schedule import Memory
from sparse_offline_rl.seeding import stream_seed
from sparse_offline_rl.types import Batch, FloatArray


@dataclass(frozen=True)
class Extensions:
    """What is trained beside the weights after ``update`` updates."""

    update: int
    by_network: Mapping[str, Extension]  # a twin that follows another network has that one's
    schedule: Learned
    twins: Twins
    seed: int


class _Companion:
    """Gates of the networks that one optimiser trains, with an Adam of their own, and their penalties."""

    def __init__(self, optimizer: Adam, members: Sequence[tuple[str, MLP]], extensions: Extensions) -> None:
        self._optimizer, self._members = optimizer, members
        self._extension = {
            name: extensions.by_network[extensions.twins.pairs[name] if extensions.twins.follows(name) else name]
            for name, _ in members
        }
        self.own = {name: mlp for name, mlp in members if name in extensions.by_network}
        places = {id(parameter): i for i, parameter in enumerate(optimizer.parameters)}
        self._places = {
            name: {layer: places[id(it.weight)] for layer, it in mlp.layers().items()} for name, mlp in members
        }
        self.parameters: list[Tensor] = [gate for name in self.own for gate in self._extension[name].gates.values()]
        self.adam = Adam(self.parameters, extensions.schedule.config.gate_lr)
        states = [self._extension[name].state for name in self.own]
        for moments, kind in ((self.adam.exp_avg, "exp_avg"), (self.adam.exp_avg_sq, "exp_avg_sq")):
            stored = [getattr(state, kind)[layer] for state in states for layer in state.gates]
            for tensor, array in zip(moments, stored, strict=True):
                tensor.copy_(torch.from_numpy(array))
        self.adam.steps = states[0].steps if states else 0
        for name, mlp in members:
            for layer, linear in mlp.layers().items():
                linear.product = partial(self._extension[name].product, layer)

    def penalty(self) -> Tensor | None:
        """As :class:`~sparse_offline_rl.agents.optimizers.Companion` says."""
        found = []
        for name, mlp in self._members:
            extension = self._extension[name]
            if name in self.own or extension.penalises_twins():
                added = extension.added_loss(_weights(mlp))
                if added is not None:
                    found.append(added)
        return torch.stack(found).sum() if found else None

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """As :class:`~sparse_offline_rl.agents.optimizers.Companion` says."""
        if self.parameters:
            self.adam.step(gradients)
        for name, mlp in self._members:
            of_weights = {layer: self._optimizer.gradients[place] for layer, place in self._places[name].items()}
            self._extension[name].after_step(_weights(mlp), of_weights, self._optimizer.rate)

    def states(self, left: Mapping[str, int]) -> Iterator[tuple[str, ExtensionState]]:
        """Of each network its extension as arrays; copies."""
        moments = iter(zip(self.adam.exp_avg, self.adam.exp_avg_sq, strict=True))
        for name in self.own:
            extension = self._extension[name]
            pairs = {layer: next(moments) for layer in extension.gates}
            first, second = ({layer: _array(pair[i]) for layer, pair in pairs.items()} for i in (0, 1))
            gates = {layer: _array(gate) for layer, gate in extension.gates.items()}
            steps = self.adam.steps if self.parameters else 0
            yield (
                name,
                replace(extension.state, gates=gates, exp_avg=first, exp_avg_sq=second, steps=steps, left=left[name]),
            )


class ExtendedUpdate:
    """The updates of an agent on the dense engine whose networks have extensions; a function as ``agent.update`` is one."""

    def __init__(self, agent: Agent, extensions: Extensions) -> None:
        self._agent, self._extensions, self._done = agent, extensions, extensions.update
        self._left = {name: it.state.left for name, it in extensions.by_network.items()}
        self._totals = {name: mlp.topology.total for name, mlp in agent.mlps().items()}
        self._noise = torch.Generator(agent.device)
        mlps = {name: mlp for name, mlp in agent.mlps().items() if isinstance(mlp, MLP)}
        self._companions = []
        for name, trained in agent.trained_mlps().items():
            members = [(network, mlps[network]) for network in trained if network in mlps]
            if members:
                companion = _Companion(agent.optimizers[name], members, extensions)
                agent.optimizers[name].companions.append(companion)
                self._companions.append(companion)
        # A target sees through the gates of its online network as they are now; its own weights follow slowly, as ever.
        for name, target in agent.target_mlps().items():
            if isinstance(target, MLP):
                for linear, online in zip(target.layers().values(), mlps[name].layers().values(), strict=True):
                    linear.product = online.product

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """One update; the noise of gates comes from a stream of its own, so that all methods see the same batches."""
        extensions, schedule = self._extensions, self._extensions.schedule
        self._noise.manual_seed(stream_seed(extensions.seed, f"gates-{self._done}"))
        ramp = schedule.warmth(self._done)
        for name, extension in extensions.by_network.items():
            reached = self._left[name] <= schedule.allowed(self._totals[name])
            extension.begin_update(self._noise, 0.0 if reached else schedule.config.penalty * ramp)
        metrics = self._agent.update(batch, generator)
        self._done += 1
        if self._done % schedule.config.every == 0 or self._done == schedule.last:
            self._count()
        return metrics

    def remember(self, memory: Memory) -> Memory:
        """``memory`` with the extensions as they are now."""
        numbers = dict(memory.numbers)
        for companion in self._companions:
            for name, state in companion.states(self._left):
                numbers |= state.numbers(name)
        return replace(memory, numbers=numbers)

    def left(self) -> dict[str, float]:
        """Metrics: of each network the share of weights that were not switched off when they were last counted."""
        if not self._extensions.schedule.kind.SWITCHES:
            return {}
        return {f"gates/left/{name}": count / self._totals[name] for name, count in self._left.items()}

    def _count(self) -> None:
        for companion in self._companions:
            for name, mlp in companion.own.items():
                self._left[name] = self._extensions.by_network[name].count_left(_weights(mlp))


def _weights(mlp: MLP) -> dict[str, Tensor]:
    return {name: layer.weight for name, layer in mlp.layers().items()}


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().cpu().numpy().copy()
    return array
