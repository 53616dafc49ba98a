"""Finished runs that another run learns from or goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparse_offline_rl.agents.registry import agent_configs
from sparse_offline_rl.config import Config, parse_config
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.pruning.registry import prune_configs
from sparse_offline_rl.training.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from sparse_offline_rl.training.stored_config import read_stored_config


@dataclass(frozen=True)
class FinishedRun:
    """A run as it ended."""

    folder: Path
    config: Config
    checkpoint: Checkpoint


def open_finished(key: str, folder: Path, agent: str, data: str) -> FinishedRun:
    """The run in ``folder``, which the user named by ``key``.

    Raises UserError if it is unfinished, of another agent than ``agent``, or of other data than ``data``, a dataset's fingerprint.
    """
    path = checkpoint_path(folder)
    if not (path.is_file() and (folder / "summary.json").is_file()):
        raise UserError(f"{key}={folder} is no finished run: give the folder of one.")
    stored = read_stored_config(folder / "config.yaml", "restore it, or choose another run")
    config = parse_config({**stored, "run_dir": str(folder)}, agent_configs(), prune_configs())
    if config.agent.name != agent:
        raise UserError(
            f"{key}={folder} is agent={config.agent.name}, and this run is agent={agent}: choose a run of the same agent."
        )
    checkpoint = load_checkpoint(path)
    if checkpoint.progress.data != data:
        raise UserError(f"{key}={folder} was trained on other data than this run: choose a run of the same dataset.")
    return FinishedRun(folder, config, checkpoint)
