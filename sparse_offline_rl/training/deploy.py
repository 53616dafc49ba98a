"""From a trained agent to the contents of its policy file."""

from __future__ import annotations

import json

import numpy as np

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.load import DatasetInfo
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.networks.mlp import PrunableMLP
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.training.summary import installed_version
from sparse_offline_rl.types import FloatArray


def policy_content(config: Config, agent: Agent, normalization: Normalization, data: DatasetInfo) -> PolicyContent:
    """What acting needs of ``agent`` as it is now.

    ``data`` names the environment; its settings beside the id (a time limit, say) go into the metadata as JSON. Raises ValueError
    if the agent's record of acting does not fit its networks.
    """
    acting, mlps = agent.acting(), agent.mlps()
    if missing := set(acting.networks) - set(mlps):
        raise ValueError(f"agent {config.agent.name} acts with {', '.join(sorted(missing))}, and has no such network")
    settings = {"env_kwargs": json.dumps(data.env_kwargs)} if data.env_kwargs else {}
    return PolicyContent(
        acting=acting,
        networks={name: _network(mlps[name]) for name in acting.networks},
        observation_mean=normalization.mean,
        observation_std=normalization.std,
        action_low=agent.spaces.action_low,
        action_high=agent.spaces.action_high,
        env_id=data.env_id,
        metadata={
            "agent": config.agent.name,
            "prune": config.prune.name,
            "sparsity": f"{config.sparsity:g}",
            "seed": str(config.seed),
            **settings,
            "updates": str(config.updates),
            "version": installed_version("sparse-offline-rl") or "",
        },
    )


def _network(mlp: PrunableMLP) -> PolicyNetwork:
    topology = mlp.topology
    arrays: list[FloatArray] = [np.asarray(array, np.float32) for array in topology.unpack(mlp.packed_values())]
    layers = [
        PolicyLayer(name, weight, mask, bias, hashing=topology.hashes.get(name))
        for (name, mask), weight, bias in zip(topology.layers.items(), arrays[0::2], arrays[1::2], strict=True)
    ]
    depth = len(topology.hidden)
    return PolicyNetwork(mlp.name, tuple(layers[:depth]), tuple(layers[depth:]), topology.linear)
