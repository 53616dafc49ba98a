"""The whole state of an agent as tensors whose size follows the surviving weights, the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparse_offline_rl.agents.bcq import BCQ


@runtime_checkable
class Packable(Protocol):
    """What an MLP and its replacement by an engine have in common."""

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Parameter-shaped tensors to one vector of the survivors."""

    def unpack(self, vector: Tensor) -> list[Tensor]:
        """The inverse of :meth:`pack`."""


def agent_tensors(agent: BCQ) -> dict[str, Tensor]:
    """Online values, Adam moments and targets, one vector each a network: ``online/actor``, ``exp_avg/actor``, …"""
    tensors = {}
    moments = _moments(agent)
    for name, mlp in agent.networks.mlps().items():
        parameters = list(mlp.parameters())
        tensors[f"online/{name}"] = _pack(mlp, [p.detach() for p in parameters])
        for key in ("exp_avg", "exp_avg_sq"):
            values = [moments[p][key] if p in moments else torch.zeros_like(p) for p in parameters]
            tensors[f"{key}/{name}"] = _pack(mlp, values)
    for name, mlp in agent.target_mlps().items():
        tensors[f"target/{name}"] = _pack(mlp, [p.detach() for p in mlp.parameters()])
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def load_agent_tensors(agent: BCQ, tensors: Mapping[str, Tensor], steps: int) -> None:
    """Restore what :func:`agent_tensors` gave, after ``steps`` optimiser steps; masks must be in place already."""
    learner_of = {p: learner for learner in agent.learners.values() for p in learner.parameters}
    for name, mlp in agent.networks.mlps().items():
        moments = {key: _unpack(mlp, tensors[f"{key}/{name}"]) for key in ("exp_avg", "exp_avg_sq")}
        for i, (parameter, value) in enumerate(
            zip(mlp.parameters(), _unpack(mlp, tensors[f"online/{name}"]), strict=True)
        ):
            parameter.copy_(value)
            if steps:
                learner_of[parameter].optimizer.state[parameter] = {
                    "step": torch.tensor(float(steps), device=parameter.device),
                    "exp_avg": moments["exp_avg"][i].to(parameter.device),
                    "exp_avg_sq": moments["exp_avg_sq"][i].to(parameter.device),
                }
    for name, mlp in agent.target_mlps().items():
        for parameter, value in zip(mlp.parameters(), _unpack(mlp, tensors[f"target/{name}"]), strict=True):
            parameter.copy_(value)


def _moments(agent: BCQ) -> dict[Tensor, dict[str, Tensor]]:
    return {p: state for learner in agent.learners.values() for p, state in learner.optimizer.state.items()}


def _pack(mlp: nn.Module, tensors: Sequence[Tensor]) -> Tensor:
    assert isinstance(mlp, Packable)
    return mlp.pack(tensors)


def _unpack(mlp: nn.Module, vector: Tensor) -> list[Tensor]:
    assert isinstance(mlp, Packable)
    return mlp.unpack(vector)
