"""The pruning stage: score every network against its own objective, keep the best weights, drop the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.pruning.allocate import allocate
from sparse_offline_rl.pruning.controls import shuffle_layerwise
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.types import Objective


def find_masks(
    objectives: Mapping[str, Objective], config: PruneConfig, sparsity: float, generator: torch.Generator
) -> dict[str, Masks]:
    """Masks for each network that has an objective; exactly ``round((1 - s) n)`` weights survive in each of them."""
    score = SCORERS[config.name]
    masks = {}
    for name, objective in objectives.items():
        try:
            masks[name] = allocate(score(objective, generator), sparsity, config.scope)
        except UserError as error:
            raise UserError(f"network {name}: {error}") from None
        if config.shuffle_layerwise:
            masks[name] = shuffle_layerwise(masks[name], generator)
    return masks


def apply_masks(mlp: MLP, masks: Masks) -> None:
    """Prune one network: what its masks do not keep becomes exactly zero and stays so."""
    for name, layer in mlp.layers().items():
        layer.set_mask(masks[name])
