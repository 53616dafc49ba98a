"""Pruning while training: from dense to the target along a cubic curve (Zhu and Gupta 2017)."""

from __future__ import annotations

from typing import ClassVar, Literal

from sparse_offline_rl.config import Fraction, PositiveInt, PruneConfig
from sparse_offline_rl.pruning.prune import find_masks, prune_state
from sparse_offline_rl.pruning.schedule import Change, MaskSchedule, Moment, change_range


class GradualConfig(PruneConfig):
    """Keys of ``prune.schedule=gradual``."""

    schedule: Literal["gradual"] = "gradual"
    every: PositiveInt = 1000
    start: Fraction = 0.0
    until: Fraction = 0.75


class Gradual(MaskSchedule):
    """Every ``prune.every`` updates the lowest scores go, until the target is reached; a pruned weight stays out."""

    Config: ClassVar[type[PruneConfig]] = GradualConfig
    CHANGES = True
    STARTS_DENSE = True
    config: GradualConfig

    def __init__(self, config: GradualConfig, sparsity: float, updates: int) -> None:
        super().__init__(config, sparsity, updates)
        self._first, self._last = change_range(config.every, config.start, config.until, updates)

    @property
    def found(self) -> int:
        """As the base says."""
        return self._last

    def due(self, update: int) -> bool:
        """As the base says."""
        return self._first <= update <= self._last and update % self.config.every == 0

    def sparsity_after(self, update: int) -> float:
        """``s (1 - (1 - (t - t0) / (t1 - t0))³)``, where t0 is one step before the first change and t1 is the last (equation 1)."""
        begin = self._first - self.config.every
        left = 1 - (update - begin) / (self._last - begin)
        return self.sparsity * (1 - left**3) if update < self._last else self.sparsity

    def change(self, moment: Moment) -> Change:
        """Prune to the sparsity that is due."""
        sparsity = self.sparsity_after(moment.update)
        masks = find_masks(moment.views(), self.config, self.score, sparsity, moment.draws, again=False)
        return Change(prune_state(moment.state, masks, moment.twins), moment.memory)
