"""Distillation: each network also learns what the network of that name in a finished run says to the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.registry import AGENTS, agent_configs
from sparse_offline_rl.config import Config, parse_config
from sparse_offline_rl.engines.selection import masked_engine
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.mlp import PrunableMLP
from sparse_offline_rl.pruning.registry import prune_configs
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint
from sparse_offline_rl.training.stored_config import read_stored_config
from sparse_offline_rl.types import Spaces

Teacher = Mapping[str, PrunableMLP]


def load_teacher(config: Config, spaces: Spaces, data: str) -> Teacher | None:
    """The networks of the run that ``distill.teacher`` names; None where it names none.

    Raises UserError if there is no checkpoint, or if it is of another agent or of other data than ``data``, a dataset's fingerprint.
    """
    if config.distill.teacher is None:
        return None
    folder = Path(config.distill.teacher)
    if not checkpoint_path(folder).is_file():
        raise UserError(f"distill.teacher={folder} has no checkpoint: give the folder of a run that was trained.")
    stored = parse_config(
        {**read_stored_config(folder / "config.yaml", "restore it, or choose another teacher"), "run_dir": str(folder)},
        agent_configs(),
        prune_configs(),
    )
    if stored.agent.name != config.agent.name:
        raise UserError(
            f"distill.teacher={folder} is agent={stored.agent.name}, and this run is agent={config.agent.name}: choose a teacher of the "
            "same agent."
        )
    checkpoint = load_checkpoint(checkpoint_path(folder))
    if checkpoint.progress.data != data:
        raise UserError(
            f"distill.teacher={folder} was trained on other data than this run: choose a teacher of the same dataset."
        )
    try:
        agent = masked_engine("a teacher").restore(
            AGENTS[stored.agent.name], checkpoint.state, spaces, stored.agent, config.device
        )
    except ValueError as error:
        raise UserError(f"distill.teacher={folder} cannot be used ({error}): choose another teacher.") from None
    for mlp in agent.mlps().values():
        mlp.requires_grad_(False)
    return agent.mlps()


class _Lessons:
    """What the networks that one optimiser trains were asked in this update, and how far they are from their teachers."""

    parameters: Sequence[Tensor] = ()

    def __init__(self, networks: Mapping[str, PrunableMLP], teacher: Teacher, weight: float) -> None:
        self._teacher, self._weight = teacher, weight
        self._calls: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}
        for name, mlp in networks.items():
            mlp.register_forward_hook(self._noted(name))

    def _noted(self, name: str) -> Callable[[torch.nn.Module, Any, Tensor], None]:
        def note(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            # Not where targets or acting ask, and not where the network is only in the way of another one's gradient.
            if torch.is_grad_enabled() and next(module.parameters()).requires_grad:
                self._calls[name] = (inputs, output)

        return note

    def penalty(self) -> Tensor | None:
        """The mean squared distance of each network's last answers from its teacher's, in units of the variance of these."""
        distances = []
        for name, (inputs, output) in self._calls.items():
            with torch.no_grad():
                wanted = self._teacher[name](*(it.detach() for it in inputs))
            distances.append(mse_loss(output, wanted) / wanted.var().clamp_min(1e-8))
        self._calls.clear()
        return self._weight * torch.stack(distances).sum() if distances else None

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Nothing: the penalty is all there is."""


def learn_from(agent: Agent, teacher: Teacher, weight: float) -> None:
    """Add to the loss of each network of ``agent`` the distance from its ``teacher``, times ``weight``.

    Every optimiser gets what its own networks lack. A network that is asked several times in an update is compared on the last time.
    """
    for optimizer in agent.optimizers.values():
        trained = {id(parameter) for parameter in optimizer.parameters}
        networks = {name: mlp for name, mlp in agent.mlps().items() if id(next(mlp.parameters())) in trained}
        if networks:
            optimizer.companions.append(_Lessons(networks, teacher, weight))
