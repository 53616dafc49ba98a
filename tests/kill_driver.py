"""Kills a tiny run before each of its file operations, runs it again, and compares what is left.

``python kill_driver.py FOLDER [KILLS KEY=VALUE …]``: with KILLS it is so many of those moments, evenly spread, and those in the
middle of changes of masks. Every attempt is a fork of this process, which has imported and loaded everything, so that hundreds of them take seconds.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from conftest import TINY
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparse_offline_rl import experiment
from sparse_offline_rl.cli.configs import config_dir
from sparse_offline_rl.pruning import prune
from sparse_offline_rl.training import mask_changes, session
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint

KILLED = 9
MIDDLE = "in the middle of a change of masks"
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.truncate", "shutil.rmtree", MIDDLE}
CHANGES = [(prune, "with_masks"), (mask_changes, "observed"), (session, "put_on_engine")]
SHORT = ["updates=4", "eval.every=2", "checkpoint.every=1", "log.every=1", "capture=false"]


def make_config(run_dir: Path, *others: str):
    overrides = [*TINY, *SHORT, *others, f"run_dir={run_dir}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return experiment.read_config(OmegaConf.to_container(compose("train", overrides), resolve=True))


def attempt(config, kill_at: int | None) -> tuple[int, str]:
    """Run in a fork, killed before operation ``kill_at`` in the run folder: its status, and ``f`` or ``m`` for each operation."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader, "rb") as counts:
            seen = counts.read().decode()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen
    state = SimpleNamespace(count=0)
    folder = config.run_dir

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in OPERATIONS and any(isinstance(it, str) and folder in it for it in map(as_text, arguments)):
            if state.count == kill_at:
                os._exit(KILLED)
            state.count += 1
            os.write(writer, b"m" if event == MIDDLE else b"f")

    sys.addaudithook(hook)
    for module, name in CHANGES:
        setattr(module, name, announced(getattr(module, name), folder))
    status = 1
    try:
        experiment.run(config)
        status = 0
    finally:
        os._exit(status)


def announced(function: Callable[..., Any], folder: str) -> Callable[..., Any]:
    """``function``, before which the run may be killed as it may before a file operation."""

    def call(*arguments: Any, **options: Any) -> Any:
        sys.audit(MIDDLE, folder)
        return function(*arguments, **options)

    return call


def as_text(argument: object) -> object:
    return os.fspath(argument) if isinstance(argument, os.PathLike) else argument


def left_behind(run_dir: Path) -> str:
    """A digest of everything that must not depend on interruptions."""
    summary = json.loads((run_dir / "summary.json").read_text())
    timed = {"updates_per_second", "train_seconds", "eval_seconds", "checkpoint_bytes"}
    with (run_dir / "metrics.csv").open() as file:
        table = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]
    checkpoint = load_checkpoint(checkpoint_path(run_dir))
    digest = hashlib.sha256((run_dir / "policy" / "policy.sorl").read_bytes())
    digest.update(json.dumps([{k: v for k, v in summary.items() if k not in timed}, table]).encode())
    for network in checkpoint.state.networks.values():
        for vector in network.vectors().values():
            digest.update(vector.tobytes())
    digest.update(checkpoint.random_state.tobytes())
    remembered = {**checkpoint.memory.masks, **checkpoint.memory.numbers}
    if checkpoint.memory.rewind is not None:
        remembered |= {name: network.values for name, network in checkpoint.memory.rewind.networks.items()}
    for key in sorted(remembered):
        digest.update(key.encode() + remembered[key].tobytes())
    return digest.hexdigest()


def main(folder: Path, kills: int | None, *overrides: str) -> None:
    run_dir = folder / "run"
    config = make_config(run_dir, *overrides)
    data = experiment.load_training_data(config)
    experiment.load_training_data = lambda _config: data
    session.evaluate = lambda *_: np.array([1.0, 2.0])
    experiment.run(make_config(folder / "warm", *overrides))  # loads compiled code, which every fork then has
    status, operations = attempt(config, None)
    assert status == 0
    expected, wrong = left_behind(run_dir), []
    moments = list(range(len(operations)))
    if kills is not None:
        middle = [moment for moment in moments if operations[moment] == "m"]
        spread = [np.linspace(0, len(them) - 1, kills).round().astype(int) for them in (moments, middle)]
        moments = sorted({moments[i] for i in spread[0]} | {middle[i] for i in spread[1]})
    for kill_at in moments:
        shutil.rmtree(run_dir)
        killed, _ = attempt(config, kill_at)
        again, _ = attempt(config, None)
        if killed != KILLED or again != 0 or left_behind(run_dir) != expected:
            wrong.append([kill_at, killed, again])
    engine = json.loads((run_dir / "summary.json").read_text())["engine"]
    print(json.dumps({"operations": len(operations), "kills": len(moments), "engine": engine, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else None, *sys.argv[3:])
