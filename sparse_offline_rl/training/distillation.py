"""Distillation: each network also learns what the network of that name in a finished run says to the same inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import Config
from sparse_offline_rl.engines.selection import masked_engine
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.mlp import PrunableMLP
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.training.checkpoint import checkpoint_path
from sparse_offline_rl.training.finished import open_finished
from sparse_offline_rl.types import Spaces


@dataclass(frozen=True)
class Teacher:
    """The networks of a finished run, and the digest of the checkpoint that they are from."""

    networks: Mapping[str, PrunableMLP]
    digest: str

    def require_fit(self, state: AgentState) -> None:
        """Raise UserError unless each network takes and gives as much as that of ``state`` does."""
        for name, mlp in self.networks.items():
            found, wanted = (_ends(it) for it in (mlp.topology, state.networks[name].topology))
            if found != wanted:
                raise UserError(
                    f"distill.teacher: its network {name} has {found} inputs and outputs, and this run's has {wanted}: choose a teacher "
                    "with the same sizes of what goes in and out."
                )


def _ends(topology: Topology) -> tuple[int, dict[str, int]]:
    return topology.in_features, {name: len(mask) for name, mask in topology.heads.items()}


def load_teacher(config: Config, spaces: Spaces, data: str) -> Teacher | None:
    """The networks of the run that ``distill.teacher`` names; None where it names none.

    Networks that it never trained are left out. Raises UserError if the run is unfinished, or if it is of another agent or of other data
    than ``data``, a dataset's fingerprint (:func:`open_finished`), and if its networks are not those of the agent.
    """
    if config.distill.teacher is None:
        return None
    found = open_finished("distill.teacher", config.distill.teacher, config.agent.name, data)
    kind, state = AGENTS[config.agent.name], found.checkpoint.state
    try:
        agent = masked_engine("a teacher").restore(kind, state, spaces, found.config.agent, config.device)
    except ValueError as error:
        raise UserError(f"distill.teacher={found.folder} cannot be used ({error}): choose another teacher.") from None
    networks = {
        name: mlp.requires_grad_(False)
        for optimizer, trained in agent.trained_mlps().items()
        if agent.optimizers[optimizer].steps
        for name, mlp in trained.items()
    }
    return Teacher(networks, hashlib.sha256(checkpoint_path(found.folder).read_bytes()).hexdigest())


class _Lessons:
    """What the networks that one optimiser trains were asked in this update, and how far they are from their teachers."""

    parameters: Sequence[Tensor] = ()

    def __init__(self, networks: Mapping[str, PrunableMLP], teacher: Teacher, weight: float) -> None:
        self._networks, self._teacher, self._weight = networks, teacher.networks, weight
        self._inputs: dict[str, tuple[Tensor, ...]] = {}
        for name, mlp in networks.items():
            mlp.register_forward_hook(self._noted(name))

    def _noted(self, name: str) -> Callable[[torch.nn.Module, Any, Tensor], None]:
        def note(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            # Not where targets or acting ask, and not where the network is only in the way of another one's gradient.
            if torch.is_grad_enabled() and next(module.parameters()).requires_grad:
                self._inputs[name] = inputs

        return note

    def penalty(self) -> Tensor | None:
        """The mean squared distance of each network's last answers from its teacher's, in units of the variance of these."""
        distances = []
        for name, inputs in self._inputs.items():
            # What made the inputs is not to learn from this: the encoder would move its latents to suit the decoder's teacher.
            given = [it.detach() for it in inputs]
            with torch.no_grad():
                wanted = self._teacher[name](*given)
            answer = self._networks[name].forward(*given)  # past the hook, which would note it
            distances.append(mse_loss(answer, wanted) / wanted.var(correction=0).clamp_min(1e-8))
        self._inputs.clear()
        return self._weight * torch.stack(distances).sum() if distances else None

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Nothing: the penalty is all there is."""


def learn_from(agent: Agent, teacher: Teacher, weight: float) -> None:
    """Add to the loss of each network of ``agent`` the distance from its ``teacher``, times ``weight``.

    Every optimiser gets what its own networks lack. A network that is asked several times in an update is compared on the last time.
    """
    for optimizer, trained in agent.trained_mlps().items():
        networks = {name: mlp for name, mlp in trained.items() if name in teacher.networks}
        if networks:
            agent.optimizers[optimizer].companions.append(_Lessons(networks, teacher, weight))
