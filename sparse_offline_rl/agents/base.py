"""What an agent is: networks, targets, optimisers, and the few things that a family of agents has to say of itself."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sparse_offline_rl.agents.optimizers import Adam, LearningRate, PolyakAverage, cosine_decay
from sparse_offline_rl.config import AgentConfig
from sparse_offline_rl.networks.mlp import MLP, MLPBuilder, PrunableMLP, fresh_mlps, mlps_below
from sparse_offline_rl.networks.state import AgentState, NetworkState, ParameterState
from sparse_offline_rl.types import Acting, Batch, Objective, Spaces

Metrics = dict[str, Tensor]  # name -> tensor of any shape, reduced to its mean only when it is logged
Update = Callable[[Batch, torch.Generator], Metrics]


class Agent(ABC):
    """An agent is ready when it is built: it can be scored, trained, asked for actions, stored and restored at any time.

    ``networks`` is a module whose children (``actor``, ``critic``, …) are each trained by an optimiser of their own; the prunable
    networks in it may be dense or an engine's. A subclass gives its constructor, :meth:`build_networks`, :meth:`losses`,
    :meth:`update`, :meth:`act` and :meth:`acting`, and names its configuration and metrics.
    """

    Config: ClassVar[type[AgentConfig]]
    METRICS: ClassVar[tuple[str, ...]]  # every name that `update` may return, now or at a later update
    TWINS: ClassVar[Mapping[str, str]] = {"critic2": "critic1"}  # network -> the one that `agent.twin` lets it follow

    def __init__(
        self,
        networks: nn.Module,
        spaces: Spaces,
        config: AgentConfig,
        learning_rates: Mapping[str, LearningRate],
        targets: Sequence[str],
    ) -> None:
        """``learning_rates`` and ``targets`` name children of ``networks``: those to optimise, those to keep a target of.

        A constant rate falls over ``config.lr_decay`` steps of its optimiser, if that is given; a function is left as it is.
        """
        self.networks, self.spaces, self.config = networks, spaces, config
        onlines = {name: networks.get_submodule(name) for name in targets}
        self.targets = {name: copy.deepcopy(online).requires_grad_(False) for name, online in onlines.items()}
        self.optimizers = {
            name: Adam(networks.get_submodule(name).parameters(), _falling(rate, config), config.weight_decay)
            for name, rate in learning_rates.items()
        }
        self.average = PolyakAverage(list(self.targets.values()), list(onlines.values()), config.polyak)

    @classmethod
    def create(
        cls, spaces: Spaces, config: AgentConfig, generator: torch.Generator | None = None, device: str = "cpu"
    ) -> Self:
        """A new dense agent whose weights are drawn from ``generator``, alike on every device."""
        return cls.assemble(spaces, config, fresh_mlps(generator), device)

    @classmethod
    def restore(
        cls, state: AgentState, spaces: Spaces, config: AgentConfig, build: MLPBuilder, device: str = "cpu"
    ) -> Self:
        """The agent of a ``state`` (of :meth:`state`), on the engine whose networks ``build`` makes of it."""
        agent = cls.assemble(spaces, config, build, device)
        agent.load_state(state)
        return agent

    @classmethod
    def assemble(cls, spaces: Spaces, config: AgentConfig, build: MLPBuilder, device: str) -> Self:
        """An agent on networks that ``build`` makes; its targets are copies of them, its optimisers have taken no step."""
        networks = cls.build_networks(spaces, config, build).to(device)
        return cls(networks, spaces, config)  # type: ignore[call-arg]  # subclasses fix learning rates and targets

    @staticmethod
    @abstractmethod
    def build_networks(spaces: Spaces, config: AgentConfig, build: MLPBuilder) -> nn.Module:
        """The module whose children are the agent's networks."""

    @abstractmethod
    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Callable[[], Tensor]]:
        """Prunable network -> its own loss on ``batch``, every random draw frozen (Arnob et al. 2021, algorithm 1)."""

    @abstractmethod
    def update(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """One training step on B transitions. It must do the same at every call of one :meth:`phase`."""

    @torch.no_grad()
    def act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        """Actions of evaluation: normalised ``[n, S]`` to ``[n, A]``; those of the actor, where an agent has no other way."""
        actions: Tensor = self.networks.get_submodule("actor")(observations)
        return actions

    def acting(self) -> Acting:
        """What :meth:`act` does as a record, from which the policy file, acting without torch and the exports are made."""
        return Acting(propose="actor")

    def phase(self) -> Hashable:
        """What the next update will do, where that changes from update to update; a captured update is recorded once for each.

        It may depend on the optimisers' step counts, which a checkpoint holds, and on nothing else that changes.
        """
        return None

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks.parameters()).device

    def mlps(self) -> dict[str, PrunableMLP]:
        """The prunable networks by name."""
        return {mlp.name: mlp for mlp in mlps_below(self.networks)}

    def trained_mlps(self) -> dict[str, dict[str, PrunableMLP]]:
        """Optimiser -> the prunable networks that it trains, by name."""
        found = {}
        for optimizer, it in self.optimizers.items():
            own = {id(parameter) for parameter in it.parameters}
            found[optimizer] = {name: mlp for name, mlp in self.mlps().items() if id(next(mlp.parameters())) in own}
        return found

    def target_mlps(self) -> dict[str, PrunableMLP]:
        """The prunable networks of the targets, by the names of their online networks."""
        return {mlp.name: mlp for target in self.targets.values() for mlp in mlps_below(target)}

    def objectives(self, batch: Batch, generator: torch.Generator) -> dict[str, Objective]:
        """What each network is scored against. A twin is left out unless ``agent.twin=independent``.

        Raises TypeError if an engine has taken the networks: score the agent that ``restore`` gives on dense ones. Raises ValueError
        if :meth:`losses` leaves out a network, which would stay dense, or names one that there is not.
        """
        mlps, independent = self.mlps(), self.config.twin == "independent"
        losses = self.losses(batch, generator)
        wanted = {name for name in mlps if independent or name not in self.TWINS}
        if not wanted <= set(losses) <= set(mlps):
            raise ValueError(
                f"{type(self).__name__}.losses is of {sorted(losses)}, and the networks are {sorted(mlps)}"
            )
        found = {}
        for name, loss in losses.items():
            mlp = mlps[name]
            if not isinstance(mlp, MLP):
                raise TypeError(f"network {name} is a {type(mlp).__name__}, and only dense networks can be scored")
            if independent or name not in self.TWINS:
                found[name] = Objective({layer: it.weight for layer, it in mlp.layers().items()}, loss, mlp)
        return found

    def tensors(self) -> Iterator[Tensor]:
        """Everything that an update may change: parameters and buffers of networks and targets, moments."""
        for module in (self.networks, *self.targets.values()):
            yield from module.parameters()
            yield from module.buffers()
        for optimizer in self.optimizers.values():
            yield from (*optimizer.exp_avg, *optimizer.exp_avg_sq)

    def state(self) -> AgentState:
        """Everything that the agent is, independent of its engine; copies."""
        networks, targets = {}, self.target_mlps()
        for name, mlp in self.mlps().items():
            exp_avg, exp_avg_sq = self._moments(list(mlp.parameters()))
            target = targets[name].packed_values() if name in targets else None
            values = mlp.packed_values()
            networks[name] = NetworkState(mlp.topology, values, mlp.pack(exp_avg), mlp.pack(exp_avg_sq), target)
        parameters = {}
        for name, parameter in self._other_parameters().items():
            (first,), (second,) = self._moments([parameter])
            arrays = (x.detach().cpu().numpy().copy() for x in (parameter, first, second))
            parameters[name] = ParameterState(*arrays)
        buffers = {name: it.cpu().numpy().copy() for name, it in self._other_buffers().items()}
        return AgentState(networks, parameters, buffers, {name: it.steps for name, it in self.optimizers.items()})

    @torch.no_grad()
    def load_state(self, state: AgentState) -> None:
        """Become what :meth:`state` described; the networks must have its masks already. ValueError if it is of another agent."""
        self._check_fit(state)
        targets = self.target_mlps()
        for name, mlp in self.mlps().items():
            stored = state.networks[name]
            mlp.load_values(stored.values)
            moments = self._moments(list(mlp.parameters()))
            for tensors, vector in zip(moments, (stored.exp_avg, stored.exp_avg_sq), strict=True):
                for tensor, value in zip(tensors, mlp.unpack(vector), strict=True):
                    tensor.copy_(value)
            if stored.target is not None:
                targets[name].load_values(stored.target)
        for name, parameter in self._other_parameters().items():
            (first,), (second,) = self._moments([parameter])
            arrays = state.parameters[name].vectors().values()
            for tensor, array in zip((parameter, first, second), arrays, strict=True):
                tensor.copy_(torch.from_numpy(array))
        for name, buffer in self._other_buffers().items():
            buffer.copy_(torch.from_numpy(state.buffers[name]))
        for name, optimizer in self.optimizers.items():
            optimizer.steps = state.steps[name]

    def _check_fit(self, state: AgentState) -> None:
        """Raise ValueError unless ``state`` has the parts that this agent has."""
        pairs: dict[str, tuple[object, object]] = {
            "networks": (set(state.networks), set(self.mlps())),
            "targets": (
                {name for name, it in state.networks.items() if it.target is not None},
                set(self.target_mlps()),
            ),
            "parameters": (
                {name: it.values.shape for name, it in state.parameters.items()},
                {name: tuple(it.shape) for name, it in self._other_parameters().items()},
            ),
            "buffers": (
                {name: it.shape for name, it in state.buffers.items()},
                {name: tuple(it.shape) for name, it in self._other_buffers().items()},
            ),
            "optimisers": (set(state.steps), set(self.optimizers)),
        }
        for part, (found, wanted) in pairs.items():
            if found != wanted:
                raise ValueError(f"it has the {part} {found}, and {type(self).__name__} has {wanted}")

    def _other_parameters(self) -> dict[str, nn.Parameter]:
        """Those that belong to no prunable network, by their names in ``networks``."""
        prunable = {id(parameter) for mlp in self.mlps().values() for parameter in mlp.parameters()}
        return {name: it for name, it in self.networks.named_parameters() if id(it) not in prunable}

    def _other_buffers(self) -> dict[str, Tensor]:
        """Persistent ones that belong to no prunable network, by their names in ``networks``."""
        prunable = {id(buffer) for mlp in self.mlps().values() for buffer in mlp.buffers()}
        kept = self.networks.state_dict().keys()
        return {name: it for name, it in self.networks.named_buffers() if name in kept and id(it) not in prunable}

    def _moments(self, parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """First and second moments of ``parameters``, which one optimiser has."""
        wanted = [id(parameter) for parameter in parameters]
        for optimizer in self.optimizers.values():
            places = {id(parameter): i for i, parameter in enumerate(optimizer.parameters)}
            if wanted and wanted[0] in places:
                found = [places[it] for it in wanted]
                return [optimizer.exp_avg[i] for i in found], [optimizer.exp_avg_sq[i] for i in found]
        names = {id(it): name for name, it in self.networks.named_parameters()}
        missing = ", ".join(names[it] for it in wanted)
        raise ValueError(
            f"no optimiser of {type(self).__name__} trains {missing}: give each network one in learning_rates"
        )


def _falling(rate: LearningRate, config: AgentConfig) -> LearningRate:
    return rate if callable(rate) or config.lr_decay is None else cosine_decay(rate, config.lr_decay)
