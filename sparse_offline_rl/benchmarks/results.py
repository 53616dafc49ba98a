"""Tables of figures, the file that keeps them, and their Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sparse_offline_rl.errors import UserError, first_problem
from sparse_offline_rl.files import read_json, write_bytes, write_json

Cell = str | float | int | None
Row = dict[str, Cell]
_FORMAT = "sparse_offline_rl.benchmark/1"


@dataclass(frozen=True)
class Table:
    """Rows that share their columns; a column's name carries its unit."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    @property
    def columns(self) -> list[str]:
        """All columns, in the order in which the rows first name them."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


@dataclass(frozen=True)
class SectionResult:
    """A finished section and the circumstances under which it was measured."""

    title: str
    command: str
    machine: Mapping[str, str]
    quick: bool
    load_before: float | None  # running processes on average over the minute before
    seconds: float
    finished: str  # ISO date and time
    tables: Sequence[Table] = field(default_factory=list)


_SECTIONS = TypeAdapter(dict[str, SectionResult])


def load_results(path: Path) -> dict[str, SectionResult]:
    """The sections kept in ``path``, none if there is no file. Raises UserError for a file of another kind."""
    if not path.exists():
        return {}
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise UserError(f"{path} does not hold results of this benchmark: move it away, or choose another out=….")
    try:
        return _SECTIONS.validate_python(value.get("sections"))
    except ValidationError as error:
        raise UserError(
            f"{path} is damaged ({first_problem(error)}): restore it, or move it away and all is measured again."
        ) from None


def save_results(path: Path, sections: Mapping[str, SectionResult]) -> None:
    """Write all sections to ``path``, all or nothing."""
    write_json(path, {"format": _FORMAT, "sections": {name: asdict(section) for name, section in sections.items()}})


def format_cell(value: Cell) -> str:
    """Three significant digits at least, whole numbers whole, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def format_table(table: Table) -> str:
    """The table as padded text."""
    grid = [table.columns, *([format_cell(row.get(name)) for name in table.columns] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    numeric = [_numeric(table, name) for name in table.columns]
    lines = [
        "  ".join(
            c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True)
        ).rstrip()
        for cells in grid
    ]
    return "\n".join(["", table.title, "-" * len(table.title), *lines, *table.notes, ""])


def write_markdown(path: Path, sections: Mapping[str, SectionResult]) -> None:
    """All sections as Markdown; the machine is told once as long as it stays the same."""
    lines = ["# Benchmark", ""]
    lines += ["Written by `python scripts/benchmark.py`; each section names the command that measures it again."]
    machine: Mapping[str, str] = {}
    for section in sections.values():
        if section.machine != machine:
            machine = section.machine
            lines += [
                "",
                "| measured on | |",
                "|---|---|",
                *(f"| {name} | {value} |" for name, value in machine.items()),
            ]
        lines += _section_lines(section)
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _section_lines(section: SectionResult) -> list[str]:
    load = "unknown" if section.load_before is None else f"{section.load_before:g}"
    facts = f"`{section.command}`: {section.seconds:.0f} s, finished {section.finished}, load average before it {load}."
    lines = ["", f"## {section.title}", "", facts]
    if section.quick:
        lines += ["", "**A quick run: short and few repetitions. These are not results.**"]
    for table in section.tables:
        lines += ["", f"### {table.title}", "", "| " + " | ".join(table.columns) + " |"]
        lines.append("|" + "|".join("---:" if _numeric(table, name) else "---" for name in table.columns) + "|")
        lines += ["| " + " | ".join(format_cell(row.get(name)) for name in table.columns) + " |" for row in table.rows]
        lines += [line for note in table.notes for line in ("", note)]
    return lines


def _numeric(table: Table, column: str) -> bool:
    return any(isinstance(row.get(column), (int, float)) for row in table.rows)
