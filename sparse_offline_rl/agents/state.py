"""The whole state of an agent as tensors whose size follows the surviving weights, the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparse_offline_rl.agents.bcq import BCQ
from sparse_offline_rl.agents.learner import Learner


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
    for name, mlp in agent.networks.mlps().items():
        learner, span = _place(agent, mlp)
        tensors[f"online/{name}"] = _pack(mlp, [p.detach() for p in learner.parameters[span]])
        tensors[f"exp_avg/{name}"] = _pack(mlp, learner.adam.exp_avg[span])
        tensors[f"exp_avg_sq/{name}"] = _pack(mlp, learner.adam.exp_avg_sq[span])
    for name, mlp in agent.target_mlps().items():
        tensors[f"target/{name}"] = _pack(mlp, [p.detach() for p in mlp.parameters()])
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def load_agent_tensors(agent: BCQ, tensors: Mapping[str, Tensor], steps: int) -> None:
    """Restore what :func:`agent_tensors` gave, after ``steps`` optimiser steps; masks must be in place already."""
    for name, mlp in agent.networks.mlps().items():
        learner, span = _place(agent, mlp)
        places: dict[str, list[Tensor]] = {
            "online": learner.parameters,
            "exp_avg": learner.adam.exp_avg,
            "exp_avg_sq": learner.adam.exp_avg_sq,
        }
        for kind, place in places.items():
            for tensor, value in zip(place[span], _unpack(mlp, tensors[f"{kind}/{name}"]), strict=True):
                tensor.copy_(value)
        learner.adam.steps = steps
    for name, mlp in agent.target_mlps().items():
        for parameter, value in zip(mlp.parameters(), _unpack(mlp, tensors[f"target/{name}"]), strict=True):
            parameter.copy_(value)


def _place(agent: BCQ, mlp: nn.Module) -> tuple[Learner, slice]:
    """The learner that trains ``mlp``, and where the network's parameters stand in its lists."""
    first, count = next(mlp.parameters()), len(list(mlp.parameters()))
    for learner in agent.learners.values():
        for start, parameter in enumerate(learner.parameters):
            if parameter is first:
                return learner, slice(start, start + count)
    raise KeyError("no learner trains this network")


def _pack(mlp: nn.Module, tensors: Sequence[Tensor]) -> Tensor:
    assert isinstance(mlp, Packable)
    return mlp.pack(tensors)


def _unpack(mlp: nn.Module, vector: Tensor) -> list[Tensor]:
    assert isinstance(mlp, Packable)
    return mlp.unpack(vector)
