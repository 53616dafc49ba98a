"""Fill the tables of the findings from the CSVs in ``results``: ``python scripts/findings.py``; ``check=true`` only says what is out of date.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->`` in one of :data:`PAGES`; NAME is a key of :data:`TABLES`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import write_bytes
from sparse_offline_rl.reports.progress import Evaluation
from sparse_offline_rl.reports.runs import Run
from sparse_offline_rl.reports.statistics import interquartile_mean
from sparse_offline_rl.reports.store import read_runs

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "results/masks/README.md", "results/study/README.md")
ENVS = {"hopper": "Hopper", "walker2d": "Walker2d", "halfcheetah": "HalfCheetah"}
_BLOCK = re.compile(r"(<!-- table (?P<name>[\w-]+) -->\n)(?P<body>.*?)(?=<!-- end -->)", re.DOTALL)


class FindingsOptions(Options):
    """Fill the tables of the findings from the CSVs in results: python scripts/findings.py"""

    root: Path = Field(ROOT, description="the clone whose pages are filled")
    check: bool = Field(False, description="only say what is out of date, and end with status 2 if something is")


@dataclass(frozen=True)
class Part:
    """Runs of one agent on one dataset at one sparsity, of one or several stores in ``results``, the first of which has precedence."""

    stores: tuple[str, ...]
    agent: str
    dataset: str
    sparsity: float
    updates: tuple[int, ...]  # the evaluations that count: an early and a late one, or the late one alone
    label: str = "`{}`"  # of its rows, made of what was typed after prune=
    length: int | None = None  # updates in all, where only runs of this length belong to it
    begun: Part | None = None  # the runs that its runs go on from, whose seconds do not count

    def runs(self) -> list[Run]:
        """Those that belong to it: finished, on standardised observations, with no option set but the scope."""
        return [run for store in self.stores for run in _store(store) if self._has(run)]

    def _has(self, run: Run) -> bool:
        key = (run.value("agent"), run.value("dataset"), run.settings["sparsity"])
        if run.summary is None or key != (self.agent, self.dataset, self.sparsity) or self.late(run) is None:
            return False
        options = ("prune.shuffle_layerwise", "prune.reinit")
        plain = run.settings.get("dataset.normalize", True) and run.settings.get("init", "default") == "default"
        return (
            bool(plain) and not any(map(run.settings.get, options)) and self.length in (None, run.settings["updates"])
        )

    def late(self, run: Run) -> Evaluation | None:
        """The last evaluation that counts; dense runs may be shorter."""
        found = [it for it in run.evaluations if it.update <= self.updates[-1]]
        return found[-1] if found and (run.dense or found[-1].update == self.updates[-1]) else None

    def seconds(self, run: Run) -> float | None:
        """Of training up to the late evaluation."""
        late, before = self.late(run), 0.0
        if late is None or late.seconds is None:
            return None
        if self.begun:
            (start,) = (it for it in self.begun.runs() if _task(it) == _task(run))
            before = self.begun.seconds(start) or 0.0
        return late.seconds - before

    def early(self, run: Run) -> Evaluation | None:
        """The first evaluation that counts, if there are two."""
        return next((it for it in run.evaluations if it.update == self.updates[0]), None)


@dataclass(frozen=True)
class Row:
    """One method: environment -> its runs, a run a seed."""

    method: str  # what was typed after prune=
    part: Part
    cells: Mapping[str, Sequence[Run]]

    def texts(self) -> list[str]:
        """Its label, ``2373 / 3480 (3)`` for each environment (early and late return, seeds), and seconds."""
        return [self.part.label.format(self.method), *(self._returns(env) for env in ENVS), f"{self.seconds:.0f}"]

    def _returns(self, env: str) -> str:
        if env not in self.cells:
            return ""
        means = [f"{_mean(found):.0f}" for found in (self._early(env), self._late(env)) if found]
        return f"{' / '.join(means)} ({len(self.cells[env])})"

    def iqm(self, env: str) -> float:
        """Interquartile mean of the late returns over the seeds."""
        return interquartile_mean(self._late(env))

    def _late(self, env: str) -> list[float]:
        return [it.mean for run in self.cells[env] if (it := self.part.late(run))]

    def _early(self, env: str) -> list[float]:
        two = len(self.part.updates) > 1
        return [it.mean for run in self.cells[env] if two and (it := self.part.early(run))]

    @property
    def seconds(self) -> float:
        """Of training up to the late evaluation, the mean over the environments of those of the seed that was disturbed least."""
        return _mean([min(self.seconds_in(env)) for env in self.cells])

    def seconds_in(self, env: str) -> list[float]:
        """The same in one environment, of each seed."""
        return [it for run in self.cells[env] if (it := self.part.seconds(run)) is not None]

    def within(self, env: str, seconds: float) -> float:
        """Mean over the seeds of the last return within so many seconds of training; NaN where a seed has none."""
        found = [[it.mean for it in run.evaluations if (it.seconds or 0) <= seconds] for run in self.cells[env]]
        return _mean([means[-1] if means else np.nan for means in found])

    @property
    def kept(self) -> dict[str, float]:
        """Environment -> late return in percent of that of the policy that made the data."""
        return {env: 100 * _mean(self._late(env)) / _policy_return(runs) for env, runs in self.cells.items()}

    @property
    def rank(self) -> tuple[int, float]:
        """Those with all environments first, then by what they keep."""
        return -len(self.cells), -_mean(list(self.kept.values()))


def rows_of(parts: Sequence[Part]) -> list[Row]:
    """All methods of ``parts``, the best first."""
    found: dict[tuple[str, Part], dict[str, dict[int, Run]]] = {}
    for part in parts:
        for run in part.runs():
            seeds = found.setdefault((_typed(run), part), {}).setdefault(str(run.settings["env.name"]), {})
            seeds.setdefault(run.seed, run)
    rows = [
        Row(method, part, {env: list(seeds.values()) for env, seeds in envs.items()})
        for (method, part), envs in found.items()
    ]
    return sorted(rows, key=lambda row: row.rank)


def by_environment(*parts: Part) -> Callable[[str], str]:
    """A table with a row a method and a column an environment."""

    def fill(_: str) -> str:
        rows = rows_of(parts)
        when = " / ".join(f"{update // 1000}k" for update in parts[0].updates)
        head = ["", *(f"{name}, {when}" for name in ENVS.values()), "seconds"]
        policy = {env: _policy_return(runs) for row in rows for env, runs in row.cells.items()}
        first = ["the dataset's own policy", *(f"{policy[env]:.0f}" for env in ENVS), ""]
        return _markdown([head, ["---", *["---:"] * (len(ENVS) + 1)], first, *(row.texts() for row in rows)])

    return fill


def after_equal_seconds(part: Part, methods: Sequence[str]) -> Callable[[str], str]:
    """A table of what ``methods`` have returned when the quickest of them, in the mean over its seeds, has done its updates."""

    def fill(_: str) -> str:
        rows = [row for row in rows_of([part]) if row.method in methods]
        limits = {env: min(_mean(row.seconds_in(env)) for row in rows) for env in ENVS}
        found = {row.method: {env: row.within(env, limit) for env, limit in limits.items()} for row in rows}
        policy = {env: _policy_return(runs) for row in rows for env, runs in row.cells.items()}
        best = sorted(found, key=lambda method: -sum(found[method][env] / policy[env] for env in ENVS))
        head = ["return after equal seconds", *(f"{name}, {limits[env]:.0f} s" for env, name in ENVS.items())]
        cells = [[f"`{method}`", *(f"{found[method][env]:.0f}" for env in ENVS)] for method in best]
        return _markdown([head, ["---", *["---:"] * len(ENVS)], *cells])

    return fill


def over_sparsity(
    title: str, agents: Mapping[str, Part], methods: Mapping[str, str], sparsities: Sequence[float]
) -> Callable[[str], str]:
    """A row an agent, environment and method, a column a sparsity: the share of the dense agent's return that is kept, IQM over the seeds.

    In brackets the number of seeds where it is less than that of the dense agent.
    """

    def fill(_: str) -> str:
        head = [title, "dense", *(f"{100 * it:g} %" for it in sparsities), "expert"]
        table = [head, ["---", *["---:"] * (len(sparsities) + 2)]]
        for agent, part in agents.items():
            (dense,) = rows_of([replace(part, sparsity=0.0)])
            found = [{row.method: row for row in rows_of([replace(part, sparsity=it)])} for it in sparsities]
            for env, name in ENVS.items():
                runs = [run for rows in found for row in rows.values() for run in row.cells.get(env, ())]
                for method, pruner in methods.items():
                    shares = [_share(rows.get(method), dense, env) for rows in found]
                    label = ", ".join(it for it in (agent, name, pruner) if it)
                    if any(shares):
                        table.append([label, f"{dense.iqm(env):.0f}", *shares, f"{_policy_return(runs):.0f}"])
        return _markdown(table)

    return fill


def _share(row: Row | None, dense: Row, env: str) -> str:
    if row is None or env not in row.cells:
        return ""
    seeds = len(row.cells[env])
    share = f"{100 * row.iqm(env) / dense.iqm(env):.1f} %".replace("-", "−")
    return share if seeds >= len(dense.cells[env]) else f"{share} ({seeds})"


def last_columns(*parts: Part) -> Callable[[str], str]:
    """The table as it stands with its last columns filled anew: seeds, percent kept in each environment, and seconds."""

    def fill(body: str) -> str:
        rows = {row.method: row for row in reversed(rows_of(parts))}
        lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in body.splitlines()]
        for cells in lines:
            code = re.fullmatch(r"\**`([^`=]+(?: prune\.[^`]+)?)`\**", cells[1]) if len(cells) > 3 else None
            if code:
                cells[-3:] = _summary(rows[code[1]]) if code[1] in rows else ["–"] * 3
        return _markdown(lines)

    return fill


def _summary(row: Row) -> list[str]:
    seeds = [len(runs) for runs in row.cells.values()]
    kept = (f"{row.kept[env]:.0f}".replace("-0", "0").replace("-", "−") if env in row.cells else "–" for env in ENVS)
    return [
        f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}",
        ", ".join(kept),
        f"{row.seconds:.0f}",
    ]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = (f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |") for row in rows)
    return "".join(re.sub(r" (-+:?) (?=\|)", r"\1", line) + "\n" for line in lines)


def _typed(run: Run) -> str:
    """``rigl``, or ``snip prune.scope=erk`` where a key is not as the method's own YAML has it."""
    name = str(run.value("prune"))
    own = _own_settings(name)
    keys = [key for key in ("score", "rounds", "scope") if run.settings.get(f"prune.{key}", own[key]) != own[key]]
    return " ".join([name, *(f"prune.{key}={run.settings[f'prune.{key}']}" for key in keys)])


