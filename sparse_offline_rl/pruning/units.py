"""Structured masks: whole hidden units go, with all that they read and all that reads them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.pruning.allocate import survivors
from sparse_offline_rl.pruning.masks import Masks


def unit_masks(topology: Topology, scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Masks of a network without the units of lowest score; as many weights survive as whole units can bring it to the target.

    Parameters
    ----------
    scores: hidden layer -> scores ``[out]`` of its units, comparable across layers; of equal ones the last goes first.
    sparsity: fraction of the weights to remove. The count of survivors is the one that is nearest to ``round((1 - s) n)``.

    At least one unit of each layer stays. Raises UserError for a sparsity that leaves no weight.
    """
    target = survivors(topology.total, sparsity)
    units = {name: torch.ones(len(topology.hidden[name]), dtype=torch.bool) for name in topology.hidden}
    best, nearest = {name: it.clone() for name, it in units.items()}, topology.total - target
    for name, unit in _order(scores):
        if int(units[name].sum()) == 1:
            continue
        units[name][unit] = False
        distance = _kept(topology, units) - target
        if abs(distance) < abs(nearest):
            best, nearest = {key: it.clone() for key, it in units.items()}, distance
        if distance <= 0:
            break
    return _masks(topology, best)


def _order(scores: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """Units from the lowest score to the highest."""
    units = [(score, name, i) for name, it in scores.items() for i, score in enumerate(it.tolist())]
    order = sorted(range(len(units)), key=lambda place: (units[place][0], -place))
    return [units[place][1:] for place in order]


def _kept(topology: Topology, units: Mapping[str, Tensor]) -> int:
    widths = [topology.in_features, *(int(it.sum()) for it in units.values())]
    inner = sum(inputs * outputs for inputs, outputs in itertools.pairwise(widths))
    return inner + widths[-1] * sum(len(mask) for mask in topology.heads.values())


def _masks(topology: Topology, units: Mapping[str, Tensor]) -> Masks:
    read = torch.ones(topology.in_features, dtype=torch.bool)
    masks = {}
    for name in topology.hidden:
        masks[name] = units[name][:, None] & read[None, :]
        read = units[name]
    for name, mask in topology.heads.items():
        masks[name] = read[None, :].expand(len(mask), -1).clone()
    return Masks(masks)
