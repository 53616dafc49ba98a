"""``sparse-offline-rl``: its commands, Hydra's flags behind ``train``, and a standard output that goes away."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY

from sparse_offline_rl.cli import main as command_line
from sparse_offline_rl.cli import train as train_cli
from sparse_offline_rl.cli.main import COMMANDS

CONSOLE = [sys.executable, "-c", "from sparse_offline_rl.cli.main import main; main()"]


@pytest.fixture
def console(monkeypatch, capsys):
    """Call ``sparse-offline-rl`` in this process: arguments to (exit status, stdout, stderr)."""
    handler = signal.getsignal(signal.SIGINT)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["/usr/bin/sparse-offline-rl", *arguments])
        status = 0
        try:
            command_line.main()
        except SystemExit as end:
            status = end.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield call
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_alone_it_lists_its_commands(console, arguments):
    status, out, _ = console(*arguments)
    assert status == 0
    for name, purpose in COMMANDS.items():
        assert sum(line.split() == [name, *purpose.split()] for line in out.splitlines()) == 1


def test_an_unknown_command_gets_the_closest_name(console):
    status, out, err = console("evalute", "run_dir=x")
    assert (status, out) == (2, "")
    assert err == "error: sparse-offline-rl evalute: there is no such command; the closest is 'evaluate'.\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(console, name):
    status, out, err = console(name, "--help")
    assert (status, err) == (0, "")
    assert "=" in out


@pytest.mark.parametrize(
    "arguments",
    [["--cfg", "job", "agent=bc"], ["sparsty=1"], ["--version"]],
    ids=" ".join,
)
def test_train_is_train_py(console, cli, arguments):
    status, out, err = console("train", *arguments)
    assert (status, out, err) == cli(*arguments)


def test_train_runs_and_sweeps_behind_the_command(console, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = console("train", "-m", *TINY, "updates=10", "eval.every=10", "seed=0,1")
    assert status == 0, err
    assert out.count("finished: ") == 2


def test_only_the_chosen_command_is_imported(tmp_path):
    script = (
        "import sys; sys.argv = ['sparse-offline-rl', 'evaluate', 'run_dir=nowhere']\n"
        "from sparse_offline_rl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'hydra', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "error: there is no nowhere: give a run folder or a policy.sorl file.\n"


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sparse-offline-rl tr", "train evaluate"),
        ("sparse-offline-rl ", "train evaluate"),
        ("sparse-offline-rl train ag", "agent="),
        ("sparse-offline-rl train agent=", "agent=bc agent=bcq"),
    ],
)
def test_bash_completes_commands_and_keys(console, monkeypatch, line, offered):
    monkeypatch.setenv("COMP_LINE", line)
    status, out, err = console("-sc", "query=bash")
    assert (status, err) == (0, "")
    assert offered in out


def test_bash_completion_of_train_py(cli, console, monkeypatch):
    assert "complete -o nospace" in cli("-sc", "install=bash")[1]
    assert console("train", "-sc", "install=bash")[1].endswith(" sparse-offline-rl\n")
    monkeypatch.setenv("COMP_LINE", "python train.py prune=gra")
    assert cli("-sc", "query=bash") == (0, "prune=gradual prune=grasp\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resolve"], ["--resolve", "--cfg"]),
        (["--experimental-rerun", "x"], ["--experimental-rerun", "command"]),
        (["--cfg", "job", "-m"], ["--multirun and --cfg"]),
        (["--cfg", "nothing"], ["--cfg", "nothing"]),
        (["--cfg", "job", "--package", "nothing"], ["--package nothing"]),
        (["--info", "nothing"], ["--info", "nothing"]),
        (["--config-dir", "nowhere"], ["--config-dir nowhere"]),
        (["--config-path", "nowhere"], ["--config-path nowhere"]),
        (["--config-name", "nothing"], ["nothing"]),
        (["--nothing"], ["--nothing"]),
        (["-sc"], ["install"]),
        (["hydra.verbose=[1]"], ["logger"]),
        (["hydra=1"], ["group"]),
        (["~agent"], ["~agent"]),
        (["-m", "seed=range(0,1000000000)"], ["seed=range(0,1000000000)", "100000 jobs"]),
        (["-m", "seed=range(5,5)"], ["seed=range(5,5)", "no value"]),
        (["-m", "batch_size=range(1,5,0)"], ["no value"]),
        (["run_dir=${run_dir}"], ["run_dir"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_hydras_own_flags_and_keys_end_in_a_sentence(cli, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_cli, "run", lambda _: pytest.fail("it began to train"))
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


class Gone(io.StringIO):
    """A terminal that can no longer be written to."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def isatty(self) -> bool:
        return True

    def write(self, _text: str) -> int:
        raise OSError(self._number, "it is gone")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_training_goes_on_when_the_console_is_gone(console, tmp_path, monkeypatch, number):
    monkeypatch.setattr(sys, "stdout", Gone(number))
    status, _, err = console("train", *TINY, f"run_dir={tmp_path / 'run'}")
    assert status == 0, err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 40
    assert err.count("warning: standard output cannot be written (it is gone)") == (number != errno.EPIPE)


def test_training_goes_on_with_closed_streams(tmp_path):
    """The files of the run must not become standard output, into which libraries print."""
    run_dir = tmp_path / "run"
    command = [sys.executable, str(ROOT / "train.py"), *TINY, f"run_dir={run_dir}"]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False, timeout=300)
    assert done.returncode == 0
    assert (run_dir / "metrics.csv").read_text().count("\n") == 5


def test_a_command_whose_output_is_lost_fails():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*CONSOLE, "evaluate", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "warning: standard output cannot be written (No space left on device); going on without it.\n"


def test_a_reader_may_leave():
    pipeline = 'set -o pipefail; "$@" train --help | head -1'
    done = subprocess.run(["bash", "-c", pipeline, "bash", *CONSOLE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Prune an offline-RL agent before, while or after it trains, and leave a run folder.\n"


@pytest.mark.parametrize("script", ["benchmark", "jacobian_study"])
def test_the_reader_of_a_script_may_leave(script):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--help"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
