"""Dynamic sparse training: at times, drop some weights and grow as many others. RigL, SET, SNFS, DSR and DeepR are settings of it.

A change has three parts, each of which a file beside this one offers under names: which weights are dropped (``drop.py``), how many
each layer gets back, and which positions grow (``regrow.py``). The number of weights of a network never changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from sparse_offline_rl.config import Fraction, NonNegative, PositiveFloat, PositiveInt, PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.pruning.allocate import highest_by_layer, require_finite
from sparse_offline_rl.pruning.drop import DROPS, FIRST_NUMBERS, NUMBERS, Drop, by_fraction
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.prune import naming, prune_state
from sparse_offline_rl.pruning.regrow import BIRTHS, GROWTHS, SHARES
from sparse_offline_rl.pruning.schedule import (
    Change,
    MaskSchedule,
    Memory,
    Moment,
    change_range,
    require_choice,
    require_unset,
)
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.pruning.views import NetworkView


class RewireConfig(PruneConfig):
    """Keys of ``prune.schedule=rewire``."""

    schedule: Literal["rewire"] = "rewire"
    every: PositiveInt = 1000
    start: Fraction = 0.0
    until: Fraction = 0.75
    fraction: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.3
    decay: Literal["cosine", "constant"] = "cosine"
    drop: str = "magnitude"
    grow: str = "gradient"
    share: str = "own"
    born: str = "zero"
    batches: PositiveInt = 1
    threshold: PositiveFloat = 1e-3
    shrink: NonNegative = 0.0
    temperature: NonNegative = 0.0


class Rewire(MaskSchedule):
    """Drop and grow every ``prune.every`` updates, between the fractions ``prune.start`` and ``prune.until`` of training."""

    Config: ClassVar[type[PruneConfig]] = RewireConfig
    CHANGES = True
    config: RewireConfig

    def __init__(self, config: RewireConfig, sparsity: float, updates: int) -> None:
        super().__init__(config, sparsity, updates)
        require_choice("prune.drop", config.drop, {**DROPS, **SCORERS})
        require_choice("prune.grow", config.grow, GROWTHS)
        require_choice("prune.share", config.share, SHARES)
        require_choice("prune.born", config.born, BIRTHS)
        if config.grow != "momentum":
            require_unset(config, "batches", f"prune.grow={config.grow}")
        if config.drop != "threshold":
            require_unset(config, "threshold", f"prune.drop={config.drop}")
        if config.drop == "sign":
            for key in ("fraction", "decay"):
                require_unset(config, key, "prune.drop=sign")
        if config.share == "mean_score" and config.grow == "random":
            raise UserError(
                "prune.share=mean_score deals by the scores of the positions that grow, which are random numbers with prune.grow=random: "
                "set prune.grow=gradient or prune.grow=momentum."
            )
        fades = config.decay == "cosine" and config.drop != "sign"
        self._first, self._last = change_range(config.every, config.start, config.until, updates, fades)
        self._drop: Drop = DROPS[config.drop] if config.drop in DROPS else by_fraction(SCORERS[config.drop])

    @property
    def remembers_the_beginning(self) -> bool:
        """Whether numbers are remembered before the first change."""
        return self.config.drop in FIRST_NUMBERS

    def due(self, update: int) -> bool:
        """As the base says."""
        return self._first <= update <= self._last and update % self.config.every == 0

    def fraction(self, update: int) -> float:
        """The part of the weights that is dropped: with ``cosine``, ``α/2 (1 + cos(π t / T_end))`` (Evci et al. 2020, section 3)."""
        config = self.config
        if config.decay == "constant":
            return config.fraction
        return config.fraction / 2 * (1 + math.cos(math.pi * update / (config.until * self.updates)))

    def start(self, moment: Moment) -> AgentState:
        """As the base says. Raises UserError, too, if ``prune.fraction`` is less than one weight of every layer."""
        state = super().start(moment)
        most = max(np.count_nonzero(mask) for it in state.networks.values() for mask in it.topology.stacked)
        if self.config.drop not in DROPS and int(self.config.fraction * most) == 0:
            raise UserError(
                f"prune.fraction={self.config.fraction:g} leaves the masks as they are: no layer keeps more than {most} weights, and so small "
                "a fraction of them is less than one. Raise it."
            )
        return state

    def remembered(self, moment: Moment) -> Memory:
        """As the base says."""
        first = FIRST_NUMBERS.get(self.config.drop)
        if first is None:
            return Memory()
        return Memory(
            {f"{name}/{key}": value for name, view in moment.views().items() for key, value in first(view).items()}
        )

    def change(self, moment: Moment) -> Change:
        """Drop, then grow."""
        config = self.config
        if config.shrink or config.temperature:
            moment = replace(moment, state=self._diffused(moment))
        fraction, numbers = self.fraction(moment.update), dict(moment.memory.numbers)
        masks: dict[str, Masks] = {}
        for name, view in moment.views().items():
            remembered = {key.partition("/")[2]: it for key, it in numbers.items() if key.partition("/")[0] == name}
            with naming(name):
                stay, news = self._drop(view, fraction, remembered, config, moment.draws)
                masks[name] = self._grown(view, stay, moment.draws)
            numbers |= {f"{name}/{key}": value for key, value in news.items()}
        networks = moment.state.networks.items()
        born = {name: BIRTHS[config.born](network.topology, moment.draws) for name, network in networks}
        state = prune_state(moment.state, masks, moment.twins, born)
        return Change(state, replace(moment.memory, numbers=numbers))

    def numbers(self, update: int, networks: Mapping[str, Topology]) -> Mapping[str, tuple[int, ...]]:
        """As the base says."""
        shapes = NUMBERS.get(self.config.drop)
        if shapes is None or (update < self._first and not self.remembers_the_beginning):
            return {}
        return {f"{name}/{key}": shape for name, it in networks.items() for key, shape in shapes(it).items()}

    def _grown(self, view: NetworkView, stay: Masks, draws: torch.Generator) -> Masks:
        """``stay`` and as many other positions as were dropped; one that was dropped just now may come back, with its value."""
        scores = GROWTHS[self.config.grow](view, self.config.batches, draws)
        require_finite(scores)
        counts = SHARES[self.config.share](view, stay, scores)
        grown = highest_by_layer(scores, counts, {name: ~mask for name, mask in stay.items()})
        return Masks({name: mask | grown[name] for name, mask in stay.items()})

    def _diffused(self, moment: Moment) -> AgentState:
        """DeepR's shrinking and noise (Bellec et al. 2018, equation 4) for the updates since the last change, at once.

        The authors add them after every step of plain SGD, by its learning rate η. Here ``shrink`` is η α and ``temperature`` is
        η T, a step each: |w| falls by ``steps · shrink``, and noise of variance ``2 · steps · temperature`` is added.
        """
        config, networks = self.config, dict(moment.state.networks)
        for name, network in networks.items():
            weights = np.zeros(network.topology.size, bool)
            for span in network.topology.spans.values():
                weights[span.values] = True
            values = network.values.copy()
            noise = torch.randn(int(weights.sum()), generator=moment.draws, device=moment.draws.device).cpu().numpy()
            old = values[weights]
            moved = old - np.sign(old) * np.float32(config.every * config.shrink)
            values[weights] = moved + noise * np.float32(math.sqrt(2 * config.every * config.temperature))
            networks[name] = replace(network, values=values)
        return replace(moment.state, networks=networks)
