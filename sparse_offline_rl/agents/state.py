"""The whole state of an agent as tensors whose size follows the surviving weights, the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.agents.bcq import BCQ
from sparse_offline_rl.agents.learner import Learner
from sparse_offline_rl.networks.packing import Packable


def agent_tensors(agent: BCQ) -> dict[str, Tensor]:
    """Online values, Adam moments and targets, one vector each a network: ``online/actor``, ``exp_avg/actor``, …"""
    tensors = {}
    for name, mlp in agent.networks.mlps().items():
        learner, span = _place(agent, mlp)
        tensors[f"online/{name}"] = mlp.packed_parameters()
        tensors[f"exp_avg/{name}"] = mlp.pack(learner.adam.exp_avg[span])
        tensors[f"exp_avg_sq/{name}"] = mlp.pack(learner.adam.exp_avg_sq[span])
    for name, mlp in agent.target_mlps().items():
        tensors[f"target/{name}"] = mlp.packed_parameters()
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def load_agent_tensors(agent: BCQ, tensors: Mapping[str, Tensor], steps: int) -> None:
    """Restore what :func:`agent_tensors` gave, after ``steps`` optimiser steps; masks must be in place already."""
    for name, mlp in agent.networks.mlps().items():
        learner, span = _place(agent, mlp)
        mlp.load_parameters(tensors[f"online/{name}"])
        for kind, moments in (("exp_avg", learner.adam.exp_avg), ("exp_avg_sq", learner.adam.exp_avg_sq)):
            for moment, value in zip(moments[span], mlp.unpack(tensors[f"{kind}/{name}"]), strict=True):
                moment.copy_(value)
        learner.adam.steps = steps
    for name, mlp in agent.target_mlps().items():
        mlp.load_parameters(tensors[f"target/{name}"])


def _place(agent: BCQ, mlp: Packable) -> tuple[Learner, slice]:
    """The learner that trains ``mlp``, and where the network's parameters stand in its lists."""
    first, count = next(mlp.parameters()), len(list(mlp.parameters()))
    for learner in agent.learners.values():
        for start, parameter in enumerate(learner.parameters):
            if parameter is first:
                return learner, slice(start, start + count)
    raise KeyError("no learner trains this network")
