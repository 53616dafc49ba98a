"""The pruning stage: score every network against its own objective, keep the best weights, drop the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

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


def apply_masks(
    mlps: Mapping[str, nn.Module], masks: Mapping[str, Masks], reinit: bool, generator: torch.Generator
) -> None:
    """Prune the networks; with ``reinit`` all weights are drawn anew first (a control: same masks, other weights)."""
    for name, mlp in mlps.items():
        if not isinstance(mlp, MLP):
            raise TypeError("networks are pruned before an engine takes them")
        for layer_name, layer in mlp.layers().items():
            if reinit:
                layer.reset_parameters(generator)
            if name in masks:
                layer.set_mask(masks[name][layer_name])
