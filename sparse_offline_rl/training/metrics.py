"""Metrics to ``metrics.csv`` and TensorBoard, under the same names, and the returns of single episodes to ``episodes.csv``."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from sparse_offline_rl.training.appended_csv import AppendedCsv, disk_errors

_LONGEST_WAIT = 40  # times a twentieth of a second; a clock that was set back is not waited for

# What an evaluation adds to a row.
EVALUATION_COLUMNS = ("eval/return_mean", "eval/return_std", "eval/normalized_score")


class MetricsWriter:
    """Appends rows to ``metrics.csv`` and points to TensorBoard.

    ``columns``, ``offset`` and ``sha256`` are those of :class:`AppendedCsv`. On a resume at ``update`` TensorBoard purges later points,
    so that both hold what an uninterrupted run would have written.
    """

    def __init__(
        self, run_dir: Path, columns: Sequence[str], offset: int = 0, sha256: str = "", update: int = 0
    ) -> None:
        self._run_dir = run_dir
        self._csv = AppendedCsv(run_dir / "metrics.csv", columns, offset, sha256)
        with ExitStack() as opened:
            opened.callback(self._csv.close)
            with disk_errors(run_dir):
                opened.enter_context(_writer_threads_are_quiet())
                _wait_for_a_new_second(run_dir)
                self._board = SummaryWriter(str(run_dir), purge_step=update + 1 if update else None)
            self._opened = opened.pop_all()

    def write(self, update: int, values: Mapping[str, float]) -> None:
        """Add one row. ValueError for a metric that is no column."""
        self._csv.write({"update": update} | {name: repr(value) for name, value in values.items()})
        with disk_errors(self._run_dir):
            for name, value in values.items():
                self._board.add_scalar(name, value, update)

    def sync(self) -> tuple[int, str]:
        """Put everything on the disk; returns the CSV's length in bytes and its digest, for the checkpoint."""
        with disk_errors(self._run_dir):
            self._board.flush()
        return self._csv.sync()

    def close(self) -> None:
        """Close both files; what a full disk still refuses was reported before."""
        with suppress(OSError):
            self._board.close()
        self._opened.close()


class EpisodesWriter(AppendedCsv):
    """Appends the return of each episode of an evaluation to ``episodes.csv``: a row an evaluation, a column an episode."""

    def __init__(self, run_dir: Path, episodes: int, offset: int = 0, sha256: str = "") -> None:
        columns = ["update", *(f"return_{number}" for number in range(episodes))]
        super().__init__(run_dir / "episodes.csv", columns, offset, sha256)

    def write_returns(self, update: int, returns: Iterable[float]) -> None:
        """Add the ``returns [episodes]`` of the evaluation after ``update``, to seven digits."""
        named = {f"return_{number}": f"{value:.7g}" for number, value in enumerate(returns)}
        self.write({"update": update} | named)


def _wait_for_a_new_second(run_dir: Path) -> None:
    """Wait until a new event file is named after all others: TensorBoard reads them by name, which begins with the second.

    Of two sessions in one second the numbers of the processes would decide, and the earlier one may purge what the later one wrote.
    """
    newest = max((path.name for path in run_dir.glob("events.out.tfevents.*")), default="")
    for _ in range(_LONGEST_WAIT):
        name = f"events.out.tfevents.{int(time.time()):010d}."
        if newest[: len(name)] < name:
            return
        time.sleep(0.05)


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
