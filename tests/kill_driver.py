"""Kills a tiny run at its file operations, runs it again, and compares what is left with a run that was not killed.

``python kill_driver.py FOLDER`` does so at every kill point, ``python kill_driver.py FOLDER 25`` at 25 of them, evenly spread, and
``python kill_driver.py FOLDER 25 agent=iql …`` with other settings of the run.

A kill point is the moment before a file is opened, renamed, removed, created, cut, written, synced or closed, and the moment at
which half of a write has reached the file. Where masks change, so is any moment in the middle of a change; of these some are always
tried. All of a run's writes come from Python (NumPy, safetensors and the policy format hand
over bytes, and TensorBoard's thread opens its file through ``io``), so replacing Python's own calls meets every one; what only
reads the folder (``safetensors.safe_open`` maps the file) cannot change it. Every attempt is a fork of this process, which has
imported and loaded everything, so that hundreds of them take seconds.
"""

from __future__ import annotations

import builtins
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import TINY_RUN, small
from run_results import assert_same, run_result

from sparse_offline_rl import experiment
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.pruning import prune
from sparse_offline_rl.training import mask_changes, session

KILLED = 9
CHANGING = [
    (prune, "with_masks"),
    (mask_changes, "observed"),
    (session, "put_on_engine"),
]  # what a change of masks calls
AUDITED = {"open", "os.mkdir", "os.rename", "os.remove", "os.truncate", "os.rmdir", "shutil.rmtree"}
SHORT = ["updates=4", "eval.every=2", "eval.episodes=2", "checkpoint.every=1", "log.every=1"]


def make_config(settings: list[str], run_dir: Path):
    return config_of([*TINY_RUN, *SHORT, *settings, f"run_dir={run_dir}"])


def attempt(config, kill_at: int | None) -> tuple[int, list[str]]:
    """Run in a fork that ends at kill point ``kill_at``, as with SIGKILL: its status, and the kill points that it passed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader, "r") as names:
            seen = names.read().split()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seen
    report, numbers = os.write, itertools.count()  # a count that two threads cannot take twice

    def reached(name: str) -> bool:
        if next(numbers) == kill_at:
            return True
        report(writer, f"{name}\n".encode())
        return False

    status = 1
    try:
        watch_files(config.run_dir, reached)
        experiment.run(config)
        status = 0
    finally:
        os._exit(status)


def watch_files(folder: str, reached: Callable[[str], bool]) -> None:
    """From now on this process ends at once where ``reached``, called with the name of a kill point, says so."""

    def point(name: str) -> None:
        if reached(name):
            os._exit(KILLED)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event in AUDITED and any(is_inside(argument, folder) for argument in arguments):
            point(event)

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            point("write")
            if reached("half"):
                super().write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
                os._exit(KILLED)
            return super().write(data)

        def truncate(self, size: int | None = None) -> int:
            point("truncate")
            return super().truncate(size)

        def close(self) -> None:
            if not self.closed:
                point("close")
            super().close()

    def open_file(path: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        if not is_inside(path, folder):
            return python_open(path, mode, buffering, *rest, **options)
        raw = File(path, mode.replace("b", "").replace("t", ""))
        if "+" in mode:
            buffered: Any = io.BufferedRandom(raw)
        else:
            buffered = io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **options)

    def before(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(*arguments: Any, **options: Any) -> Any:
            point(name)
            return call(*arguments, **options)

        return replaced

    python_open = io.open
    for module, function in CHANGING:
        setattr(module, function, before("change", getattr(module, function)))
    io.open = builtins.open = open_file
    for name in ("fsync", "write", "close"):  # of descriptors; the lock of the folder is one
        setattr(os, name, before(f"os.{name}", getattr(os, name)))
    sys.addaudithook(audit)


def is_inside(argument: object, folder: str) -> bool:
    """Whether an argument names a file in that folder; TensorBoard names its own in bytes."""
    return isinstance(argument, str | bytes | os.PathLike) and folder in os.fsdecode(argument)


def main(folder: Path, most: int | None, settings: list[str]) -> None:
    run_dir = folder / "run"
    config = make_config(settings, run_dir)
    data = experiment.load_training_data(config)
    experiment.load_training_data = lambda _config: data
    session.evaluate = lambda *_: np.array([1.0, 2.0])
    experiment.run(make_config(settings, folder / "warm"))  # loads compiled code, which every fork then has
    status, names = attempt(config, None)
    assert status == 0
    expected, wrong = run_result(run_dir), []
    stride = 1 if most is None else -(-len(names) // most)
    changing = [i for i, name in enumerate(names) if name == "change"]
    points = {*range(stride // 2, len(names), stride), *changing[:: max(1, len(changing) // 2)]}
    for kill_at in sorted(points):
        shutil.rmtree(run_dir)
        killed, _ = attempt(config, kill_at)
        again, _ = attempt(config, None)
        same = "the same"
        try:
            assert_same(run_result(run_dir), expected)
        except Exception as error:
            same = repr(error)
        if (killed, again, same) != (KILLED, 0, "the same"):
            wrong.append([kill_at, names[kill_at], killed, again, same])
    kinds = {name: names.count(name) for name in sorted(set(names))}
    engine = json.loads((run_dir / "summary.json").read_text())["engine"]
    print(json.dumps({"kinds": kinds, "points": len(names), "killed": len(points), "engine": engine, "wrong": wrong}))


if __name__ == "__main__":
    folder, most, *settings = [*sys.argv[1:], None] if len(sys.argv) < 3 else sys.argv[1:]
    main(Path(folder), most and int(most), settings or [*small("bcq"), "capture=false"])
