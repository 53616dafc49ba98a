"""What ``metrics.csv`` and ``episodes.csv`` of a run folder say of how the run went."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_DENSITY, _EVER, _FIRST = "layer_density/", "masks/ever_kept/", "masks/first_kept/"


class Movement(NamedTuple):
    """How far the masks of a network have moved."""

    ever_kept: float  # share of all positions
    first_kept: float  # share of the first mask's weights that are kept now


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run."""

    update: int
    seconds: float | None  # of training up to it, where they are known
    mean: float  # return
    returns: tuple[float, ...] = ()  # of its episodes, where they were kept


@dataclass(frozen=True)
class Progress:
    """How far a run has come, and what it logged on the way."""

    evaluations: list[Evaluation]
    update: int  # the last one logged
    densities: Mapping[
        int, Mapping[str, float]
    ]  # update -> layer -> share of its weights kept, wherever that changed, if it did
    movement: Mapping[int, Mapping[str, Movement]]  # update -> network -> …, wherever that changed, if masks may change
    train_seconds: float | None  # up to the last row


def read_progress(run_dir: Path) -> Progress:
    """Read the files of ``run_dir``, which need not be there. Raises what csv and float do for damaged ones.

    Training seconds are the updates between two rows by their rate, summed up: the clock itself is not logged.
    """
    episodes = {int(row.pop("update")): row for row in _rows(run_dir / "episodes.csv")}
    evaluations: list[Evaluation] = []
    densities: dict[int, dict[str, float]] = {}
    movement: dict[int, dict[str, Movement]] = {}
    last, seconds = 0, 0.0
    timed = True
    for row in _rows(run_dir / "metrics.csv"):
        update, rate = int(row["update"]), float(row.get("time/updates_per_second") or 0)
        timed = timed and rate > 0
        seconds += (update - last) / rate if timed else 0
        last = update
        shares = {name.removeprefix(_DENSITY): float(v) for name, v in row.items() if name.startswith(_DENSITY) and v}
        if shares and shares != next(reversed(densities.values()), None):
            densities[update] = shares
        moved = {
            name.removeprefix(_EVER): Movement(float(v), float(row[name.replace(_EVER, _FIRST)]))
            for name, v in row.items()
            if name.startswith(_EVER) and v
        }
        if moved and moved != next(reversed(movement.values()), None):
            movement[update] = moved
        if row["eval/return_mean"]:
            returns = tuple(float(value) for value in episodes.get(update, {}).values())
            evaluations.append(Evaluation(update, seconds if timed else None, float(row["eval/return_mean"]), returns))
    return Progress(evaluations, last, densities if len(densities) > 1 else {}, movement, seconds if timed else None)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV; one that is just being written is passed over."""
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            yield from (row for row in csv.DictReader(file) if None not in row.values())
