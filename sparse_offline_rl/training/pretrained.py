"""Going on from a dense run that has ended: its updates are the first ones of this run, and are not done again.

Batches and noise do not depend on the method of pruning, and a method that begins dense changes nothing before its first change. So what
comes out are the bits of a run that did all updates itself (on the same engine), at the price of those after the dense run's last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparse_offline_rl.config import Config
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.pruning.layer_reports import layer_reports
from sparse_offline_rl.training.appended_csv import read_rows
from sparse_offline_rl.training.checkpoint import Checkpoint
from sparse_offline_rl.training.distillation import Teacher
from sparse_offline_rl.training.finished import FinishedRun, open_finished
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.run_folder import differing_keys, stored_values
from sparse_offline_rl.training.summary import level

# In these sections and keys the two runs may differ: how and when there is pruned, what is only computed otherwise, and what is written.
_FREE = ("prune", "sparsity", "updates", "soft", "engine", "capture", "pretrained", "checkpoint", "log")


@dataclass(frozen=True)
class Pretrained:
    """Where a run stands that goes on from a dense one."""

    checkpoint: Checkpoint  # as the run itself would have saved it after the dense one's last update
    metrics: Sequence[dict[str, str]]  # rows of metrics.csv up to there
    episodes: Sequence[dict[str, str]]  # … and of episodes.csv


def go_on(config: Config, masks: MaskChanges, data: str, teacher: Teacher | None) -> Pretrained | None:
    """What the run that ``pretrained`` names has done of this one; None where it names none.

    ``data`` is the fingerprint of the dataset. Raises UserError if that run is unfinished, was pruned, learned otherwise than this one
    would have, or went past the first change of masks.
    """
    if config.pretrained is None:
        return None
    run = open_finished("pretrained", Path(config.pretrained), config.agent.name, data)
    _require_same_beginning(run, config, masks, teacher)
    dense, update = run.checkpoint, run.checkpoint.update
    progress = dense.progress
    metrics = read_rows(run.folder / "metrics.csv", progress.csv_bytes, progress.csv_sha256)
    episodes = read_rows(run.folder / "episodes.csv", progress.episodes_bytes, progress.episodes_sha256)
    levels = []
    if masks.schedule.ends_level(update):
        reports = [it for name, one in dense.state.networks.items() for it in layer_reports(name, one.topology)]
        levels.append(level(update, reports, progress.evaluation))
    change = masks.change(update, dense.state, masks.start().memory)
    progress = replace(
        progress,
        csv_bytes=0,
        csv_sha256="",
        episodes_bytes=0,
        episodes_sha256="",
        levels=levels,
        config=stored_values(config),
    )
    return Pretrained(replace(dense, state=change.state, memory=change.memory, progress=progress), metrics, episodes)


def _require_same_beginning(run: FinishedRun, config: Config, masks: MaskChanges, teacher: Teacher | None) -> None:
    """Raise UserError unless this run would have done the same updates as ``run`` up to its end."""
    named, update = f"pretrained={run.folder}", run.checkpoint.update
    if run.config.prune.name != "none":
        raise UserError(
            f"{named} was pruned (prune={run.config.prune.name}): give the folder of a run with prune=none."
        )
    if run.config.soft.until:
        raise UserError(
            f"{named} had soft layers (soft.until={run.config.soft.until:g}): give the folder of a run without."
        )
    differing = [it for it in differing_keys(_fixed(run.config), _fixed(config)) if not it.startswith("eval.every:")]
    if differing:
        raise UserError(
            f"{named} is a run of another configuration ({'; '.join(differing)}): give this run the same, or choose another run."
        )
    if run.checkpoint.progress.teacher != ("" if teacher is None else teacher.digest):
        raise UserError(
            f"{named} learned from another teacher than distill.teacher={config.distill.teacher} holds now: choose another run."
        )
    if update >= config.updates:
        raise UserError(
            f"{named} has done {update} updates, which count as this run's first, and updates={config.updates} leaves none: raise updates."
        )
    if config.prune.name != "none" and not masks.schedule.STARTS_DENSE:
        raise UserError(
            f"prune={config.prune.name} prunes before the first update, and {named} has done {update} without: choose a method that "
            "begins dense, e.g. prune=after_training, prune=obs or prune=gradual, or leave pretrained out."
        )
    early = next((it for it in range(update) if masks.due(it)), None)
    if early is not None:
        raise UserError(
            f"this run changes its masks or layers after update {early}, and {named} has done {update} without: let that be after update "
            f"{update} or later (prune.start, prune.every, prune.rewind, updates), or leave pretrained out."
        )


def _fixed(config: Config) -> dict[str, Any]:
    """What of a configuration its first updates depend on."""
    return {key: value for key, value in stored_values(config).items() if key not in _FREE}
