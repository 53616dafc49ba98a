"""Small agents and batches for the tests."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch

from sparse_offline_rl.agents.bcq import BCQ
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import AgentConfig, PruneConfig
from sparse_offline_rl.pruning.prune import apply_masks, find_masks
from sparse_offline_rl.types import Batch, Spaces

# Numba counts the cores that this process may use.
needs_two_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two cores")

SMALL = {"actor_hidden": (24, 16), "critic_hidden": (24, 16), "vae_hidden": (32, 32)}


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


def small_agent(name: str = "bcq", seed: int = 0, **overrides: object) -> BCQ:
    config = AgentConfig.model_validate({"name": name, **SMALL, **overrides})
    return AGENTS[name](spaces(), config, "cpu", torch.Generator().manual_seed(seed))


def prune(agent: BCQ, method: str = "snip", sparsity: float = 0.8, seed: int = 0, **options: object) -> dict:
    g = torch.Generator().manual_seed(seed)
    masks = find_masks(
        agent.objectives(random_batch(50), g), PruneConfig.model_validate({"name": method, **options}), sparsity, g
    )
    for network, found in masks.items():
        apply_masks(agent.networks.dense_mlps()[network], found)
    agent.tie_twin()
    return masks


def dense_layers(mlp: torch.nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """(W, b) of each layer in float64, several heads stacked into one last layer."""
    layers = list(mlp.layers().values())
    depth = len(mlp.hidden)
    arrays = [(x.weight.detach().double().numpy(), x.bias.detach().double().numpy()) for x in layers]
    heads = (np.vstack([w for w, _ in arrays[depth:]]), np.concatenate([b for _, b in arrays[depth:]]))
    return [*arrays[:depth], heads]
