"""Finished runs that another run learns from or goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparse_offline_rl.agents.registry import agent_configs
from sparse_offline_rl.config import Config, parse_config
from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.files import read_json
from sparse_offline_rl.pruning.registry import prune_configs
from sparse_offline_rl.training.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from sparse_offline_rl.training.summary import check_summary


@dataclass(frozen=True)
class FinishedRun:
    """A run as it ended."""

    folder: Path
    config: Config
    checkpoint: Checkpoint


def require_finished(key: str, run_dir: str | None) -> None:
    """Raise UserError if ``run_dir``, which the user named by ``key``, is no folder of a finished run; None names none."""
    if run_dir is None:
        return
    folder = Path(run_dir)
    try:
        finished = checkpoint_path(folder).is_file() and (folder / "summary.json").is_file()
    except OSError as error:
        raise UserError(
            f"{key}={folder} cannot be read ({error.strerror}): give the folder of a finished run."
        ) from None
    if not finished:
        raise UserError(f"{key}={folder} is no finished run: give the folder of one.")


def open_finished(key: str, run_dir: str, agent: str, data: str) -> FinishedRun:
    """The run in ``run_dir``, which the user named by ``key``, with the configuration that its checkpoint holds.

    Raises UserError if it is unfinished or damaged, of another agent than ``agent``, or of other data than ``data``, a dataset's
    fingerprint.
    """
    require_finished(key, run_dir)
    folder = Path(run_dir)
    path, summary = checkpoint_path(folder), folder / "summary.json"
    try:
        check_summary(read_json(summary))
    except ValueError as error:
        raise UserError(f"{summary} is damaged ({error}): finish that run again, or choose another.") from None
    checkpoint = load_checkpoint(path)
    try:
        stored = {**checkpoint.progress.config, "run_dir": str(folder)}
        config = parse_config(stored, agent_configs(), prune_configs())
    except UserError as error:
        raise UserError(f"{key}={folder} is a run of another version ({reason(error)}): choose another run.") from None
    if config.agent.name != agent:
        raise UserError(
            f"{key}={folder} is agent={config.agent.name}, and this run is agent={agent}: choose a run of the same agent."
        )
    if checkpoint.progress.data != data:
        raise UserError(f"{key}={folder} was trained on other data than this run: choose a run of the same dataset.")
    return FinishedRun(folder, config, checkpoint)
