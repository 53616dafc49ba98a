"""Pruning of whole hidden units: what each is worth, and the masks without those that are worth least.

To add a score: a function of this shape and an entry in ``UNIT_SCORES``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.pruning.allocate import require_finite, survivors
from sparse_offline_rl.pruning.curvature import LeastSquares
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.prune import naming
from sparse_offline_rl.pruning.views import NetworkView

UnitScores = dict[str, Tensor]  # name of a hidden layer -> [units], higher = keep
UnitScorer = Callable[[NetworkView, torch.Generator], UnitScores]


def unit_l1(view: NetworkView, generator: torch.Generator) -> UnitScores:
    """Mean ``|w|`` of the weights that a unit reads with (the L1 norm of Li et al. 2017): a mean, so that layers compare."""
    return {name: view.values[name].abs().sum(1) / view.kept[name].sum(1).clamp(min=1) for name in view.topology.hidden}


def unit_l2(view: NetworkView, generator: torch.Generator) -> UnitScores:
    """Root of the mean ``w²`` of the weights that a unit reads with: its L2 norm, so that layers compare."""
    squares = {name: view.values[name].square().sum(1) for name in view.topology.hidden}
    return {name: (it / view.kept[name].sum(1).clamp(min=1)).sqrt() for name, it in squares.items()}


def kron_obd(view: NetworkView, generator: torch.Generator) -> UnitScores:
    """``½ G_jj wᵀ A w`` of the weights and the bias w that unit j reads with (Kron-OBD; Wang et al. 2019).

    What the loss gains, to second order, when they all go: the form of the paper, with all of A. The authors' code has its
    diagonal only, ``Σ_i w_i² A_ii``, as if inputs had no correlation.
    """
    curvature = view.curvature(generator)
    return {name: curvature.outputs[name].diagonal() * cost for name, cost in _quadratic(view, generator).items()}


def kron_obs(view: NetworkView, generator: torch.Generator) -> UnitScores:
    """``½ wᵀ A w / [G⁻¹]_jj``: as :func:`kron_obd`, if the other units of the layer take over what they can (Kron-OBS)."""
    curvature, scores = view.curvature(generator), {}
    for name, cost in _quadratic(view, generator).items():
        every, none = torch.arange(len(cost)), torch.arange(0)
        scores[name] = LeastSquares(curvature.damped_outputs(name)).costs(every, none) * cost
    return scores


def _quadratic(view: NetworkView, generator: torch.Generator) -> UnitScores:
    """``½ wᵀ A w``: half the second moment of what each unit gives before ReLU."""
    curvature, costs = view.curvature(generator), {}
    for name in view.topology.hidden:
        weights = torch.cat([view.values[name], view.biases[name][:, None]], 1).double()
        costs[name] = 0.5 * (weights @ curvature.inputs[name] * weights).sum(1)
    return costs


UNIT_SCORES: dict[str, UnitScorer] = {
    "kron_obd": kron_obd,
    "kron_obs": kron_obs,
    "unit_l1": unit_l1,
    "unit_l2": unit_l2,
}


def require_units_of(state: AgentState, sparsity: float) -> None:
    """As :func:`require_units`, for each network of ``state``; the error names it."""
    for name, network in state.networks.items():
        with naming(name):
            require_units(network.topology, sparsity)


def require_units(topology: Topology, sparsity: float) -> None:
    """Raise UserError if ``sparsity`` would leave less than a network of one unit in each hidden layer has."""
    smallest = topology.in_features + len(topology.hidden) - 1 + sum(len(mask) for mask in topology.heads.values())
    if survivors(topology.total, sparsity) < smallest:
        raise UserError(
            f"sparsity={sparsity:g} would leave fewer weights than the {smallest} of one unit in each hidden layer: choose a "
            f"sparsity of at most {1 - smallest / topology.total:.6g}, or a method that prunes single weights, e.g. prune=obs."
        )


def without_units(topology: Topology, scores: UnitScores, sparsity: float, scope: str = "network") -> Masks:
    """The masks without the units of the lowest ``scores`` and all weights from and to them.

    As many units go as bring the number of weights nearest to ``round((1 - s) n)``; of two equally near ones the larger. Each layer
    keeps at least one unit. ``scope``: ``network`` (one order over all layers) or ``layer`` (the same fraction of each layer's units).
    Raises UserError for scores that are not finite.
    """
    require_finite(scores)
    masks = {name: mask.copy() for name, mask in topology.layers.items()}
    hidden = list(topology.hidden)
    readers = {name: [after] for name, after in itertools.pairwise(hidden)} | {hidden[-1]: [*topology.heads]}
    parts = {
        name: [(masks[name][unit], *(masks[it][:, unit] for it in readers[name])) for unit in range(len(masks[name]))]
        for name in hidden
    }
    there = {name: [unit for unit, it in enumerate(parts[name]) if any(map(np.any, it))] for name in hidden}
    kept, wanted = topology.kept, survivors(topology.total, sparsity)
    for _, name, unit in sorted(ranks(scores, there, scope)):
        if len(there[name]) == 1:
            continue
        freed = sum(int(np.count_nonzero(part)) for part in parts[name][unit])
        if wanted - (kept - freed) >= kept - wanted:
            break
        for part in parts[name][unit]:
            part[:] = False
        there[name].remove(unit)
        kept -= freed
    return Masks({name: torch.from_numpy(mask) for name, mask in masks.items()})


def ranks(scores: UnitScores, there: dict[str, list[int]], scope: str) -> list[tuple[float, str, int]]:
    """What those units that are ``there`` are ordered by (their score, or with ``scope`` ``layer`` their place in their own layer), the
    layer and the number of each.
    """
    found: list[tuple[float, str, int]] = []
    for name, units in there.items():
        ordered = sorted((float(scores[name][unit]), unit) for unit in units)
        found += [
            (place / len(units) if scope == "layer" else score, name, unit)
            for place, (score, unit) in enumerate(ordered)
        ]
    return found
