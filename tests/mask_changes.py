"""Changes of masks without a run: schedules from their YAML files, and moments of small agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from conftest import ROOT
from helpers import on_engine, random_batch
from omegaconf import OmegaConf
from torch import nn

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState
from sparse_offline_rl.pruning.prune import Twins
from sparse_offline_rl.pruning.registry import mask_schedule, prune_configs
from sparse_offline_rl.pruning.schedule import Change, MaskSchedule, Memory, Moment, observed
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.types import Objective


def schedule(method: str, sparsity: float = 0.8, updates: int = 100, **options: object) -> MaskSchedule:
    """What ``prune=METHOD`` asks for, with these keys of it changed."""
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "prune" / f"{method}.yaml"))
    values |= options
    config = prune_configs()[values["schedule"]].model_validate(values)
    return mask_schedule(config, sparsity, updates)


def moment(
    agent: Agent, state: AgentState | None = None, update: int = 0, memory: Memory | None = None, seed: int = 0
) -> Moment:
    """A moment of an agent, that of its own state if no other is given; batches are random."""

    def probe(state: AgentState):
        masked = on_engine(agent, state)

        def objectives(draws: torch.Generator) -> Mapping[str, Objective]:
            seed = int(torch.randint(2**31, (1,), generator=draws))
            return masked.objectives(random_batch(30, seed=seed), draws)

        return objectives

    twins = Twins(agent.TWINS, agent.config.twin)
    draws = torch.Generator().manual_seed(seed)
    return Moment(update, state or agent.state(), memory or Memory(), draws, probe, twins)


def begin(plan: MaskSchedule, agent: Agent) -> Change:
    """What training begins with."""
    state = plan.start(moment(agent))
    return observed(Change(state, plan.remembered(moment(agent, state))))


def trained(state: AgentState, seed: int) -> AgentState:
    """``state`` as if it had learned: every number is another one."""
    draw = np.random.default_rng(seed)

    def moved(network: NetworkState) -> NetworkState:
        def step(vector):
            return (vector + draw.normal(0, 0.05, vector.shape)).astype(np.float32)

        vectors = {name: step(vector) for name, vector in network.vectors().items()}
        return replace(network, **vectors)

    networks = {name: moved(network) for name, network in state.networks.items()}
    return replace(state, networks=networks, steps={name: count + 1 for name, count in state.steps.items()})


def network(**layers: list[list[float]]) -> NetworkState:
    """A network with these weights ``[out, in]``, those that are 0 pruned; biases are zero, the last layer is its head."""
    weights = {name: np.array(rows, np.float32) for name, rows in layers.items()}
    masks = {name: weight != 0 for name, weight in weights.items()}
    *hidden, head = masks
    topology = Topology({name: masks[name] for name in hidden}, {head: masks[head]})
    arrays = [array for weight in weights.values() for array in (weight, np.zeros(len(weight), np.float32))]
    values = topology.pack(arrays)
    zeros = np.zeros_like(values)
    return NetworkState(topology, values, zeros, zeros, None)


def view(net: NetworkState, *gradients: Mapping[str, list[list[float]]]) -> NetworkView:
    """What is to be seen of ``net``, whose loss has the i-th of these gradients on the i-th batch."""

    def objective(batch: int) -> Objective:
        slopes = {name: torch.tensor(rows) for name, rows in gradients[batch].items()}
        weights = {name: torch.zeros_like(slope, requires_grad=True) for name, slope in slopes.items()}

        def loss() -> torch.Tensor:
            return torch.stack([(w * slopes[name]).sum() for name, w in weights.items()]).sum()

        return Objective(weights, loss, nn.Module())

    return NetworkView(net, objective)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
