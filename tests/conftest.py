"""One Minari root for the whole test session, so that no test touches the user's datasets."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.cli import train as train_cli
from sparse_offline_rl.engines.sparse.module import set_threads

ROOT = Path(__file__).parent.parent


def small(agent: str) -> list[str]:
    """Overrides for that agent with small networks."""
    keys = AGENTS[agent].Config.model_fields
    sizes = {"vae_hidden": "[48,48]", "acting_candidates": "5"}
    sizes |= {key: "[32,24]" for key in keys if key.endswith("_hidden") and key not in sizes}
    return [f"agent={agent}", *(f"agent.{key}={size}" for key, size in sizes.items() if key in keys)]


# A run that takes a second, on 2000 transitions of the Hopper expert, but for its agent.
TINY_RUN = [
    "env=hopper",
    "dataset.size=2000",
    "updates=40",
    "batch_size=32",
    "eval.every=20",
    "eval.episodes=1",
    "log.every=10",
    "checkpoint.every=10",
    "prune=snip",
    "sparsity=0.8",
]
TINY = [*TINY_RUN, *small("bcq")]


@pytest.fixture(scope="session", autouse=True)
def minari_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        patch.setenv("HF_HUB_OFFLINE", "1")  # a dataset that is not there is not looked for elsewhere
        yield root


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """Torch's threads would wait for each other where the tests run in as many processes as there are cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_acts():
    """As in a terminal, in this process and those it starts; a shell's background jobs are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def process_settings():
    """What a run sets for its whole process must not reach the next test."""
    yield
    torch.set_flush_denormal(False)
    torch.set_deterministic_debug_mode("default")


@pytest.fixture
def use_threads():
    """Sets the sparse engine's threads, for one test."""
    yield set_threads
    set_threads(1)


@pytest.fixture
def cli(monkeypatch, capsys):
    """Call the training command in this process: arguments to (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        status = 0
        try:
            train_cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def refusal(cli, tmp_path):
    """The one sentence with which the training command refuses these arguments, before it has written anything."""

    def call(*arguments: str) -> str:
        run_dir = tmp_path / "run"
        status, _, err = cli(*arguments, f"run_dir={run_dir}")
        assert status == 2 and not run_dir.exists()
        (error,) = (line for line in err.splitlines() if line and not line.startswith("warning: "))
        assert error.startswith("error: ")
        return error

    return call


@pytest.fixture
def spawn():
    """Start the training command as a process of its own; all are ended with the test."""
    processes = []

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
