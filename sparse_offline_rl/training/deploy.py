"""From a trained agent to the contents of its policy file."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from sparse_offline_rl.agents.bcq import BCQ
from sparse_offline_rl.agents.state import agent_tensors
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.load import LoadedDataset
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.policy.content import KINDS, PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.training.summary import installed_version
from sparse_offline_rl.types import BoolArray, FloatArray


def policy_content(
    config: Config,
    agent: BCQ,
    masks: Mapping[str, Mapping[str, BoolArray]],
    normalization: Normalization,
    data: LoadedDataset,
) -> PolicyContent:
    """What acting needs of ``agent``; ``masks`` maps network and layer names to ``[out, in]``, heads last.

    ``data`` names the environment; its settings beside the id (a time limit, say) go into the metadata as JSON.
    """
    tensors, kind = agent_tensors(agent), config.agent.name
    networks = {name: _network(name, masks[name], tensors[f"online/{name}"].numpy()) for name in KINDS[kind]}
    settings = {"env_kwargs": json.dumps(data.env_kwargs)} if data.env_kwargs else {}
    facts = {"prune": config.prune.name, "sparsity": f"{config.sparsity:g}", "seed": str(config.seed)}
    return PolicyContent(
        kind=kind,
        networks=networks,
        observation_mean=normalization.mean,
        observation_std=normalization.std,
        action_low=agent.spaces.action_low,
        action_high=agent.spaces.action_high,
        latent_dim=agent.networks.vae.latent_dim,
        latent_clip=config.agent.acting_latent_clip,
        candidates=config.agent.acting_candidates,
        perturbation=config.agent.perturbation,
        env_id=data.env_id,
        metadata={
            **facts,
            **settings,
            "updates": str(config.updates),
            "version": installed_version("sparse-offline-rl") or "",
        },
    )


def _network(name: str, masks: Mapping[str, BoolArray], vector: FloatArray) -> PolicyNetwork:
    """A network whose parameters stand in ``vector`` layer by layer, values first; it has one head, the last layer."""
    layers, start = [], 0
    for layer, mask in masks.items():
        kept, outputs = int(mask.sum()), mask.shape[0]
        weight = np.zeros(mask.shape, np.float32)
        weight[mask] = vector[start : start + kept]
        layers.append(PolicyLayer(layer, weight, mask, vector[start + kept : start + kept + outputs].copy()))
        start += kept + outputs
    return PolicyNetwork(name, tuple(layers[:-1]), tuple(layers[-1:]))
