"""Which positions grow when a network is rewired, how many in each layer, and with what value.

To add one: a function and an entry in ``GROWTHS``, ``SHARES`` or ``BIRTHS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from sparse_offline_rl.networks.masked import initial_parameters
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.pruning.allocate import distribute, highest
from sparse_offline_rl.pruning.masks import Masks, count
from sparse_offline_rl.pruning.scores import Scores, gradient, random
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.seeding import cpu_generator
from sparse_offline_rl.types import FloatArray

# What a position is worth, from the network and a number of batches. All positions get a score; those that are kept are not asked.
Growth = Callable[[NetworkView, int, torch.Generator], Scores]
# How many positions grow in each layer, from the network before, what stayed of it, and the scores of growth.
Share = Callable[[NetworkView, Masks, Scores], dict[str, int]]
# Values of a network's grown weights by layer, [out, in]; None: zero.
Birth = Callable[[Topology, torch.Generator], Mapping[str, FloatArray] | None]


def by_gradient(view: NetworkView, batches: int, draws: torch.Generator) -> Scores:
    """Where the loss falls fastest: the largest ``|∂L/∂w|`` on one batch (RigL)."""
    return gradient(view, draws)


def by_momentum(view: NetworkView, batches: int, draws: torch.Generator) -> Scores:
    """The largest ``|mean of ∂L/∂w|`` over several batches.

    SNFS (Dettmers and Zettlemoyer 2019) grows by the momentum of the dense gradient, which would cost a dense backward pass at every
    update. Here it is the mean over ``prune.batches`` batches at the time of the change.
    """
    return {name: it.abs() for name, it in view.gradients(batches).items()}


def by_chance(view: NetworkView, batches: int, draws: torch.Generator) -> Scores:
    """Anywhere, with equal chances (SET, DSR, DeepR)."""
    return random(view, draws)


def own(view: NetworkView, stay: Masks, scores: Scores) -> dict[str, int]:
    """Each layer gets back what it lost."""
    return {name: count(mask) - count(stay[name]) for name, mask in view.kept.items()}


def by_survivors(view: NetworkView, stay: Masks, scores: Scores) -> dict[str, int]:
    """In proportion to the weights that stayed in each layer (DSR; Mostafa and Wang 2019, algorithm 1)."""
    return _deal(view, stay, {name: float(mask.sum()) for name, mask in stay.items()})


def by_mean_score(view: NetworkView, stay: Masks, scores: Scores) -> dict[str, int]:
    """In proportion to the mean score of the weights that each layer had (SNFS: their mean momentum magnitude, before dropping)."""
    means = {name: float(scores[name][mask].mean()) if bool(mask.any()) else 0.0 for name, mask in view.kept.items()}
    return _deal(view, stay, means)


def by_score(view: NetworkView, stay: Masks, scores: Scores) -> dict[str, int]:
    """As many as are among the best positions of the whole network."""
    best = highest(scores, view.topology.kept - stay.kept, {name: ~mask for name, mask in stay.items()})
    return {name: count(mask) for name, mask in best.items()}


def zero(topology: Topology, draws: torch.Generator) -> None:
    """At zero."""


def drawn(topology: Topology, draws: torch.Generator) -> Mapping[str, FloatArray]:
    """As a new network's: uniform in ±1/sqrt(inputs)."""
    generator = cpu_generator(draws)
    return {
        name: initial_parameters(mask.shape[0], mask.shape[1], generator)[0].numpy()
        for name, mask in topology.layers.items()
    }


def _deal(view: NetworkView, stay: Masks, weights: Mapping[str, float]) -> dict[str, int]:
    """What the network lost, dealt in proportion to ``weights``; what a layer has no room for goes to the others."""
    room = [mask.numel() - count(mask) for mask in stay.values()]
    relative = [weights[name] / max(free, 1) for name, free in zip(stay, room, strict=True)]
    return dict(zip(stay, distribute(view.topology.kept - stay.kept, room, relative), strict=True))


GROWTHS: dict[str, Growth] = {"gradient": by_gradient, "momentum": by_momentum, "random": by_chance}
SHARES: dict[str, Share] = {"own": own, "survivors": by_survivors, "mean_score": by_mean_score, "network": by_score}
BIRTHS: dict[str, Birth] = {"zero": zero, "drawn": drawn}
