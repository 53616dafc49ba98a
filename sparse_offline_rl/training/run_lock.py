"""The lock that a process holds on the folder of a run while it writes there, and what it leaves when it fails."""

from __future__ import annotations

from pathlib import Path

import filelock

from sparse_offline_rl.files import write_bytes

FAILURE = "failure.txt"
_PATIENCE = 0.5  # seconds; somebody who only looks holds the lock for less


def run_lock(run_dir: Path) -> filelock.FileLock:
    """The lock of a run folder; taking it fails if another process keeps it for half a second."""
    return filelock.FileLock(run_dir / ".lock", timeout=_PATIENCE)


def is_running(run_dir: Path) -> bool:
    """Whether a process, of this machine or of another that shares the disk, writes to a run folder now."""
    if not (run_dir / ".lock").exists():
        return False
    try:
        with run_lock(run_dir).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # not ours to lock
        return False


def failure_of(run_dir: Path) -> str | None:
    """What the last process that wrote to a run folder failed of; None if it did not fail, or was killed."""
    try:
        return (run_dir / FAILURE).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def store_failure(run_dir: Path, error: BaseException) -> None:
    """Write down what a run failed of, for :func:`failure_of`."""
    write_bytes(run_dir / FAILURE, f"{type(error).__name__}: {error}\n".encode())


def forget_failure(run_dir: Path) -> None:
    """A new attempt begins."""
    (run_dir / FAILURE).unlink(missing_ok=True)
