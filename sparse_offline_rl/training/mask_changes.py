"""Masks of a run: at the start and whenever its schedule changes them. Joins what pruning may not know: agents, data, engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.engines.selection import masked_engine
from sparse_offline_rl.networks.initialization import AFTER_MASKS, BEFORE_MASKS, initialized
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.pruning.learned.schedule import Learned
from sparse_offline_rl.pruning.prune import Twins, copy_twins, redraw
from sparse_offline_rl.pruning.registry import mask_schedule
from sparse_offline_rl.pruning.schedule import Change, Memory, Moment, observed
from sparse_offline_rl.seeding import generator
from sparse_offline_rl.training.console import warn
from sparse_offline_rl.training.extended import Extensions
from sparse_offline_rl.training.softened import SoftPhase, SoftUpdate, soft_phase
from sparse_offline_rl.types import Batch, Objective, Spaces


class MaskChanges:
    """What the schedule of a run does to its agent's state."""

    def __init__(self, config: Config, spaces: Spaces, buffer: ReplayBuffer) -> None:
        """Raises UserError if the dataset is too small for a batch that scores weights."""
        self._config, self._spaces, self._buffer = config, spaces, buffer
        self._kind = AGENTS[config.agent.name]
        self._twins = Twins(self._kind.TWINS, config.agent.twin)
        self.schedule = mask_schedule(config.prune, config.sparsity, config.updates)
        self._soft = soft_phase(config, self.schedule)
        if config.prune.name != "none" and not self.schedule.HASHES:
            for key, size in self.schedule.batch_sizes().items():
                buffer.require(size, key)

    def start(self) -> Change:
        """New weights, and the masks that training begins with."""
        config = self._config
        agent = self._kind.create(self._spaces, config.agent, generator(config.seed, "init"), config.device)
        return self.prune(agent.state())

    def prune(self, state: AgentState) -> Change:
        """``state``, which nobody has pruned or trained, with the masks that training begins with."""
        config = self._config
        before, after = BEFORE_MASKS.get(config.init), AFTER_MASKS.get(config.init)
        state = initialized(state, before)
        if config.init == "zero" and self._kind.TWINS and config.agent.twin != "copy":
            warn(
                "init=zero is deterministic: both critics start with the same weights, and with the same loss they stay identical "
                "unless random masks or values are drawn for each."
            )
        if config.prune.name == "none":
            return Change(initialized(state, after), Memory())
        if config.init == "zero" and self.schedule.score != "random" and not self.schedule.STARTS_DENSE:
            warn(
                "init=zero: most initial weights are exactly zero and have equal scores; of equal ones those with the lowest index "
                "are kept."
            )
        state = self.schedule.start(self._moment(0, state, Memory(), "prune"))
        if config.prune.reinit:
            state = redraw(state, lambda network: generator(config.seed, f"reinit-{network}"))
        state = copy_twins(initialized(state, after), self._twins)
        memory = self.schedule.remembered(self._moment(0, state, Memory(), "prune"))
        return self._observed(Change(state, memory))

    def due(self, update: int) -> bool:
        """Whether the agent is to be built anew after ``update``: masks change, or hidden layers are no longer soft."""
        return self.schedule.due(update) or (self._soft is not None and update in (self._soft.first, self._soft.last))

    def change(self, update: int, state: AgentState, memory: Memory) -> Change:
        """What the schedule does after ``update``; nothing where it is not due."""
        if not self.schedule.due(update):
            return Change(state, memory)
        change = self.schedule.change(self._moment(update, state, memory, f"masks-{update}"))
        for sentence in self.schedule.doubts(update, memory, state):
            warn(sentence)
        # Noise of gates and the values of grown weights are drawn for each network: copies would part.
        return self._observed(replace(change, state=copy_twins(change.state, self._twins)))

    def columns(self, networks: Iterable[str]) -> list[str]:
        """Metrics that the schedule adds for ``networks``; a twin that follows another has none of its own."""
        return self.schedule.columns(name for name in networks if not self._twins.follows(name))

    def check(self, update: int, state: AgentState, memory: Memory) -> None:
        """Raise ValueError unless ``memory`` is of this run's schedule, standing at ``state`` after ``update``."""
        self.schedule.check_memory(update, state, memory, self._twins)

    def extensions(self, update: int, change: Change) -> Extensions | None:
        """What networks have beside their weights after ``update``, which left them as ``change`` says; None: nothing."""
        config, schedule = self._config, self.schedule
        found = schedule.extensions(update, change.state, change.memory, config.device)
        if not found or not isinstance(schedule, Learned):
            return None
        return Extensions(update, found, schedule, self._twins, config.seed)

    def soft(self, update: int) -> SoftPhase | None:
        """How hidden layers are soft after ``update``; None: they are not."""
        phase = self._soft
        return replace(phase, update=update) if phase is not None and phase.first <= update < phase.last else None

    def _observed(self, change: Change) -> Change:
        return observed(change) if self.schedule.CHANGES else change

    def _moment(self, update: int, state: AgentState, memory: Memory, stream: str) -> Moment:
        draws = generator(self._config.seed, stream, self._config.device)
        return Moment(update, state, memory, draws, partial(self._probe, update), self._twins)

    def _probe(self, update: int, state: AgentState) -> Callable[[torch.Generator], Mapping[str, Objective]]:
        config, soft = self._config, self.soft(update)
        agent = masked_engine("to be scored").restore(self._kind, state, self._spaces, config.agent, config.device)
        # What is scored is the function that was trained, or, before training, that will be; at the end of the phase it is ReLU.
        if soft is not None and (update == 0 or update > soft.first):
            SoftUpdate(agent, soft)
        sample = self._buffer.sampler(self.schedule.batch_size(update))

        def objectives(draws: torch.Generator) -> Mapping[str, Objective]:
            # The next batch takes the place of this one, and the losses look at theirs later.
            batch = Batch(*(field.clone() for field in sample(draws)))
            return agent.objectives(batch, draws)

        return objectives
