"""Learn masks, make them exact, rewire them while the rest of training goes on: the end-to-end pruning pipeline with RigL behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.pruning.learned.config import LearnedConfig
from sparse_offline_rl.pruning.learned.schedule import Learned
from sparse_offline_rl.pruning.rewire import Rewire, RewireConfig
from sparse_offline_rl.pruning.schedule import Change, Moment


class PipelineConfig(LearnedConfig):
    """Keys of ``prune.schedule=pipeline``: those of ``learned``, and under ``then`` those of ``rewire``."""

    schedule: Literal["pipeline"] = "pipeline"  # type: ignore[assignment]
    then: RewireConfig


class Pipeline(Learned):
    """As ``prune.schedule=learned`` until masks are exact; from ``prune.then.start`` on weights are dropped and grown."""

    Config: ClassVar[type[PruneConfig]] = PipelineConfig
    config: PipelineConfig

    def __init__(self, config: PipelineConfig, sparsity: float, updates: int) -> None:
        super().__init__(config, sparsity, updates)
        if config.then.start < config.until:
            raise UserError(
                f"prune.then.start={config.then.start:g} lies before prune.until={config.until:g}, where the masks that it changes are "
                "found: raise the one, or lower the other."
            )
        try:
            self._then = Rewire(config.then, sparsity, updates)
        except UserError as error:
            raise UserError(str(error).replace("prune.", "prune.then.")) from None
        changes = (update for update in range(self.last + 1, updates) if self._then.due(update))
        self._begins = next(changes, updates)
        if self._begins == updates:
            raise UserError(
                f"prune.then.every={config.then.every} leaves the masks as they are: they are found after update {self.last}, and no change "
                f"is due between that and prune.then.until={config.then.until:g} of updates={updates}. Lower prune.then.every, or train longer."
            )

    def due(self, update: int) -> bool:
        """As the base says."""
        return super().due(update) or (update > self.last and self._then.due(update))

    def batch_sizes(self) -> dict[str, int]:
        """As the base says."""
        return {**super().batch_sizes(), "prune.then.batch_size": self.config.then.batch_size}

    def batch_size(self, update: int) -> int:
        """As the base says."""
        return super().batch_size(update) if update <= self.last else self.config.then.batch_size

    def numbers(self, update: int, networks: Mapping[str, Topology]) -> Mapping[str, tuple[int, ...]]:
        """As the base says."""
        first = self.last if self._then.remembers_the_beginning else self._begins
        then = self._then.numbers(update, networks) if update >= first else {}
        return {**super().numbers(update, networks), **then}

    def change(self, moment: Moment) -> Change:
        """As the base says, and then as ``rewire`` does, which begins with the masks that are found."""
        if moment.update > self.last:
            return self._then.change(moment)
        change = super().change(moment)
        if moment.update < self.last:
            return change
        first = self._then.remembered(replace(moment, state=change.state)).numbers
        return Change(change.state, replace(change.memory, numbers={**change.memory.numbers, **first}))
