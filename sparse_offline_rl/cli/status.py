"""``sparse-offline-rl status …``: which runs are done, running, failed, stopped or missing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.reports.status import STATES, Status, duration, seconds_to_go, statuses


class StatusOptions(Options):
    """Say how far runs have come.

    sparse-offline-rl status runs=runs
    sparse-offline-rl status sweep="experiment=study env=hopper"
    """

    runs: Path = Field(Path("runs"), description="the folder below which the runs lie")
    sweep: str = Field("", description="what the sweep was started with: shows its runs, also those that are missing")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(StatusOptions, sys.argv[1:] if arguments is None else arguments)
        if options.sweep:
            paths = _planned(shlex.split(options.sweep))
        else:
            paths = sorted(config.parent for config in options.runs.rglob("config.yaml"))
            if not paths:
                raise UserError(
                    f"runs={options.runs} holds no run: train first, or give the folder that holds the runs."
                )
        found = statuses(paths)
        for status in found:
            if status.state != "done":
                print(_line(status))
        counts = {state: sum(status.state == state for status in found) for state in STATES}
        print(f"{len(found)} runs: {', '.join(f'{count} {state}' for state, count in counts.items() if count)}")
        if counts["done"] < len(found):
            print(f"time to go: {duration(seconds_to_go(found))} with {max(1, counts['running'])} at a time")


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
    if status.state == "running":
        parts.append(f"{duration(status.seconds_left)} left")
    if status.remark:
        parts.append(status.remark)
    return ", ".join(parts)
