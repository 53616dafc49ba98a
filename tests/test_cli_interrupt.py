"""Ctrl-C at any moment: one short line, exit status 130, and a folder that the same command completes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from conftest import TINY

from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.interrupt import MESSAGE, leave_at_once

# Presses Ctrl-C some seconds after the command began.
PRESS = """
import os, signal, sys, threading, time
from sparse_offline_rl.cli.main import run_command

def press(moment):
    time.sleep(moment)
    os.kill(os.getpid(), signal.SIGINT)

def train(moment, arguments):
    sys.argv = ["train.py", *arguments]
    threading.Thread(target=press, args=(moment,), daemon=True).start()
    run_command("train")
"""
# Does one run, which imports and compiles, and then, in copies of the process, a run or Python's own end for each moment.
FORKS = (
    PRESS
    + """
import contextlib
from pathlib import Path

folder, count, arguments = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]

def status_of(name, action):
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    for descriptor, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{stream}", os.O_WRONLY | os.O_CREAT), descriptor)
    action()

def run(name, moment):
    try:
        train(moment, [*arguments, f"run_dir={folder / name}"])
    except SystemExit as end:
        os._exit(end.code or 0)

def end(moment):
    threading.Thread(target=press, args=(moment,), daemon=True).start()
    sys.exit()

with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    train(1000, [*arguments, f"run_dir={folder / 'first'}"])
start = time.perf_counter()
assert status_of("whole", lambda: run("whole", 1000)) == 0
whole = time.perf_counter() - start
for number in range(count):
    print(number, status_of(number, lambda: run(str(number), (number + 0.5) / count * whole)))
for moment in (0, 0.1, 0.3):
    print(f"end{moment}", status_of(f"end{moment}", lambda: end(moment)))
"""
)
STOPPING = "stopping after this step; once more to stop at once"


def ended_well(status: int, err: str) -> bool:
    """Whether the signal got its one line; behind the last of Python's own end the system's handler acts, silently."""
    return (status, err.strip()) in [(130, MESSAGE), (130, STOPPING), (-signal.SIGINT, "")]


@pytest.mark.parametrize("moment", [0.02, 0.2, 0.5, 1.0, 1.5, 2.0])
def test_while_modules_are_imported(tmp_path, moment):
    script = f"{PRESS}\ntrain({moment}, sys.argv[1:])"
    command = [sys.executable, "-c", script, *TINY, f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert ended_well(done.returncode, done.stderr), (done.returncode, done.stderr)


def test_from_the_command_line_to_the_end(tmp_path):
    command = [sys.executable, "-c", FORKS, str(tmp_path), "10", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    statuses = dict(line.split() for line in done.stdout.splitlines())
    assert len(statuses) == 13
    for name, status in statuses.items():
        err = (tmp_path / f"{name}.err").read_text()
        finished = status == "0" and not err  # this time all was faster than when it was measured
        assert finished or ended_well(int(status), err), (name, status, err)
    assert list(statuses.values()).count("130") > 3


def test_errors_after_ctrl_c_are_the_interruption(capsys):
    """What OmegaConf and NumPy make of a KeyboardInterrupt."""
    with pytest.raises(SystemExit) as end, user_errors():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError("maximum recursion depth exceeded") from None
    assert end.value.code == 130
    assert capsys.readouterr().err == f"{MESSAGE}\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_destructor_ends_the_process():
    script = """
import signal
from sparse_offline_rl.cli.errors import user_errors

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

with user_errors():
    Interrupted()
    print("went on")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{MESSAGE}\n")


def test_who_ignores_ctrl_c_keeps_ignoring_it():
    """As do processes that a shell script starts in the background."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        leave_at_once()
        with user_errors():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, handler)
