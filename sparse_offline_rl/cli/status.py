"""``sparse-offline-rl status …``: which runs are done, running, failed, stopped or missing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.reports.status import STATES, Status, duration, seconds_to_go, statuses

_FEW = 20  # runs of which each has a line


class StatusOptions(Options):
    """Say how far runs have come.

    sparse-offline-rl status runs=runs
    sparse-offline-rl status sweep="experiment=study env=hopper"
    """

    runs: Path = Field(Path("runs"), description="the folder below which the runs lie")
    sweep: str = Field("", description="what the sweep was started with: shows its runs, also those that are missing")
    all: bool = Field(False, description="a line for every run, also for those that are done or like another")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(StatusOptions, sys.argv[1:] if arguments is None else arguments)
        if options.sweep:
            paths = _planned(_overrides(options.sweep))
        else:
            paths = sorted(config.parent for config in options.runs.rglob("config.yaml"))
            if not paths:
                raise UserError(
                    f"runs={options.runs} holds no run: train first, or give the folder that holds the runs."
                )
        found = statuses(paths)
        for line in map(_line, found) if options.all else _short(found):
            print(line)
        counts = {state: sum(status.state == state for status in found) for state in STATES}
        print(f"{len(found)} runs: {', '.join(f'{count} {state}' for state, count in counts.items() if count)}")
        if counts["done"] < len(found):
            print(f"time to go: {_time_to_go(found, max(1, counts['running']))}")


def _short(found: Sequence[Status]) -> Iterator[str]:
    """A line for each run that is not done; in a big sweep one for all that are missing, or failed alike."""
    left = [status for status in found if status.state != "done"]
    if len(found) <= _FEW:
        yield from map(_line, left)
        return
    groups: dict[object, list[Status]] = {}
    for status in left:
        alike = (status.state, status.remark) if status.state in ("missing", "failed") else status.path
        groups.setdefault(alike, []).append(status)
    for first, *others in groups.values():
        yield f"{_line(first)}, and {len(others)} more like it" if others else _line(first)
    if len(groups) < len(left):
        yield "all=true has a line for every run."


def _time_to_go(found: Sequence[Status], workers: int) -> str:
    seconds = seconds_to_go(found)
    return "not known yet" if seconds is None else f"{duration(seconds)} with {workers} at a time"


def _overrides(text: str) -> list[str]:
    """As a shell would take them apart. Raises UserError for a quotation that does not end."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"sweep={text} cannot be taken apart ({reason(error)}): mend its quotation marks.") from None


def _planned(overrides: list[str]) -> list[Path]:
    """The run folders of all jobs of a sweep. Raises UserError for overrides that name no key or choice."""
    from sparse_offline_rl.cli.configs import hydra_app, parse_flags  # Hydra takes a while, and most calls need none
    from sparse_offline_rl.cli.grids import run_folders
    from sparse_offline_rl.cli.overrides import check_overrides

    flags = parse_flags([text for text in overrides if text not in ("-m", "--multirun")])
    with hydra_app(flags) as app:
        check_overrides(app, flags, sweep=True)
        return run_folders(app, flags)


def _line(status: Status) -> str:
    parts = [f"{status.state:<9}{status.path}"]
    if status.updates:
        parts.append(f"{status.update} of {status.updates} updates")
    if status.last_return is not None:
        parts.append(f"return {status.last_return:.1f}")
    if status.state == "running" and status.seconds_left is not None:
        parts.append(f"{duration(status.seconds_left)} left")
    if status.remark:
        parts.append(status.remark)
    return ", ".join(parts)
