"""Tables of ``scripts/findings.py`` whose every cell is about runs of its own: what a cell can say, and how a table is made of cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import acting_study
import plain_torch_study
from findings_tables import (
    ENVS,
    ROOT,
    Part,
    Row,
    Table,
    dense_of,
    kept_share,
    markdown,
    mean,
    number,
    policy_return,
    rows_of,
)

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import read_csv
from sparse_offline_rl.reports.progress import Evaluation
from sparse_offline_rl.reports.runs import Run
from sparse_offline_rl.reports.statistics import first_reaching

Cell = Callable[[], str]


def of_cells(head: Sequence[str], rows: Mapping[str, Sequence[Cell]]) -> Table:
    """A table with a row for each label of ``rows``; a cell is evaluated when its page is filled, as stores are read then."""

    def fill(_: str) -> str:
        texts = [[label, *(cell() for cell in cells)] for label, cells in rows.items()]
        return markdown([head, ["---", *["---:"] * (len(head) - 1)], *texts])

    return fill


def text(words: str) -> Cell:
    """Words that no run says."""
    return lambda: words


def returns(part: Part, env: str) -> Cell:
    """``3477 (3)``: the mean of the late returns, and how many seeds."""
    return _about(part, env, lambda row: row.returns(env))


def of_the_data(part: Part, env: str) -> Cell:
    """``1056``: the mean return of the data's episodes."""
    return _about(part, env, lambda row: number(policy_return(row.cells[env])))


def share(part: Part, env: str) -> Cell:
    """``97.0 %``: of the dense agents' return, IQM over the seeds, whose number is said where the dense agents have more."""
    dense = dense_of(part)
    return lambda: kept_share(_row(part), _needed(dense, env), env)


def best(part: Part, env: str) -> Cell:
    """``3464``: the mean over the seeds of the best return until the late evaluation."""

    def said(row: Row) -> str:
        runs = row.cells[env]
        return number(mean([max(it.mean for it in run.evaluations if it.update <= part.updates[-1]) for run in runs]))

    return _about(part, env, said)


def each_seed(part: Part, env: str) -> Cell:
    """``11554, 10457 (94 %)``: the late return of each seed, and the share that their mean is of that of the dense agents."""
    dense = replace(dense_of(part), updates=(_LONGEST,))

    def said(row: Row) -> str:
        found = row.late(env)
        kept = 100 * mean(found) / mean(_needed(dense, env).late(env))
        return f"{', '.join(map(number, found))} ({kept:.0f} %)"

    return _about(part, env, said)


def seconds(part: Part, env: str, remark: str = "") -> Cell:
    """``250``: of training, the median over the seeds."""
    return _about(part, env, lambda row: f"{row.seconds_in(env):.0f}{remark}")


def kilobytes(part: Part) -> Cell:
    """``170 to 175``: the policy files of all environments and seeds, from the smallest to the largest."""
    return lambda: _span([run.summary["policy_bytes"] / 1000 for run in _runs(part) if run.summary])


def all_seconds(*parts: Part, env: str | None = None) -> Cell:
    """``61 to 105``: of training, the median over the seeds, of the quickest to the slowest part, in one environment or in all."""

    def said() -> str:
        rows = [row for part in parts if (row := _row(part))]
        return _span([row.seconds_in(it) for row in rows for it in row.cells if env in (None, it)])

    return said


def mean_at(part: Part, env: str, update: int) -> Cell:
    """``3479``: the mean over the seeds of the return after so many updates; nothing where one of them has no such evaluation."""

    def said(row: Row) -> str:
        found = [it.mean for run in row.cells[env] for it in run.evaluations if it.update == update]
        return number(mean(found)) if len(found) == len(row.cells[env]) else ""

    return _about(part, env, said)


def mean_of_all(part: Part, env: str) -> Cell:
    """``3472``: the mean over all evaluations of all seeds."""
    return _about(part, env, lambda row: number(mean([it.mean for run in row.cells[env] for it in run.evaluations])))


def seeds(part: Part, env: str) -> Cell:
    """How many it has."""
    return _about(part, env, lambda row: str(len(row.cells[env])))


def joined(*cells: Cell) -> Cell:
    """``3489 / 3487``: what several say; nothing where none of them says anything."""

    def said() -> str:
        found = [cell() for cell in cells]
        return " / ".join(found) if any(found) else ""

    return said


def first_crossing(part: Part, env: str) -> Cell:
    """``2.6 (700)``: seconds of training until the first evaluation with 95 % of the policy's return, and its update, of seed 0."""

    def said(row: Row) -> str:
        (run,) = (it for it in row.cells[env] if it.seed == 0)
        return _crossing(run.evaluations, run.policy_return or math.inf)

    return _about(part, env, said)


def plain_torch_crossing(agent: str, env: str) -> Cell:
    """The same of the usual torch code, dense (``scripts/plain_torch_study.py``)."""

    def cell() -> str:
        rows = committed(ROOT / "results/study/time/plain_torch.csv", plain_torch_study.COLUMNS)
        mine = [row for row in rows if (row["agent"], row["env"], row["seed"]) == (agent, env, "0")]
        evaluations = [
            Evaluation(int(row["update"]), float(row["train_seconds"]), float(row["return_mean"])) for row in mine
        ]
        return _crossing(evaluations, float(mine[0]["dataset_return_mean"])) if mine else ""

    return cell


def played(runs: str, acting: str) -> Cell:
    """``2509``: the mean return of the policies that ``scripts/acting_study.py`` played in this way, of runs that fit a pattern."""

    def cell() -> str:
        rows = committed(ROOT / "results/study/acting.csv", acting_study.COLUMNS)
        found = [float(row["return_mean"]) for row in rows if fnmatchcase(row["run"], runs) and row["acting"] == acting]
        return number(mean(found)) if found else ""

    return cell


@cache
def committed(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file of the results, which many cells are about. Raises UserError as ``read_csv`` does."""
    return read_csv(path, columns, "take it from git again")


_LONGEST = 10**9  # updates that no run has


def _crossing(evaluations: Sequence[Evaluation], policy_return: float) -> str:
    found = first_reaching(evaluations, 0.95 * policy_return)
    return f"{found.seconds:.1f} ({found.update})" if found else f"not within {evaluations[-1].update}"


def _span(values: Sequence[float]) -> str:
    """The smallest and the largest, rounded, or one number where that is the same."""
    ends = dict.fromkeys(f"{it:.0f}" for it in (min(values), max(values))) if values else {}
    return " to ".join(ends)


def _runs(part: Part) -> list[Run]:
    row = _row(part)
    return [run for found in row.cells.values() for run in found] if row else []


def _about(part: Part, env: str, said: Callable[[Row], str]) -> Cell:
    """What is ``said`` of the one row that the part has; nothing where it has no runs in this environment."""

    def cell() -> str:
        row = _row(part)
        return said(row) if row and env in row.cells else ""

    return cell


def _needed(part: Part, env: str) -> Row:
    row = _row(part)
    if row is None or env not in row.cells:
        raise UserError(f"{part.stores}: no dense run on {ENVS[env]} to compare with; add its CSVs.")
    return row


def _row(part: Part) -> Row | None:
    found = rows_of([part])
    if len(found) > 1:
        raise ValueError(f"{part} has several methods: {[row.method for row in found]}")
    return found[0] if found else None
