"""What a run leaves in its folder, to compare one that was interrupted with one that was not."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import ROOT
from helpers import flat
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_offline_rl.training.checkpoint import Checkpoint, checkpoint_path, load_checkpoint

_TIMED = {"updates_per_second", "train_seconds", "eval_seconds", "checkpoint_bytes"}


@dataclass(frozen=True)
class RunResult:
    """Everything a run leaves that must not depend on interruptions."""

    summary: dict[str, Any]
    metrics: list[dict[str, str]]
    points: dict[str, list[tuple[int, float]]]  # what TensorBoard shows
    episodes: str  # the return of every evaluation episode
    policy: bytes
    checkpoint: Checkpoint


def trained(*arguments: str) -> str:
    """Train in a process of its own; returns what it printed."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_result(run_dir: Path) -> RunResult:
    """Read the folder of a complete run."""
    summary = json.loads((run_dir / "summary.json").read_text())
    with (run_dir / "metrics.csv").open() as file:
        table = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]
    board = EventAccumulator(str(run_dir)).Reload()
    points = {
        tag: [(p.step, p.value) for p in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
        if not tag.startswith("time/")
    }
    policy = (run_dir / "policy" / "policy.sorl").read_bytes()
    kept = {k: v for k, v in summary.items() if k not in _TIMED}
    episodes = (run_dir / "episodes.csv").read_text()
    return RunResult(kept, table, points, episodes, policy, load_checkpoint(checkpoint_path(run_dir)))


def vectors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """All numbers and masks of the agent, and what its schedule of masks remembers."""
    memory = checkpoint.memory
    found = flat(checkpoint.state)
    found |= {f"memory/{key}": torch.from_numpy(array) for key, array in {**memory.numbers, **memory.masks}.items()}
    if memory.rewind is not None:
        found |= {f"rewind/{key}": vector for key, vector in flat(memory.rewind).items()}
    return found


def assert_same(left: RunResult, right: RunResult) -> None:
    """Both runs ended with the same bits."""
    for part in ("summary", "metrics", "episodes", "policy"):
        assert getattr(left, part) == getattr(right, part), part
    assert left.points.keys() == right.points.keys()
    for tag, points in left.points.items():
        assert points == right.points[tag], f"{tag}: {sorted(set(points) ^ set(right.points[tag]))[:10]}"
    assert left.checkpoint.update == right.checkpoint.update
    assert np.array_equal(left.checkpoint.random_state, right.checkpoint.random_state), "random state"
    assert left.checkpoint.state.steps == right.checkpoint.state.steps, "steps"
    ours, theirs = vectors(left.checkpoint), vectors(right.checkpoint)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def kill_at_file_operations(*arguments: object) -> dict[str, Any]:
    """What ``kill_driver.py`` found, which kills and resumes a run again and again."""
    command = [sys.executable, str(Path(__file__).with_name("kill_driver.py")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
