"""``sparse-offline-rl report …``: figures and tables from run folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.reports.axes import PANEL, Axes, parse_keys, parse_value, parse_where
from sparse_offline_rl.reports.write import write_report


class ReportOptions(Options):
    """Make figures and tables from run folders, finished or not, or from the CSVs of an earlier report.

    sparse-offline-rl report runs=runs out=report
    sparse-offline-rl report runs=runs x=dataset.size by=prune,sparsity where=env=Hopper-v5
    sparse-offline-rl report runs=results/study/data,runs
    """

    runs: str = Field("runs", description="folders below which runs lie, or data/ of reports, with commas between them")
    out: Path = Field(Path("report"), description="the folder to write report.html, report.md, figures and CSVs to")
    x: str = Field("sparsity", description="the key on the horizontal axis")
    by: str = Field(
        "", description="the keys of which each combination is a line, e.g. prune,prune.scope; else all that differs"
    )
    panels: str = Field(",".join(PANEL), description="the keys of which each combination is a panel")
    at: str = Field("", description="the place on the axis in figures that have no room for all, e.g. 0.95")
    where: str = Field("", description="only runs with these values, e.g. prune=snip|none,dataset=expert")
    updates: int | None = Field(
        None,
        gt=0,
        description="where the table of equal training compares; else where a panel's shortest experiment ends",
    )
    seconds: float | None = Field(None, gt=0, allow_inf_nan=False, description="the same in seconds of training")

    @field_validator("runs")
    @classmethod
    def _names_folders(cls, text: str) -> str:
        if not all(folder.strip() for folder in text.split(",")):
            raise ValueError("write folders with commas between them, e.g. runs=results/study/data,runs")
        return text

    @field_validator("by", "panels", "where", "at")
    @classmethod
    def _parses(cls, text: str, field: ValidationInfo) -> str:
        if field.field_name == "at":
            parse_value(text)
        elif field.field_name == "where":
            parse_where(text)
        elif text or field.field_name == "panels":
            parse_keys(text)
        return text

    def folders(self) -> list[Path]:
        """Where the runs are; a folder that is there may have commas in its name."""
        if Path(self.runs).is_dir():
            return [Path(self.runs)]
        return [Path(folder.strip()) for folder in self.runs.split(",")]

    def axes(self) -> Axes:
        """What is compared by what."""
        by = parse_keys(self.by) if self.by else None
        at = parse_value(self.at) if self.at else None
        return Axes(self.x, by, parse_keys(self.panels), parse_where(self.where), at, self.updates, self.seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(ReportOptions, sys.argv[1:] if arguments is None else arguments)
        report = write_report(options.folders(), options.out, options.axes())
        for note in report.notes:
            print(f"note: {note}")
        print(f"{report.runs} runs, {report.finished} finished; written:")
        for file in report.files:
            print(f"  {file}")
        if report.removed:
            print(f"removed, of an earlier report: {', '.join(path.name for path in report.removed)}")
