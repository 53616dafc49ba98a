"""Schedules by the name that ``prune.schedule`` gives them."""

from __future__ import annotations

from typing import Any

from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.pruning.gradual import Gradual
from sparse_offline_rl.pruning.hashed import Hashed
from sparse_offline_rl.pruning.learned.pipeline import Pipeline
from sparse_offline_rl.pruning.learned.schedule import Learned
from sparse_offline_rl.pruning.rewire import Rewire
from sparse_offline_rl.pruning.schedule import MaskSchedule
from sparse_offline_rl.pruning.surgery import Surgery
from sparse_offline_rl.pruning.tickets import Tickets

SCHEDULES: dict[str, type[MaskSchedule]] = {
    "once": MaskSchedule,
    "rewire": Rewire,
    "gradual": Gradual,
    "tickets": Tickets,
    "learned": Learned,
    "pipeline": Pipeline,
    "surgery": Surgery,
    "hashed": Hashed,
}


def prune_configs() -> dict[str, type[PruneConfig]]:
    """The configuration model of each schedule, by its name."""
    return {name: schedule.Config for name, schedule in SCHEDULES.items()}


def mask_schedule(config: PruneConfig, sparsity: float, updates: int) -> MaskSchedule:
    """The schedule that ``config`` asks for. Raises UserError for settings that do not fit together."""
    kind: Any = SCHEDULES[config.schedule]
    schedule: MaskSchedule = kind(config, sparsity, updates)
    if schedule.found >= updates:
        raise UserError(
            f"prune={config.name} would reach sparsity={sparsity:g} after update {schedule.found}, and updates={updates} end before it: "
            "train longer, or let masks change earlier."
        )
    return schedule
