"""Draw the committed figures from the data in ``results``: ``python scripts/figures.py``; ``check=true`` only says what is out of date.

Each is one of a report, whose command stands in :data:`REPORTS`. ``results/figures.json`` has a digest of what each was drawn from.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.main import run_main
from sparse_offline_rl.cli.report import ReportOptions
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import read_json, write_bytes, write_json
from sparse_offline_rl.reports.write import write_report

ROOT = Path(__file__).resolve().parent.parent
DIGESTS = "results/figures.json"


class FiguresOptions(Options):
    """Draw the committed figures from the data in results: python scripts/figures.py"""

    root: Path = Field(ROOT, description="the clone whose figures are drawn")
    check: bool = Field(False, description="only say what is out of date, and end with status 2 if something is")


@dataclass(frozen=True)
class Report:
    """One ``report`` command, and which of its figures are kept where."""

    runs: tuple[str, ...]  # folders below the clone
    where: str
    figures: tuple[tuple[str, str], ...]  # file of the report, place below the clone

    def digest(self, root: Path) -> str:
        """Of the command and of all data that it reads."""
        found = hashlib.sha256(repr((self.runs, self.where)).encode())
        for path in self._data(root):
            found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
        return found.hexdigest()

    def _data(self, root: Path) -> Iterator[Path]:
        for folder in self.runs:
            if not (root / folder).is_dir():
                raise UserError(f"{root / folder} is no folder: give root= the folder of a clone.")
            yield from (it for it in sorted((root / folder).rglob("*")) if it.suffix in (".csv", ".json", ".yaml"))

    def draw(self, root: Path) -> None:
        """Make the report in a temporary folder and keep its figures."""
        runs = ",".join(str(root / folder) for folder in self.runs)
        with tempfile.TemporaryDirectory() as folder:
            options = ReportOptions.model_validate({"runs": runs, "out": folder, "where": self.where})
            write_report(options.folders(), options.out, options.axes())
            for name, place in self.figures:
                drawn = Path(folder) / name
                if not drawn.is_file():
                    raise UserError(
                        f"{place}: its report has no {name} any more; name in REPORTS one of {', '.join(sorted(it.name for it in options.out.glob('*.png')))}."
                    )
                write_bytes(root / place, drawn.read_bytes())


_STUDY = ("returns", "curves_seconds", "speed", "memory-1", "memory-2", "survivors-1", "survivors-2")
_WAYS = "synflow|rigl|snfs|iter_snip|grasp|snip|set|force"
REPORTS = (
    Report(("results/learning",), "agent=bc|bcq", (("curves_updates.png", "results/curves.png"),)),
    # Runs at 80 and 90 % are shorter, so they would be lines of their own.
    Report(
        ("results/study/data",),
        "sparsity=0.0|0.95|0.98|0.99|0.995",
        tuple((f"{name}.png", f"results/study/{name}.png") for name in _STUDY),
    ),
    Report(
        ("results/masks/data", "results/study/data"),
        "agent=bcq,dataset=expert,sparsity=0.0|0.99",
        (("overall.png", "results/masks/overall.png"),),
    ),
    Report(
        ("results/masks/data", "results/study/data"),
        f"agent=bcq,dataset=expert,sparsity=0.99,prune={_WAYS}",
        (("curves_updates.png", "results/masks/curves.png"),),
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(FiguresOptions, sys.argv[1:] if arguments is None else arguments)
        root, path = options.root, options.root / DIGESTS
        known = read_json(path) if path.is_file() else {}
        digests = {report: report.digest(root) for report in REPORTS}
        stale = [it for it in REPORTS if any(known.get(place) != digests[it] for _, place in it.figures)]
        places = [place for report in stale for _, place in report.figures]
        if places and options.check:
            raise UserError(
                f"{', '.join(places)}: not drawn from what results hold now; run python scripts/figures.py."
            )
        for report in stale:
            report.draw(root)
        if stale:
            write_json(path, {place: digest for report, digest in digests.items() for _, place in report.figures})
        print("\n".join(places) or "all figures are drawn from what results hold")


if __name__ == "__main__":
    run_main(main)
