"""Metrics to ``metrics.csv`` and TensorBoard, under the same names; exact across a resume."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

EVALUATION_COLUMNS = ("eval/return_mean", "eval/return_std", "eval/normalized_score")


class MetricsWriter:
    """Appends rows to ``metrics.csv`` and points to TensorBoard.

    On a resume at ``update`` the CSV is cut back to ``offset`` bytes, where it stood at the checkpoint, and TensorBoard
    purges later points, so that both hold what an uninterrupted run would have written.
    """

    def __init__(self, run_dir: Path, offset: int = 0, update: int = 0) -> None:
        self._path = run_dir / "metrics.csv"
        self._file = self._path.open("r+" if offset else "w+", newline="", encoding="utf-8")
        self._csv: csv.DictWriter[str] | None = None
        if offset:
            self._csv = self._writer(next(csv.reader(self._file)))
            self._file.truncate(offset)
            self._file.seek(offset)
        self._board = SummaryWriter(str(run_dir), purge_step=update + 1 if offset else None)

    def write(self, update: int, values: Mapping[str, float]) -> None:
        """Add one row; the first one sets the columns, later ones may lack the evaluation's but never bring new ones."""
        if self._csv is None:
            self._csv = self._writer(list(dict.fromkeys(["update", *values, *EVALUATION_COLUMNS])))
            self._csv.writeheader()
        self._csv.writerow({"update": update} | {name: repr(value) for name, value in values.items()})
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, update)

    def sync(self) -> int:
        """Put everything on the disk; returns the CSV's length in bytes, for the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()
        return self._file.tell()

    def close(self) -> None:
        """Close both files."""
        self._file.close()
        self._board.close()

    def _writer(self, columns: list[str]) -> csv.DictWriter[str]:
        return csv.DictWriter(self._file, columns, restval="", lineterminator="\n")
