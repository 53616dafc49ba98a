"""Controls without which no claim about a pruner holds (Frankle et al. 2021, "Missing the Mark")."""

from __future__ import annotations

import torch

from sparse_offline_rl.pruning.masks import Masks


def shuffle_layerwise(masks: Masks, generator: torch.Generator) -> Masks:
    """Keep each layer's number of survivors and draw their positions anew."""
    shuffled = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), generator=generator, device=generator.device).to(mask.device)
        shuffled[name] = mask.flatten()[order].view(mask.shape)
    return Masks(shuffled)
