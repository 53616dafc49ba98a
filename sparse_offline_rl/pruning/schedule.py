"""When masks change, and what a change is: a pure function of the agent's state and of the few numbers that a method keeps.

Nothing here knows agents or engines: a :class:`Moment` brings the state and the means to score it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch

from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, all_grown
from sparse_offline_rl.pruning.prune import Twins, find_masks, prune_state
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.types import BoolArray, FloatArray, Objective

# For a state, a function that draws a batch and gives the objective of each network of a dense agent of that state.
Probe = Callable[[AgentState], Callable[[torch.Generator], Mapping[str, Objective]]]


@dataclass(frozen=True)
class Memory:
    """What a schedule remembers from change to change. A checkpoint holds it."""

    numbers: Mapping[str, FloatArray] = field(default_factory=dict)  # of the method's own, by ``network/name``
    masks: Mapping[str, BoolArray] = field(default_factory=dict)  # ``first/network.layer`` and ``ever/network.layer``
    rewind: AgentState | None = None  # to go back to


@dataclass(frozen=True)
class Moment:
    """What a change is made from."""

    update: int  # updates done
    state: AgentState
    memory: Memory
    draws: torch.Generator  # for everything random that happens now; the training's own stream does not notice
    probe: Probe
    twins: Twins

    def views(self, state: AgentState | None = None, revived: AgentState | None = None) -> dict[str, NetworkView]:
        """Every network that is scored, as it is in ``state`` (that of the moment); twins that follow another are left out.

        With ``revived`` weights are judged by the values that they have there.
        """
        state = self.state if state is None else state
        drawn: list[Mapping[str, Objective]] = []
        sample: list[Callable[[torch.Generator], Mapping[str, Objective]]] = []

        def objective(name: str, batch: int) -> Objective:
            if not sample:
                sample.append(self.probe(all_grown(state)))
            while len(drawn) <= batch:
                drawn.append(sample[0](self.draws))
            return drawn[batch][name]

        def view(name: str) -> NetworkView:
            values = None
            if revived is not None:
                topology = revived.networks[name].topology
                arrays = topology.unpack(revived.networks[name].values)[0::2]
                values = dict(zip(topology.layers, arrays, strict=True))
            return NetworkView(state.networks[name], lambda batch: objective(name, batch), values)

        # Twins come last, as they always did: random scores are drawn in this order.
        names = sorted(state.networks, key=lambda name: name in self.twins.pairs)
        return {name: view(name) for name in names if not self.twins.follows(name)}


@dataclass(frozen=True)
class Change:
    """What a moment becomes."""

    state: AgentState
    memory: Memory


class MaskSchedule:
    """Masks that are found before the first update and stay: ``prune.schedule=once``, and what every other schedule starts from."""

    Config: ClassVar[type[PruneConfig]] = PruneConfig
    config: PruneConfig

    def __init__(self, config: PruneConfig, sparsity: float, updates: int) -> None:
        """Raises UserError for settings that do not fit together or to a run of so many ``updates``."""
        self.config, self.sparsity, self.updates = config, sparsity, updates
        if config.name != "none":
            require_choice("prune.score", self.score, SCORERS)
        if config.revive and config.rounds == 1:
            raise UserError("prune.revive=true needs prune.rounds of at least 2: in one round no weight can come back.")

    @property
    def score(self) -> str:
        """The name of the score by which masks are found."""
        return self.config.score or self.config.name

    @property
    def changes(self) -> bool:
        """Whether masks change while training."""
        return False

    def due(self, update: int) -> bool:
        """Whether something is to be done after ``update``, which is never the last one."""
        return False

    def ends_level(self, update: int) -> bool:
        """Whether what was trained until ``update`` is a result of its own, to be evaluated before the change."""
        return False

    def start(self, moment: Moment) -> Change:
        """Masks before the first update, in ``prune.rounds`` rounds."""
        return Change(self.prune_in_rounds(moment), moment.memory)

    def change(self, moment: Moment) -> Change:
        """What :meth:`due` announced."""
        raise NotImplementedError

    def prune_in_rounds(self, moment: Moment) -> AgentState:
        """The density falls exponentially, to ``ρ^(t/T)`` in round t of T (Tanaka et al. 2020; de Jorge et al. 2021).

        A pruned weight stays out, unless ``prune.revive``: then all are judged by their values before the first round (FORCE).
        Survivors keep those values in any case.
        """
        rounds, state = self.config.rounds, moment.state
        for done in range(1, rounds + 1):
            sparsity = self.sparsity if done == rounds else 1 - (1 - self.sparsity) ** (done / rounds)
            views = moment.views(state, moment.state if self.config.revive else None)
            if done == 1:
                # The batch is drawn before any random score, needed or not: masks of earlier versions stay what they were.
                [view.objective for view in views.values()]
            masks = find_masks(views, self.config, self.score, sparsity, moment.draws, again=self.config.revive)
            state = prune_state(moment.state, masks, moment.twins)
        return state


def require_choice(key: str, value: str, choices: Mapping[str, object]) -> None:
    """Raise UserError unless ``value`` is among ``choices``."""
    if value not in choices:
        raise UserError(f"{key}={value!r} cannot be used: choose one of {', '.join(choices)}.")


def observed(change: Change) -> Change:
    """``change`` with the masks of now added to those that its memory has seen."""
    masks = dict(change.memory.masks)
    for name, network in change.state.networks.items():
        for layer, mask in network.topology.layers.items():
            key = f"{name}.{layer}"
            masks.setdefault(f"first/{key}", mask)
            masks[f"ever/{key}"] = mask | masks.get(f"ever/{key}", mask)
    return Change(change.state, replace(change.memory, masks=masks))


def movement(topologies: Mapping[str, Topology], memory: Memory) -> dict[str, float]:
    """How far the masks have moved: of each network the share of positions that were ever kept, and of the first mask's weights
    the share that are kept now.
    """
    found = {}
    for name, topology in topologies.items():
        layers = [(mask, f"{name}.{layer}") for layer, mask in topology.layers.items()]
        ever = sum(np.count_nonzero(memory.masks[f"ever/{key}"]) for _, key in layers)
        first = sum(np.count_nonzero(memory.masks[f"first/{key}"]) for _, key in layers)
        still = sum(np.count_nonzero(mask & memory.masks[f"first/{key}"]) for mask, key in layers)
        found[f"masks/ever_kept/{name}"] = float(ever / topology.total)
        found[f"masks/first_kept/{name}"] = float(still / first)
    return found
