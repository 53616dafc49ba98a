"""``sparse-offline-rl report …``: figures and tables from run folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.reports.write import write_report


class ReportOptions(Options):
    """Make figures and tables from run folders, finished or not: sparse-offline-rl report runs=runs out=report"""

    runs: Path = Field(Path("runs"), description="the folder below which the runs lie")
    out: Path = Field(Path("report"), description="the folder to write report.md and its figures to")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(ReportOptions, sys.argv[1:] if arguments is None else arguments)
        report = write_report(options.runs, options.out)
        for note in report.notes:
            print(f"note: {note}")
        print(f"{report.runs} runs, {report.finished} finished; written:")
        for file in report.files:
            print(f"  {file}")
