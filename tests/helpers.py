"""Small agents and batches for the tests."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.engines.selection import Engine, choose_engine
from sparse_offline_rl.engines.sparse.module import SparseMLP
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.state import AgentState, NetworkState
from sparse_offline_rl.pruning.prune import Twins, copy_twins, find_masks, prune_state
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.types import Batch, Objective, Spaces

# Numba counts the cores that this process may use.
needs_two_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two cores")

MASKED = Engine("dense", "without compaction", MLP.from_packed)


def spaces(observations: int = 5, actions: int = 2) -> Spaces:
    return Spaces(observations, -np.ones(actions, np.float32), np.ones(actions, np.float32))


def random_batch(size: int = 20, observations: int = 5, actions: int = 2, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(size, observations, generator=g),
        torch.rand(size, actions, generator=g) * 2 - 1,
        torch.randn(size, 1, generator=g),
        torch.randn(size, observations, generator=g),
        (torch.rand(size, 1, generator=g) < 0.3).float(),
    )


def small_agent(name: str = "bcq", seed: int = 0, **overrides: object) -> Agent:
    """A dense agent with small networks."""
    kind = AGENTS[name]
    hidden = [key for key in kind.Config.model_fields if key.endswith("_hidden")]
    sizes = {key: (32, 32) if key == "vae_hidden" else (24, 16) for key in hidden}
    config = kind.Config.model_validate({"name": name, **sizes, **overrides})
    return kind.create(spaces(), config, torch.Generator().manual_seed(seed))


def views(agent: Agent, generator: torch.Generator, rows: int = 50) -> dict[str, NetworkView]:
    """What scores may look at of a dense agent: its networks, each with its own objective on a random batch."""
    state, objectives = agent.state(), agent.objectives(random_batch(rows), generator)
    return {name: view_of(state.networks[name], objective) for name, objective in objectives.items()}


def view_of(network: NetworkState, objective: Objective) -> NetworkView:
    """One network with the same objective for every batch."""
    return NetworkView(network, lambda batch: objective)


def prune(agent: Agent, method: str = "snip", sparsity: float = 0.8, seed: int = 0, **options: object) -> AgentState:
    """The state of ``agent`` after pruning."""
    g = torch.Generator().manual_seed(seed)
    config = PruneConfig.model_validate({"name": method, **options})
    masks = find_masks(views(agent, g), config, method, sparsity, g)
    twins = Twins(agent.TWINS, agent.config.twin)
    return copy_twins(prune_state(agent.state(), masks, twins), twins)


def on_engine(agent: Agent, state: AgentState, engine: Engine | str = MASKED) -> Agent:
    """The agent of ``state`` on an engine, of the kind and settings of ``agent``."""
    if isinstance(engine, str):
        engine = choose_engine(engine, "cpu", 0.2, agent.config.weight_decay)
    return engine.restore(type(agent), state, agent.spaces, agent.config)


def pruned_agent(
    name: str = "bcq", method: str = "snip", sparsity: float = 0.8, engine: Engine | str = MASKED, **overrides: object
) -> Agent:
    """A small agent after pruning, on an engine."""
    agent = small_agent(name, **overrides)
    return on_engine(agent, prune(agent, method, sparsity), engine)


def sparse_twin(mlp: MLP) -> SparseMLP:
    """The same network on the sparse engine."""
    return SparseMLP(mlp.topology, mlp.packed_values())


def flat(state: AgentState) -> dict[str, torch.Tensor]:
    """All vectors of a state: ``values/actor``, ``exp_avg/actor``, …, ``parameter/actor.log_std/values``."""
    vectors = {f"{kind}/{name}": v for name, it in state.networks.items() for kind, v in it.vectors().items()}
    for name, parameter in state.parameters.items():
        vectors |= {f"parameter/{name}/{kind}": v for kind, v in parameter.vectors().items()}
    vectors |= {f"buffer/{name}": v for name, v in state.buffers.items()}
    return {name: torch.from_numpy(vector) for name, vector in vectors.items()}


def dense_layers(mlp: torch.nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """(W, b) of each layer in float64, several heads stacked into one last layer."""
    layers = list(mlp.layers().values())
    depth = len(mlp.hidden)
    arrays = [(x.weight.detach().double().numpy(), x.bias.detach().double().numpy()) for x in layers]
    heads = (np.vstack([w for w, _ in arrays[depth:]]), np.concatenate([b for _, b in arrays[depth:]]))
    return [*arrays[:depth], heads]
