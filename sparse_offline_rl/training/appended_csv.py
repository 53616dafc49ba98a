"""A CSV file that a run adds rows to, exact across a resume."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from sparse_offline_rl.errors import UserError


class AppendedCsv:
    """Appends rows to ``path``.

    ``columns`` are all that a row may have; one that a row lacks is left empty there. On a resume the file is cut back to ``offset``
    bytes, where it stood at the checkpoint, so that it holds what an uninterrupted run would have written; its own header is kept.
    Raises UserError if those bytes do not have the digest ``sha256``.
    """

    def __init__(self, path: Path, columns: Sequence[str], offset: int = 0, sha256: str = "") -> None:
        self._path = path
        if offset and (not path.exists() or _file_digest(path, offset) != sha256):
            raise UserError(
                f"{path} is not what this run had written up to its checkpoint: restore it, or remove {path.parent} to start again."
            )
        with disk_errors(path.parent), ExitStack() as opened:
            self._file = opened.enter_context(path.open("r+" if offset else "w+", newline="", encoding="utf-8"))
            if offset:
                columns = next(csv.reader(self._file))
                self._file.truncate(offset)
                self._file.seek(offset)
            self._csv = csv.DictWriter(self._file, columns, restval="", lineterminator="\n")
            if not offset:
                self._csv.writeheader()
            opened.pop_all()

    def write(self, values: Mapping[str, Any]) -> None:
        """Add one row. ValueError for a key that is no column."""
        with disk_errors(self._path.parent):
            self._csv.writerow(values)
            self._file.flush()

    def sync(self) -> tuple[int, str]:
        """Put everything on the disk; returns the file's length in bytes and its digest, for the checkpoint."""
        with disk_errors(self._path.parent):
            self._file.flush()
            os.fsync(self._file.fileno())
            length = self._file.tell()
            return length, _file_digest(self._path, length)

    def close(self) -> None:
        """Close the file; what a full disk still refuses was reported before."""
        with suppress(OSError):
            self._file.close()


def read_rows(path: Path, length: int, sha256: str) -> list[dict[str, str]]:
    """The rows of a finished run's CSV, which a checkpoint says has ``length`` bytes of digest ``sha256``; none of length 0.

    Raises UserError if they do not.
    """
    if not length:
        return []
    try:
        text = _head(path, length)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}): restore it, or choose another run."
        ) from None
    if _digest(text, length) != sha256:
        raise UserError(f"{path} is not what its run had written: restore it, or choose another run.")
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))


@contextmanager
def disk_errors(run_dir: Path) -> Iterator[None]:
    """Turn an OSError within the block into a UserError that names ``run_dir``."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{run_dir}: metrics could not be written ({error.strerror or error}): make room, then run the same "
            "command again to go on from the last checkpoint."
        ) from None


def _file_digest(path: Path, length: int) -> str:
    """SHA-256 of the first ``length`` bytes, as hexadecimal text; nothing for a shorter file."""
    return _digest(_head(path, length), length)


def _head(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def _digest(data: bytes, length: int) -> str:
    return hashlib.sha256(data).hexdigest() if len(data) == length else ""
