"""Metrics to ``metrics.csv`` and TensorBoard, under the same names; exact across a resume."""

from __future__ import annotations

import csv
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from sparse_offline_rl.errors import UserError

# What an evaluation adds to a row.
EVALUATION_COLUMNS = ("eval/return_mean", "eval/return_std", "eval/normalized_score")


class MetricsWriter:
    """Appends rows to ``metrics.csv`` and points to TensorBoard.

    ``columns`` are all metrics that a row may have; one that a row lacks is left empty there. On a resume at ``update`` the CSV is
    cut back to ``offset`` bytes, where it stood at the checkpoint, and TensorBoard purges later points, so that both hold what an
    uninterrupted run would have written. Raises UserError if those bytes do not have the digest ``sha256``.
    """

    def __init__(
        self, run_dir: Path, columns: Sequence[str], offset: int = 0, sha256: str = "", update: int = 0
    ) -> None:
        self._path = run_dir / "metrics.csv"
        if offset and (not self._path.exists() or _file_digest(self._path, offset) != sha256):
            raise UserError(
                f"{self._path} is not what this run had written up to its checkpoint: restore it, or remove {run_dir} to start again."
            )
        with self._disk_errors(), ExitStack() as opened:
            opened.enter_context(_writer_threads_are_quiet())
            self._file = opened.enter_context(self._path.open("r+" if offset else "w+", newline="", encoding="utf-8"))
            if offset:
                columns = next(csv.reader(self._file))
                self._file.truncate(offset)
                self._file.seek(offset)
            self._csv = csv.DictWriter(self._file, columns, restval="", lineterminator="\n")
            if not offset:
                self._csv.writeheader()
            self._board = SummaryWriter(str(run_dir), purge_step=update + 1 if update else None)
            self._opened = opened.pop_all()

    def write(self, update: int, values: Mapping[str, float]) -> None:
        """Add one row. ValueError for a metric that is no column."""
        with self._disk_errors():
            self._csv.writerow({"update": update} | {name: repr(value) for name, value in values.items()})
            self._file.flush()
            for name, value in values.items():
                self._board.add_scalar(name, value, update)

    def sync(self) -> tuple[int, str]:
        """Put everything on the disk; returns the CSV's length in bytes and its digest, for the checkpoint."""
        with self._disk_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._board.flush()
            length = self._file.tell()
            return length, _file_digest(self._path, length)

    def close(self) -> None:
        """Close both files; what a full disk still refuses was reported before."""
        for file in (self._file, self._board, self._opened):
            with suppress(OSError):
                file.close()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path.parent}: metrics could not be written ({error.strerror or error}): make room, then run the same "
                "command again to go on from the last checkpoint."
            ) from None


def _file_digest(path: Path, length: int) -> str:
    """SHA-256 of the first ``length`` bytes, as hexadecimal text; nothing for a shorter file."""
    with path.open("rb") as file:
        data = file.read(length)
    return hashlib.sha256(data).hexdigest() if len(data) == length else ""


@contextmanager
def _writer_threads_are_quiet() -> Iterator[None]:
    """Within the block no traceback is printed of a TensorBoard thread: it hands its error to the next call of its writer."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if getattr(failure.thread, "exception", None) is not failure.exc_value:
            before(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
