"""The pruning stage: score every network against its own objective, keep the best weights, drop the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.masked import initial_parameters
from sparse_offline_rl.networks.state import AgentState, with_masks, with_values
from sparse_offline_rl.pruning.allocate import allocate
from sparse_offline_rl.pruning.controls import shuffle_layerwise
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.types import FloatArray


@dataclass(frozen=True)
class Twins:
    """Which network follows which, and how: ``copy`` (masks and, before training, weights: Algorithm 1 to the letter),
    ``copy_mask`` (masks on own weights) or ``independent`` (own masks).
    """

    pairs: Mapping[str, str]  # network -> the one that it follows
    rule: str

    def follows(self, name: str) -> bool:
        """Whether the masks of the network ``name`` are those of another."""
        return name in self.pairs and self.rule != "independent"


def find_masks(
    views: Mapping[str, NetworkView],
    config: PruneConfig,
    score: str,
    sparsity: float,
    generator: torch.Generator,
    again: bool = True,
) -> dict[str, Masks]:
    """Masks for each of ``views``; exactly ``round((1 - s) n)`` weights survive in each network.

    ``again`` says whether a pruned weight may be kept again.
    """
    masks = {}
    for name, view in views.items():
        among = None if again or not view.pruned else view.kept
        with naming(name):
            masks[name] = allocate(SCORERS[score](view, generator), sparsity, config.scope, among)
        if config.shuffle_layerwise:
            masks[name] = shuffle_layerwise(masks[name], generator)
    return masks


@contextmanager
def naming(network: str) -> Iterator[None]:
    """Let a UserError of the block say which network it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"network {network}: {error}") from None


def prune_state(
    state: AgentState,
    masks: Mapping[str, Masks],
    twins: Twins,
    born: Mapping[str, Mapping[str, FloatArray] | None] | None = None,
) -> AgentState:
    """``state`` with ``masks`` (network -> masks), and with those of their twins.

    What they do not keep is gone, in targets and moments, too; what they keep anew starts at zero, or at its value in ``born``
    (network -> layer -> ``[out, in]``).
    """
    networks, born = dict(state.networks), born or {}
    for name, found in masks.items():
        networks[name] = with_masks(networks[name], found.arrays(), born.get(name))
    for name, first in twins.pairs.items():
        if name in networks and twins.follows(name):
            networks[name] = with_masks(networks[name], networks[first].topology.layers, born.get(name))
    return replace(state, networks=networks)


def copy_twins(state: AgentState, twins: Twins) -> AgentState:
    """``state`` with the weights of each follower those of the network that it follows, where the rule is ``copy``."""
    if twins.rule != "copy":
        return state
    copies = {name: state.networks[first] for name, first in twins.pairs.items() if name in state.networks}
    return replace(state, networks={**state.networks, **copies})


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
