"""Kills a tiny run before each of its file operations, runs it again, and compares what is left: ``python kill_driver.py FOLDER``.

Every attempt is a fork of this process, which has imported and loaded everything, so that hundreds of them take seconds.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from conftest import TINY
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparse_offline_rl import experiment
from sparse_offline_rl.cli.configs import config_dir
from sparse_offline_rl.training import session
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint

KILLED = 9
OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.truncate", "shutil.rmtree"}
SHORT = ["updates=4", "eval.every=2", "eval.episodes=2", "checkpoint.every=1", "log.every=1", "capture=false"]


def make_config(run_dir: Path):
    overrides = [*TINY, *SHORT, f"run_dir={run_dir}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return experiment.read_config(OmegaConf.to_container(compose("train", overrides), resolve=True))


def attempt(config, kill_at: int | None) -> tuple[int, int]:
    """Run in a fork, killed before file operation ``kill_at`` in the run folder: its status, and how many there were."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader, "rb") as counts:
            seen = len(counts.read())
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen
    state = SimpleNamespace(count=0)
    folder = config.run_dir

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in OPERATIONS and any(isinstance(it, str) and folder in it for it in map(as_text, arguments)):
            if state.count == kill_at:
                os._exit(KILLED)
            state.count += 1
            os.write(writer, b".")

    sys.addaudithook(hook)
    status = 1
    try:
        experiment.run(config)
        status = 0
    finally:
        os._exit(status)


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
    digest.update((run_dir / "episodes.csv").read_bytes())
    digest.update(json.dumps([{k: v for k, v in summary.items() if k not in timed}, table]).encode())
    for network in checkpoint.state.networks.values():
        for vector in network.vectors().values():
            digest.update(vector.tobytes())
    digest.update(checkpoint.random_state.tobytes())
    return digest.hexdigest()


def main(folder: Path) -> None:
    run_dir = folder / "run"
    config = make_config(run_dir)
    data = experiment.load_training_data(config)
    experiment.load_training_data = lambda _config: data
    session.evaluate = lambda *_: np.array([1.0, 2.0])
    experiment.run(make_config(folder / "warm"))  # loads compiled code, which every fork then has
    status, operations = attempt(config, None)
    assert status == 0
    expected, wrong = left_behind(run_dir), []
    for kill_at in range(operations):
        shutil.rmtree(run_dir)
        killed, _ = attempt(config, kill_at)
        again, _ = attempt(config, None)
        if killed != KILLED or again != 0 or left_behind(run_dir) != expected:
            wrong.append([kill_at, killed, again])
    print(json.dumps({"operations": operations, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
