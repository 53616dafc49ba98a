"""Large datasets in memory once, however many runs of one machine train on them: through a file that all of them map."""

from __future__ import annotations

import mmap
import os
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import filelock
import numpy as np

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import replacing
from sparse_offline_rl.types import FloatArray

SMALLEST = 16 * 2**20  # bytes; for less it is not worth a file
_LOCK, _PATIENCE = ".lock", 60.0  # seconds; the slowest disk has written a dataset by then
_UNUSED = 24 * 3600.0  # seconds after which a file with which no run has begun is removed


def shared(rows: FloatArray, checksum: int) -> FloatArray:
    """``rows`` ``[N, columns]`` in the pages of a file that other runs with equal rows map as well; made if it is not there.

    The file lies in a folder of the user's own among the temporary files (``TMPDIR``) and is named by ``checksum``. Its content is
    compared with ``rows``, so that nothing depends on how it came there. Sharing only spares memory: where there is no such folder, or
    the file cannot be written or read, ``rows`` are returned as they are. A file that is removed stays with the runs that have mapped it.
    """
    if rows.nbytes < SMALLEST or not hasattr(os, "getuid"):
        return rows
    try:
        folder = shared_folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_own(folder)
        path = folder / f"{checksum:08x}-{rows.shape[0]}x{rows.shape[1]}.f32"
        with filelock.FileLock(folder / _LOCK, timeout=_PATIENCE):  # runs that start together write one file
            _remove_unused(folder)
            found = _mapped(path, rows)
            if found is None:
                with replacing(path) as temporary:
                    rows.tofile(temporary)
                found = _mapped(path, rows)
    except (OSError, NotImplementedError, UserError):
        # A lock that times out is an OSError; one that the file system does not have is not.
        return rows
    return rows if found is None else found


def shared_folder() -> Path:
    """Where the files are."""
    return Path(tempfile.gettempdir()) / f"sparse_offline_rl-{os.getuid()}"


def _require_own(folder: Path) -> None:
    """Raise OSError unless nobody else can change what is in the folder, or has made it a link to another."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError(f"{folder} is somebody else's")


def _mapped(path: Path, rows: FloatArray) -> FloatArray | None:
    """The array in the file, if it is there and equals ``rows``; that a run begins with it is noted in the time of the file."""
    if not path.exists() or path.stat().st_size != rows.nbytes:
        return None
    os.utime(path)
    with path.open("rb") as file:
        # A private mapping shares its pages until they are written to, which nobody does; torch warns of a read-only one.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    found = np.frombuffer(content, rows.dtype).reshape(rows.shape)
    return found if np.array_equal(found, rows) else None


def _remove_unused(folder: Path) -> None:
    """Also what killed processes left."""
    for path in (*folder.glob("*.f32"), *folder.glob(".*.f32.*.tmp")):
        with suppress(OSError):  # another machine was faster
            if time.time() - path.stat().st_mtime > _UNUSED:
                path.unlink()
