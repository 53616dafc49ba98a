"""Which weights stay when a network is rewired.

To add a rule: a function of this shape, an entry in ``DROPS``, one in ``NUMBERS`` if it remembers any, and one in ``FIRST_NUMBERS``
if it does so from the beginning of training on and not from its first change on.

Any score is a rule, too: of each layer the fraction of its weights that score lowest are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch

from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.pruning.allocate import highest_by_layer
from sparse_offline_rl.pruning.masks import Masks, count
from sparse_offline_rl.pruning.scores import Scorer
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.types import FloatArray

Numbers = Mapping[str, FloatArray]  # what a rule remembers of this network from change to change


class Settings(Protocol):
    """The keys that rules read."""

    @property
    def threshold(self) -> float:
        """DSR's first one."""


Drop = Callable[[NetworkView, float, Numbers, Settings, torch.Generator], tuple[Masks, Numbers]]


def by_fraction(score: Scorer) -> Drop:
    """In each layer the fraction of the kept weights with the lowest ``score`` is dropped, rounded down."""

    def drop(
        view: NetworkView, fraction: float, numbers: Numbers, settings: Settings, draws: torch.Generator
    ) -> tuple[Masks, Numbers]:
        there = {name: count(mask) for name, mask in view.kept.items()}
        counts = {name: number - int(fraction * number) for name, number in there.items()}
        return highest_by_layer(score(view, draws), counts, view.kept), numbers

    return drop


def below_threshold(
    view: NetworkView, fraction: float, numbers: Numbers, settings: Settings, draws: torch.Generator
) -> tuple[Masks, Numbers]:
    """All weights smaller than one threshold for the whole network are dropped (DSR; Mostafa and Wang 2019, algorithm 1).

    The threshold doubles when fewer than 90 % of ``fraction`` of the weights were dropped, and halves when more than 110 % were.
    """
    threshold = float(numbers["threshold"][0]) if "threshold" in numbers else settings.threshold
    stay = Masks({name: mask & (view.values[name].abs() >= threshold) for name, mask in view.kept.items()})
    dropped, wanted = view.topology.kept - stay.kept, fraction * view.topology.kept
    if dropped < 0.9 * wanted:
        threshold *= 2
    elif dropped > 1.1 * wanted:
        threshold = max(threshold / 2, float(np.finfo(np.float32).tiny))  # from zero it could never double again
    return stay, {"threshold": np.array([threshold], np.float32)}


def sign_flipped(
    view: NetworkView, fraction: float, numbers: Numbers, settings: Settings, draws: torch.Generator
) -> tuple[Masks, Numbers]:
    """A weight whose sign is no longer the one that it was given is dropped (DeepR; Bellec et al. 2018, section 2).

    Those that are there when training begins have the sign of then (:func:`signs`); a position that grows is given a random one.
    """
    new: dict[str, FloatArray] = {}
    stay = {}
    for name, mask in view.kept.items():
        value, given = view.values[name], torch.from_numpy(numbers[name])
        stay[name] = mask & (given * value >= 0)
        random = torch.randint(0, 2, mask.shape, generator=draws, device=draws.device).cpu().float() * 2 - 1
        new[name] = torch.where(stay[name], given, random).numpy()
    return Masks(stay), new


def signs(view: NetworkView) -> Numbers:
    """Of each layer the signs of its weights ``[out, in]``, 0 where none is kept."""
    return {name: value.sign().numpy() for name, value in view.values.items()}


DROPS: dict[str, Drop] = {"threshold": below_threshold, "sign": sign_flipped}
# Shapes of the numbers that a rule remembers of a network, by their names.
NUMBERS: dict[str, Callable[[Topology], Mapping[str, tuple[int, ...]]]] = {
    "threshold": lambda topology: {"threshold": (1,)},
    "sign": lambda topology: {name: mask.shape for name, mask in topology.layers.items()},
}
# What a rule remembers of a network when training begins; the others remember something from their first change on.
FIRST_NUMBERS: dict[str, Callable[[NetworkView], Numbers]] = {"sign": signs}