@cache
def _own_settings(name: str) -> dict[str, object]:
    return dict(yaml.safe_load((ROOT / "configs" / "prune" / f"{name}.yaml").read_text()))


@cache
def _store(name: str) -> list[Run]:
    return read_runs(ROOT / "results" / name)[0]


def _policy_return(runs: Sequence[Run]) -> float:
    return float(np.median([run.policy_return for run in runs if run.policy_return is not None]))


def _task(run: Run) -> tuple[str, int]:
    return str(run.settings["env.name"]), run.seed


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


_SCRATCH = ("masks/data", "study/data")
_AFTER = ("masks/after",)
_BCQ_99 = Part(_SCRATCH, "bcq", "expert", 0.99, (10_000, 50_000))
_BC_DENSE = Part(_AFTER, "bc", "expert", 0.0, (20_000,), "dense, 20,000 updates", 20_000)
_BC_99 = Part(_AFTER, "bc", "expert", 0.99, (40_000,), begun=_BC_DENSE)
_BCQ_95 = Part(_SCRATCH, "bcq", "expert", 0.95, (5_000, 20_000))
_MEDIUM_99 = Part(_SCRATCH, "bcq", "medium", 0.99, (10_000, 20_000))
_MEDIUM_95 = Part(_SCRATCH, "bcq", "medium", 0.95, (5_000, 10_000))
_EIGENDAMAGE = replace(_BC_99, sparsity=0.95, label="`{}` at 95 %")
_LONGER = replace(_BC_99, sparsity=0.0, label="dense, 40,000 updates", length=40_000)


