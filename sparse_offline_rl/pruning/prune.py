"""The pruning stage: score every network against its own objective, keep the best weights, drop the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.masked import initial_parameters
from sparse_offline_rl.networks.state import AgentState, with_masks, with_values
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


def prune_state(state: AgentState, masks: Mapping[str, Masks], twins: Mapping[str, str], rule: str) -> AgentState:
    """``state`` with ``masks`` (network -> masks): what they do not keep is gone, in targets and moments, too.

    ``twins`` maps a network to the one that it follows by ``rule``: ``copy`` (its masks and its weights: Algorithm 1 to the letter),
    ``copy_mask`` (its masks on own weights) or ``independent`` (own masks, in ``masks``).
    """
    networks = dict(state.networks)
    for name, found in masks.items():
        networks[name] = with_masks(networks[name], found.arrays())
    for name, first in twins.items():
        if name not in networks or rule == "independent":
            continue
        if rule == "copy":
            networks[name] = networks[first]
        else:
            networks[name] = with_masks(networks[name], networks[first].topology.layers)
    return replace(state, networks=networks)


def redraw(state: AgentState, stream: Callable[[str], torch.Generator]) -> AgentState:
    """A control: new initial weights under the same masks; ``stream`` gives the generator for each network's name."""
    networks = {}
    for name, network in state.networks.items():
        generator, arrays = stream(name), []
        for mask in network.topology.layers.values():
            outputs, inputs = mask.shape
            arrays += [tensor.numpy() for tensor in initial_parameters(outputs, inputs, generator)]
        networks[name] = with_values(network, network.topology.pack(arrays))
    return replace(state, networks=networks)
