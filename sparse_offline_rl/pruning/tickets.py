"""Train, prune, go back, train again: lottery tickets (Frankle and Carbin 2019), their controls, and pruning after training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sparse_offline_rl.config import PositiveInt, PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.pruning.controls import shuffle_layerwise
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.prune import copy_twins, find_masks, prune_state, redraw
from sparse_offline_rl.pruning.schedule import Change, MaskSchedule, Memory, Moment, require_unset
from sparse_offline_rl.seeding import cpu_generator


class TicketsConfig(PruneConfig):
    """Keys of ``prune.schedule=tickets``."""

    schedule: Literal["tickets"] = "tickets"
    levels: PositiveInt | None = None
    fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.2
    every: PositiveInt | None = None
    rewind: Annotated[int, Field(ge=0)] = 0
    ticket: Literal["rewind", "retain", "reinit", "random"] = "rewind"


class Tickets(MaskSchedule):
    """Levels of ``prune.every`` updates; at the end of each, the lowest scores go and the survivors go back to earlier values."""

    Config: ClassVar[type[PruneConfig]] = TicketsConfig
    CHANGES = True
    STARTS_DENSE = True
    LEVELS = True
    config: TicketsConfig

    def __init__(self, config: TicketsConfig, sparsity: float, updates: int) -> None:
        super().__init__(config, sparsity, updates)
        if config.levels is not None:
            require_unset(config, "fraction", f"prune.levels={config.levels}")
        needed = max(math.ceil(math.log(1 - sparsity) / math.log(1 - config.fraction) - 1e-9), 1)
        self.levels = config.levels or needed
        self.every = config.every or updates // (self.levels + 1)
        if self.levels * self.every >= updates or self.every < 1:
            lower = [f"prune.{key}" for key in ("every", "levels") if getattr(config, key) is not None]
            remedy = f"lower {' or '.join(lower)}" if lower else "set prune.levels, or raise prune.fraction"
            raise UserError(
                f"{self.levels} levels of {max(self.every, 1)} updates leave nothing of updates={updates} for the last ticket: "
                f"train longer, or {remedy}."
            )
        if config.rewind and config.ticket in ("retain", "reinit"):
            raise UserError(
                f"prune.rewind={config.rewind} has no meaning with prune.ticket={config.ticket}, which goes back to no earlier "
                "weights: set prune.rewind=0, or prune.ticket=rewind."
            )
        if config.rewind >= self.every:
            raise UserError(
                f"prune.rewind={config.rewind} must lie before the end of the first level, update {self.every}."
            )

    @property
    def found(self) -> int:
        """As the base says."""
        return self.levels * self.every

    def due(self, update: int) -> bool:
        """As the base says."""
        return self.ends_level(update) or 0 < update == self.config.rewind

    def ends_level(self, update: int) -> bool:
        """As the base says."""
        return 0 < update <= self.levels * self.every and update % self.every == 0

    def remembered(self, moment: Moment) -> Memory:
        """The state of the beginning, if that is what survivors go back to."""
        return Memory(rewind=moment.state if self.goes_back(0) else None)

    def change(self, moment: Moment) -> Change:
        """The end of a level, or the update to rewind to."""
        if not self.ends_level(moment.update):
            return Change(moment.state, replace(moment.memory, rewind=moment.state))
        masks = find_masks(
            moment.views(), self.config, self.score, self.sparsity_after(moment.update), moment.draws, again=False
        )
        if self.config.ticket == "random":
            masks = {name: shuffle_layerwise(mask, moment.draws) for name, mask in masks.items()}
        return Change(self._ticket(moment, masks), moment.memory)

    def sparsity_after(self, update: int) -> float:
        """``prune.fraction`` of what is left goes at each level; with ``prune.levels``, equal fractions; the last hits the target."""
        level = update // self.every
        if level == self.levels:
            return self.sparsity
        density = 1 - self.config.fraction if self.config.levels is None else (1 - self.sparsity) ** (1 / self.levels)
        return 1 - density**level

    def goes_back(self, update: int) -> bool:
        """As the base says."""
        return self.config.ticket != "retain" and update >= self.config.rewind

    def _ticket(self, moment: Moment, masks: Mapping[str, Masks]) -> AgentState:
        """What is trained next. Going back takes everything back: values, moments, targets, and the optimisers' steps."""
        begin = moment.memory.rewind
        if begin is None:  # prune.ticket=retain
            return prune_state(moment.state, masks, moment.twins)
        state = prune_state(begin, masks, moment.twins)
        if self.config.ticket != "reinit":
            return state
        generator = cpu_generator(moment.draws)
        return copy_twins(redraw(state, lambda network: generator), moment.twins)
