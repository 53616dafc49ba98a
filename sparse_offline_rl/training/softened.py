"""Updates of an agent whose hidden layers are soft for a while after their masks were found."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparse_offline_rl.agents.base import Agent, Metrics
from sparse_offline_rl.config import Config, SoftConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.hashed import HashedMLP
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.soft import SoftLayers
from sparse_offline_rl.pruning.schedule import MaskSchedule, first_update
from sparse_offline_rl.types import Batch


@dataclass(frozen=True)
class SoftPhase:
    """After which updates hidden layers are soft: from ``first`` to before ``last``; ``update`` are done."""

    config: SoftConfig
    first: int
    last: int
    update: int

    def at(self, update: int) -> tuple[float, float]:
        """β and γ: from their first values to ``beta_max`` and 0 in equal steps."""
        part = (update - self.first) / (self.last - self.first)
        return self.config.beta * (1 - part) + self.config.beta_max * part, self.config.skip * (1 - part)


def soft_phase(config: Config, schedule: MaskSchedule) -> SoftPhase | None:
    """What ``soft.until`` asks for, from the update on after which ``schedule`` has found its masks; None: nothing.

    Raises UserError where that would last to the end: the policy that is stored has ReLU.
    """
    if not config.soft.until:
        return None
    if schedule.factors:
        raise UserError(
            f"soft.until={config.soft.until:g} softens layers of one matrix each, and prune={config.prune.name} leaves layers in factors: "
            "set soft.until=0."
        )
    first = schedule.found
    last = first + first_update(config.soft.until, config.updates)
    if last >= config.updates:
        raise UserError(
            f"soft.until={config.soft.until:g} would last to update {last} of updates={config.updates}, and the trained policy has ReLU: "
            "lower soft.until, or train longer."
        )
    if config.engine == "sparse":
        raise UserError(
            f"engine=sparse has no soft activations, and soft.until={config.soft.until:g} asks for them: use engine=auto, which goes on "
            "with the sparse engine afterwards."
        )
    return SoftPhase(config.soft, first, last, first)


class SoftUpdate:
    """A function as ``agent.update`` is one. Targets and acting see the same soft layers, as they are now."""

    def __init__(self, agent: Agent, phase: SoftPhase) -> None:
        self._agent, self._phase, self._done, self._layers = agent, phase, phase.update, SoftLayers()
        for mlp in (*agent.mlps().values(), *agent.target_mlps().values()):
            if isinstance(mlp, (MLP, HashedMLP)):
                for layer in mlp.layers().values():
                    layer.product = self._layers.product
        self._set()

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """One update."""
        metrics = self._agent.update(batch, generator)
        self._done += 1
        self._set()
        return metrics

    def _set(self) -> None:
        self._layers.beta, self._layers.gamma = self._phase.at(self._done)