def _with_dense(part: Part, label: str) -> tuple[Part, Part]:
    return part, replace(part, sparsity=0.0, label=label)


_STUDY = {
    "BCQ": Part(("study/data", "masks/data"), "bcq", "expert", 0.95, (50_000,)),
    "BC": Part(("study/data",), "bc", "expert", 0.95, (50_000,)),
}
_SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_PRUNERS = {
    "snip": "SNIP",
    "grasp": "GraSP",
    "random prune.scope=erk": "random, ERK",
    "random prune.scope=layer": "random, uniform",
}

TABLES: dict[str, Callable[[str], str]] = {
    "study": over_sparsity("share of the dense return that SNIP keeps", _STUDY, {"snip": ""}, _SPARSITIES[2:]),
    "study-bcq": over_sparsity("BCQ", {"": _STUDY["BCQ"]}, _PRUNERS, _SPARSITIES),
    "study-bc": over_sparsity("BC", {"": _STUDY["BC"]}, _PRUNERS, _SPARSITIES),
    "from-scratch": last_columns(*_with_dense(_BCQ_99, "dense")),
    "from-dense": last_columns(_BC_99, _LONGER, _EIGENDAMAGE),
    "bcq-expert-99": by_environment(*_with_dense(_BCQ_99, "dense, 20,000 updates (HalfCheetah 50,000)")),
    "bcq-expert-99-seconds": after_equal_seconds(
        _BCQ_99, ("synflow", "snfs", "rigl", "grasp", "iter_snip", "snip", "snip prune.scope=erk", "force", "set")
    ),
    "bcq-expert-95": by_environment(*_with_dense(_BCQ_95, "dense")),
    "bcq-medium-99": by_environment(*_with_dense(_MEDIUM_99, "dense")),
    "bcq-medium-95": by_environment(*_with_dense(_MEDIUM_95, "dense")),
    "bc-after-99": by_environment(
        _BC_99,
        _LONGER,
        _EIGENDAMAGE,
        _BC_DENSE,
        replace(_BC_99, sparsity=0.995, label="`{}` at 99.5 %"),
    ),
}


def filled(text: str) -> str:
    """A page with all its tables made anew. Raises UserError for a name that is none of :data:`TABLES`."""

    def fill(block: re.Match[str]) -> str:
        if block["name"] not in TABLES:
            raise UserError(f"<!-- table {block['name']} -->: there is no such table; take one of {', '.join(TABLES)}.")
        return block[1] + TABLES[block["name"]](block["body"])

    return _BLOCK.sub(fill, text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(FindingsOptions, sys.argv[1:] if arguments is None else arguments)
        pages = {options.root / page: (options.root / page).read_text(encoding="utf-8") for page in PAGES}
        stale = {page: new for page, text in pages.items() if (new := filled(text)) != text}
        if stale and options.check:
            raise UserError(f"{', '.join(map(str, stale))}: not what results say; run python scripts/findings.py.")
        for page, text in stale.items():
            write_bytes(page, text.encode())
            print(page)


if __name__ == "__main__":
    main()
