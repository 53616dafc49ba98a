"""Going on from a dense run that has ended: its updates are the first ones of this run, and are not done again.

Batches and noise do not depend on the method of pruning, and a method that begins dense changes nothing before its first change. So what
comes out are the bits of a run that did all updates itself, at the price of those after the dense run's last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.state import AgentState, shape_of
from sparse_offline_rl.training.appended_csv import read_rows
from sparse_offline_rl.training.checkpoint import Checkpoint
from sparse_offline_rl.training.distillation import Teacher
from sparse_offline_rl.training.finished import FinishedRun, open_finished
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.run_folder import differing_keys, stored_values
from sparse_offline_rl.types import Spaces

# In these sections and keys the two runs may differ: how and when there is pruned, what is only computed otherwise, and what is written.
_FREE = ("prune", "sparsity", "updates", "soft", "engine", "capture", "pretrained", "checkpoint", "log")


@dataclass(frozen=True)
class Logs:
    """What a dense run logged: rows of its ``metrics.csv`` and ``episodes.csv``, the last ones of its last update."""

    metrics: Sequence[dict[str, str]]
    episodes: Sequence[dict[str, str]]


@dataclass(frozen=True)
class Pretrained:
    """Where a run begins that goes on from a dense one."""

    checkpoint: Checkpoint  # of the dense run, with the memory that this run's schedule begins with
    logs: Logs


def go_on(
    config: Config, masks: MaskChanges, spaces: Spaces, buffer: ReplayBuffer, teacher: Teacher | None
) -> Pretrained | None:
    """What the run that ``pretrained`` names has done of this one; None where it names none.

    Raises UserError if that run is unfinished, was pruned, learned otherwise than this one would have, or went past the first change of
    masks.
    """
    if config.pretrained is None:
        return None
    run = open_finished("pretrained", config.pretrained, config.agent.name, buffer.fingerprint)
    _require_alike(run, config, teacher)
    _require_unchanged(run, config, masks)
    begin = masks.start()
    if shape_of(run.checkpoint.state) != shape_of(begin.state):
        raise UserError(f"pretrained={run.folder} has other networks than this run: choose another run.")
    if not _same_weights(begin.state, MaskChanges(run.config, spaces, buffer).start().state):
        raise UserError(
            f"pretrained={run.folder} began with other weights than this run would (agent.twin={config.agent.twin}): set "
            "agent.twin=copy_mask for both, or leave pretrained out."
        )
    progress = run.checkpoint.progress
    logs = Logs(
        read_rows(run.folder / "metrics.csv", progress.csv_bytes, progress.csv_sha256),
        read_rows(run.folder / "episodes.csv", progress.episodes_bytes, progress.episodes_sha256),
    )
    progress = replace(
        progress, csv_bytes=0, csv_sha256="", episodes_bytes=0, episodes_sha256="", config=stored_values(config)
    )
    checkpoint = replace(run.checkpoint, memory=begin.memory, progress=progress)
    return Pretrained(checkpoint, logs)


def _require_alike(run: FinishedRun, config: Config, teacher: Teacher | None) -> None:
    """Raise UserError unless this run would have learned as ``run`` did before any mask changes."""
    named = f"pretrained={run.folder}"
    if run.config.prune.name != "none":
        raise UserError(
            f"{named} was pruned (prune={run.config.prune.name}): give the folder of a run with prune=none."
        )
    if run.config.soft.until:
        raise UserError(
            f"{named} had soft layers (soft.until={run.config.soft.until:g}): give the folder of a run without."
        )
    differing = differing_keys(_fixed(run.config), _fixed(config))
    if differing:
        raise UserError(
            f"{named} is a run of another configuration ({'; '.join(differing)}): give this run the same, or choose another run."
        )
    if run.checkpoint.progress.teacher != ("" if teacher is None else teacher.digest):
        raise UserError(
            f"{named} learned from another teacher than distill.teacher={config.distill.teacher} holds now: choose another run."
        )


def _require_unchanged(run: FinishedRun, config: Config, masks: MaskChanges) -> None:
    """Raise UserError unless this run leaves its networks as they are until the end of ``run``, and goes on after that."""
    named, update = f"pretrained={run.folder}", run.checkpoint.update
    if update >= config.updates:
        raise UserError(
            f"{named} has done {update} updates, which count as this run's first, and updates={config.updates} leaves none: raise updates."
        )
    if config.prune.name == "none" and config.soft.until:
        raise UserError(
            f"soft.until={config.soft.until:g} would have made the layers of {named} soft: set soft.until=0."
        )
    if config.prune.name != "none" and not masks.schedule.STARTS_DENSE:
        raise UserError(
            f"prune={config.prune.name} prunes before the first update, and {named} has done {update} without: choose a method that "
            "begins dense, e.g. prune=after_training, prune=obs or prune=gradual, or leave pretrained out."
        )
    early = next((it for it in range(update) if masks.due(it)), None)
    if early is not None:
        raise UserError(
            f"prune={config.prune.name} does something of its own after update {early}, and {named} has done {update} without: let that be "
            f"after update {update} or later (by prune.start, prune.every, prune.levels, prune.rewind or updates), or leave pretrained out."
        )


def _fixed(config: Config) -> dict[str, Any]:
    """What of a configuration its first updates depend on."""
    fixed = {key: value for key, value in stored_values(config).items() if key not in _FREE}
    return fixed | {"eval": {"episodes": config.eval.episodes}}  # not how often


def _same_weights(ours: AgentState, theirs: AgentState) -> bool:
    pairs = [(network, theirs.networks[name]) for name, network in ours.networks.items()]
    return all(np.array_equal(a.values, b.values) for a, b in pairs)
