"""How far runs have come, and how long the rest will take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors

from sparse_offline_rl.reports.progress import read_progress
from sparse_offline_rl.reports.runs import UNREADABLE, Run, read_run
from sparse_offline_rl.training.run_lock import failure_of, is_running

State = Literal["done", "running", "failed", "stopped", "missing", "damaged"]
STATES: tuple[State, ...] = ("done", "running", "failed", "stopped", "missing", "damaged")


@dataclass(frozen=True)
class Status:
    """How far one run has come."""

    path: Path
    state: State
    update: int = 0
    updates: int = 0  # in all
    last_return: float | None = None
    seconds_left: float | None = None  # of its own clock: training and evaluation
    remark: str = ""
    seconds: float | None = None  # by the same clock, that a run which is done took


def status_of(path: Path) -> Status:
    """The status of the run in a folder that may not be there.

    ``stopped`` is a run that was killed or interrupted: the same command goes on with it.
    """
    if not (path / "config.yaml").exists():
        return Status(path, "missing")
    running, failure = is_running(path), failure_of(path)
    try:
        run = read_run(path, str(path))
    except UNREADABLE as error:
        return Status(path, "damaged", remark=" ".join(str(error).split()))
    updates = int(run.settings["updates"])
    if run.summary is not None and not running:
        return Status(path, "done", updates, updates, run.last_return, 0.0, seconds=_seconds_taken(run))
    state: State = "running" if running else "failed" if failure else "stopped"
    left = _seconds_left(path, run, updates)
    return Status(path, state, run.update, updates, run.last_return, left, failure or "" if state == "failed" else "")


def statuses(paths: Sequence[Path]) -> list[Status]:
    """Of each path; a missing run takes as long as those that are done did on average."""
    found = [status_of(path) for path in paths]
    known = [it.seconds for it in found if it.seconds is not None]
    if not known:
        return found
    mean = sum(known) / len(known)
    return [Status(it.path, "missing", seconds_left=mean) if it.state == "missing" else it for it in found]


def seconds_to_go(found: Sequence[Status]) -> float | None:
    """Until all are done, if as many go on running at once as do now (one, if none is); None while something is unknown."""
    unfinished = [it for it in found if it.state != "done"]
    if any(it.seconds_left is None for it in unfinished):
        return None
    total = sum(it.seconds_left or 0.0 for it in unfinished)
    longest = max((it.seconds_left or 0.0 for it in unfinished), default=0.0)
    return max(longest, total / max(1, sum(it.state == "running" for it in found)))


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class _Clock(NamedTuple):
    """How far a run has come, and the seconds that this took."""

    update: int = 0
    training: float = 0.0
    evaluating: float = 0.0

    @property
    def seconds(self) -> float:
        return self.training + self.evaluating


def _seconds_left(path: Path, run: Run, updates: int) -> float | None:
    """By the clock of the last checkpoint, which knows evaluations too, or by the rate of the metrics before the first one."""
    clock, before = _checkpoint_clock(path), _before(run)
    if clock is None:
        progress = read_progress(path)
        clock, before = _Clock(progress.update, progress.train_seconds or 0.0), before._replace(evaluating=0.0)
    update, seconds = clock.update, clock.seconds
    left = updates - max(run.update, update)
    if update > before.update:  # else it is as fast as the dense run, as far as is known
        update, seconds = update - before.update, seconds - before.seconds
    if update == 0 or seconds <= 0:
        return None
    return left * seconds / update


def _checkpoint_clock(path: Path) -> _Clock | None:
    """That of the checkpoint, read from its header alone."""
    try:
        with safetensors.safe_open(path / "checkpoint" / "state.safetensors", framework="numpy") as file:
            header: Mapping[str, Any] = json.loads((file.metadata() or {})["sparse_offline_rl"])
        progress = header["progress"]
        return _Clock(int(header["update"]), float(progress["train_seconds"]), float(progress["eval_seconds"]))
    except (safetensors.SafetensorError, *UNREADABLE):
        return None


def _before(run: Run) -> _Clock:
    """The clock of the dense run that this one goes on from, which its own counts, too."""
    pretrained = run.settings.get("pretrained")
    return (pretrained and _checkpoint_clock(Path(pretrained))) or _Clock()


def _seconds_taken(run: Run) -> float | None:
    summary = run.summary or {}
    if "train_seconds" not in summary or "eval_seconds" not in summary:
        return None
    return float(summary["train_seconds"]) + float(summary["eval_seconds"]) - _before(run).seconds
