"""What ``scripts/findings.py`` makes its tables of: parts of the committed runs, rows of methods, and the kinds of tables.

A table is a function from the text that stands in a page to the text that shall stand there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from sparse_offline_rl.config import shipped_settings, written
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.reports.progress import Evaluation
from sparse_offline_rl.reports.runs import Run
from sparse_offline_rl.reports.statistics import interquartile_mean, median_clock
from sparse_offline_rl.reports.store import read_runs

ROOT = Path(__file__).resolve().parent.parent
ENVS = {"hopper": "Hopper", "walker2d": "Walker2d", "halfcheetah": "HalfCheetah"}
Table = Callable[[str], str]
# Dense runs whose clocks other work disturbed: they took two to six times as long as their like. Their seconds count nowhere.
_DISTURBED = {f"bcq/halfcheetah-expert/none-network-0.0/seed{seed}" for seed in (1, 2)}
# Keys of a method that say when masks change: the text of a table says them, its rows do not.
_TIMES = (
    *("prune.every", "prune.start", "prune.until", "prune.levels"),
    *("prune.then.every", "prune.then.start", "prune.then.until"),
)
# Keys that the runs of a table have alike; a run from before a key there was has this value.
_USUAL = {
    "agent.lr_decay": None,
    "agent.twin": "copy_mask",
    "agent.vae_lr": 1e-3,
    "dataset.normalize": True,
    "dataset.size": 1_000_000,
    "init": "default",
    "distill.teacher": None,
    "soft.until": 0.0,
}


@dataclass(frozen=True)
class Part:
    """Runs of one agent on one dataset at one sparsity, of one or several stores in ``results``, the first of which has precedence.

    They are finished, on a million standardised transitions, and differ in nothing but the keys of pruning, which make rows of their own.
    """

    stores: tuple[str, ...]
    agent: str
    dataset: str
    sparsity: float
    updates: tuple[int, ...]  # the evaluations that count: an early and a late one, or the late one alone
    label: str = "`{}`"  # of its rows, made of what was typed after prune=
    length: int | None = None  # updates in all, where only runs of this length belong to it
    methods: tuple[str, ...] | None = None  # where only these belong to it, with their keys of pruning
    special: tuple[tuple[str, object], ...] = ()  # key, value: in what its runs are not as those of other parts
    begun: Part | None = None  # the runs that its pretrained runs go on from, whose seconds do not count

    def runs(self) -> list[Run]:
        """Those that belong to it."""
        return [run for store in self.stores for run in _store(store) if self._has(run)]

    def _has(self, run: Run) -> bool:
        key = (run.value("agent"), run.value("dataset"), run.settings["sparsity"])
        if run.summary is None or key != (self.agent, self.dataset, self.sparsity) or self.late(run) is None:
            return False
        wanted = _USUAL | dict(self.special)
        if any(run.settings.get(key, _USUAL.get(key)) != value for key, value in wanted.items()):
            return False
        return self.length in (None, run.settings["updates"]) and (self.methods is None or _typed(run) in self.methods)

    def typed(self, run: Run) -> str:
        """What was typed after ``prune=``, keys of other sections included."""
        return _with(self.special, _typed(run))

    def late(self, run: Run) -> Evaluation | None:
        """The last evaluation that counts; dense runs may be shorter."""
        found = [it for it in run.evaluations if it.update <= self.updates[-1]]
        return found[-1] if found and (run.dense or found[-1].update == self.updates[-1]) else None

    def seconds(self, run: Run) -> float | None:
        """Of training up to the late evaluation."""
        late, before = self.late(run), 0.0
        if late is None or late.seconds is None or run.name in _DISTURBED:
            return None
        if self.begun and run.settings["pretrained"]:
            (start,) = (it for it in self.begun.runs() if _task(it) == _task(run))
            before = self.begun.seconds(start) or 0.0
        return late.seconds - before

    def early(self, run: Run) -> Evaluation | None:
        """The first evaluation that counts, if there are two."""
        return next((it for it in run.evaluations if it.update == self.updates[0]), None)


def dense_of(part: Part) -> Part:
    """The dense agents that runs of ``part`` are compared with."""
    return replace(part, sparsity=0.0, methods=None, label="dense")


@dataclass(frozen=True)
class Row:
    """One method: environment -> its runs, a run a seed."""

    method: str  # what was typed after prune=
    part: Part
    cells: Mapping[str, Sequence[Run]]

    def texts(self, dense: Row) -> list[str]:
        """Its label, ``2373 / 3480 (3)`` for each environment (early and late return, seeds), share of the dense return, seconds and kB."""
        label = self.part.label.format(self.method)
        costs = (f"{self.seconds:.0f}", f"{self.kilobytes:.0f}")
        return [label, *(self.returns(env) for env in ENVS), self._share(dense), *costs]

    def _share(self, dense: Row) -> str:
        shares = {env: 100 * mean(self.late(env)) / mean(dense.late(env)) for env in self.cells if env in dense.cells}
        return ", ".join(number(shares[env]) if env in shares else "–" for env in ENVS)

    def returns(self, env: str) -> str:
        """``2373 / 3480 (3)``: early and late return, and the number of seeds; nothing where it has none."""
        if env not in self.cells:
            return ""
        means = [number(mean(found)) for found in (self._early(env), self.late(env)) if found]
        return f"{' / '.join(means)} ({len(self.cells[env])})"

    @property
    def late_returns(self) -> str:
        """``3480, 4267, 11372 (3)``: late return in each environment and the number of seeds."""
        means = (number(mean(self.late(env))) if env in self.cells else "–" for env in ENVS)
        return f"{', '.join(means)} ({self.seeds})"

    @property
    def seeds(self) -> str:
        """How many an environment has, ``1 to 3`` where that differs."""
        counts = sorted({len(runs) for runs in self.cells.values()})
        return " to ".join(map(str, (counts[0], *counts[1:][-1:])))

    def iqm(self, env: str) -> float:
        """Interquartile mean of the late returns over the seeds."""
        return interquartile_mean(self.late(env))

    def late(self, env: str) -> list[float]:
        """The late return of each seed."""
        return [it.mean for run in self.cells[env] if (it := self.part.late(run))]

    def _early(self, env: str) -> list[float]:
        two = len(self.part.updates) > 1
        return [it.mean for run in self.cells[env] if two and (it := self.part.early(run))]

    @property
    def seconds(self) -> float:
        """Of training up to the late evaluation, the mean over the environments of the medians over the seeds."""
        return mean([self.seconds_in(env) for env in self.cells])

    def seconds_in(self, env: str) -> float:
        """The same in one environment: of seeds, some are disturbed by other work."""
        return float(np.median([it for run in self.cells[env] if (it := self.part.seconds(run)) is not None]))

    def within(self, env: str, seconds: float) -> float:
        """Mean over the seeds of the return at the last evaluation within so many seconds; NaN if that is before the first.

        When an evaluation was is the median over the seeds, not each seed's own clock.
        """
        runs = [{it.update: it for it in run.evaluations if it.seconds is not None} for run in self.cells[env]]
        clock = median_clock([*run.values()] for run in runs)
        done = [at for at in set.intersection(*map(set, runs)) if clock[at] <= seconds]
        return mean([run[max(done)].mean for run in runs]) if done else np.nan

    @property
    def kilobytes(self) -> float:
        """Size of the policy file, the mean over the environments of the means over the seeds."""
        sizes = [[run.summary["policy_bytes"] / 1000 for run in runs if run.summary] for runs in self.cells.values()]
        return mean([mean(it) for it in sizes])

    @property
    def kept(self) -> dict[str, float]:
        """Environment -> late return in percent of that of the policy that made the data."""
        return {env: 100 * mean(self.late(env)) / policy_return(runs) for env, runs in self.cells.items()}

    @property
    def rank(self) -> tuple[int, float]:
        """Those with all environments first, then by what they keep."""
        return -len(self.cells), -mean(list(self.kept.values()))


def rows_of(parts: Sequence[Part]) -> list[Row]:
    """All methods of ``parts``, the best first."""
    found: dict[tuple[str, Part], dict[str, dict[int, Run]]] = {}
    for part in parts:
        for run in part.runs():
            seeds = found.setdefault((part.typed(run), part), {}).setdefault(str(run.settings["env.name"]), {})
            seeds.setdefault(run.seed, run)
    rows = [
        Row(method, part, {env: list(seeds.values()) for env, seeds in envs.items()})
        for (method, part), envs in found.items()
    ]
    return sorted(rows, key=lambda row: row.rank)


def by_environment(dense: Part, *parts: Part) -> Table:
    """A table with a row a method and a column an environment; the other columns are shares of ``dense``, which is a row, too, and costs."""

    def fill(_: str) -> str:
        rows = rows_of((dense, *parts))
        compared = next((row for row in rows if row.part == dense), None)
        if compared is None:
            raise UserError(f"{dense.stores}: no dense run to compare with; add its CSVs.")
        policy = _policy_returns(rows)
        when = " / ".join(f"{update / 1000:g}k" for update in parts[0].updates)
        head = ["", *(f"{name}, {when}" for name in ENVS.values()), "of dense, %", "seconds", "kB"]
        first = [
            "the dataset's own policy",
            *(number(policy[env]) if env in policy else "" for env in ENVS),
            *[""] * 3,
        ]
        table = [head, ["---", *["---:"] * (len(head) - 1)], first, *(row.texts(compared) for row in rows)]
        return markdown(table)

    return fill


def after_equal_seconds(part: Part, methods: Sequence[str]) -> Table:
    """A table of what all methods have returned when the quickest of ``methods``, in the median over its seeds, has done its updates."""

    def fill(_: str) -> str:
        named = _by_method([part])
        rows = [row for row in named.values() if len(row.cells) == len(ENVS)]
        limits = {env: min(named[method].seconds_in(env) for method in methods) for env in ENVS}
        found = {row.method: {env: row.within(env, limit) for env, limit in limits.items()} for row in rows}
        policy = _policy_returns(rows)
        best = sorted(found, key=lambda method: -np.nansum([found[method][env] / policy[env] for env in ENVS]))
        head = ["return after equal seconds", *(f"{name}, {limits[env]:.0f} s" for env, name in ENVS.items())]
        cells = [
            [f"`{method}`", *("–" if np.isnan(it) else number(it) for it in found[method].values())] for method in best
        ]
        return markdown([head, ["---", *["---:"] * len(ENVS)], *cells])

    return fill


def over_sparsity(
    title: str, agents: Mapping[str, Part], methods: Mapping[str, str], sparsities: Mapping[float, int]
) -> Table:
    """A row an agent, environment and method, a column a sparsity: the share of the dense agent's return that is kept, IQM over the seeds.

    In brackets the number of seeds where it is less than that of the dense agent. ``sparsities``: each with the updates after which it counts.
    """

    def fill(_: str) -> str:
        head = [title, "dense", *(f"{100 * it:g} %" for it in sparsities), "expert"]
        table = [head, ["---", *["---:"] * (len(sparsities) + 2)]]
        for agent, part in agents.items():
            (dense,) = rows_of([replace(part, sparsity=0.0)])
            found = [
                {row.method: row for row in rows_of([replace(part, sparsity=it, updates=(updates,))])}
                for it, updates in sparsities.items()
            ]
            policy = _policy_returns([row for rows in found for row in rows.values()])
            for env, name in ENVS.items():
                for method, pruner in methods.items():
                    shares = [kept_share(rows.get(method), dense, env) for rows in found]
                    label = ", ".join(it for it in (agent, name, pruner) if it)
                    if any(shares):
                        table.append([label, number(dense.iqm(env)), *shares, number(policy[env])])
        columns = [column for column in zip(*table, strict=True) if any(column[2:])]
        return markdown(list(zip(*columns, strict=True)))

    return fill


def kept_share(row: Row | None, dense: Row, env: str) -> str:
    """``98.6 %``: of the dense agents' late return, IQM over the seeds; ``98.6 % (2)`` where it has fewer seeds than they."""
    if row is None or env not in row.cells:
        return ""
    seeds = len(row.cells[env])
    share = f"{number(100 * row.iqm(env) / dense.iqm(env), 1)} %"
    return share if seeds >= len(dense.cells[env]) else f"{share} ({seeds})"


@dataclass(frozen=True)
class Setting:
    """A row of :func:`by_setting`: what is typed with every pruner, and the keys that its runs have in place of the usual ones."""

    label: str
    typed: str = ""
    special: tuple[tuple[str, object], ...] = ()


def by_setting(part: Part, settings: Sequence[Setting], pruners: Mapping[str, str]) -> Table:
    """A row a setting, a column a pruner (what is typed -> its name): mean returns on all environments, in brackets the seeds.

    A setting that says ``prune.scope`` takes the place of a pruner's own.
    """

    def fill(_: str) -> str:
        head = [f"return on {', '.join(ENVS.values())}", *pruners.values()]
        table = [head, ["---", *["---:"] * len(pruners)]]
        for setting in settings:
            parts = [replace(part, sparsity=it, special=setting.special) for it in (0.0, part.sparsity)]
            found = _by_method(parts)
            names = [pruner.split()[0] if "prune.scope" in setting.typed else pruner for pruner in pruners]
            rows = [found.get(_with(setting.special, f"{name} {setting.typed}".strip())) for name in names]
            table.append([setting.label, *(row.late_returns if row else "" for row in rows)])
        return markdown(table)

    return fill


def last_columns(*parts: Part) -> Table:
    """The table as it stands with its last columns filled anew: seeds, percent kept in each environment, and seconds."""

    def fill(body: str) -> str:
        rows = _by_method(parts)
        lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in body.splitlines()]
        for cells in lines:
            code = re.fullmatch(r"\**`([^`=]+(?: (?:prune|agent)\.[^`]+)?)`\**", cells[1]) if len(cells) > 3 else None
            if code:
                name = code[1].split()[0]
                if not shipped_settings("prune", name):  # it would look as if it had no runs
                    raise UserError(f"prune={name}: there is no such method; mend the first word in its row.")
                cells[-3:] = _summary(rows[code[1]]) if code[1] in rows else ["–"] * 3
        return markdown(lines)

    return fill


def _by_method(parts: Sequence[Part]) -> dict[str, Row]:
    rows = rows_of(parts)
    found = {row.method: row for row in rows}
    if len(found) < len(rows):
        raise ValueError(f"a method has several rows in {parts}")
    return found


def _summary(row: Row) -> list[str]:
    kept = (number(row.kept[env]) if env in row.cells else "–" for env in ENVS)
    return [row.seeds, ", ".join(kept), f"{row.seconds:.0f}"]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The lines of a table; the second of ``rows`` says how columns are aligned."""
    return "".join(f"|{'|'.join(map(_padded, row))}|\n" for row in rows)


def _padded(cell: str) -> str:
    if re.fullmatch("-+:?", cell):
        return cell
    return f" {cell} " if cell else " "


def _typed(run: Run) -> str:
    """``rigl``, or ``snip prune.scope=erk`` where a key is not as the method's own YAML has it."""
    name = str(run.value("prune"))
    own = shipped_settings("prune", name)
    keys = [key for key in own if key not in _TIMES and run.settings.get(key, own[key]) != own[key]]
    return " ".join([name, *(f"{key}={written(run.settings[key])}" for key in keys)])


def _with(special: Sequence[tuple[str, object]], typed: str) -> str:
    """What is typed, and these keys with their values."""
    return " ".join([typed, *(f"{key}={written(value)}" for key, value in special)])


@cache
def _store(name: str) -> list[Run]:
    return read_runs(ROOT / "results" / name)[0]


def _policy_returns(rows: Sequence[Row]) -> dict[str, float]:
    """Environment -> what the policy that made the data earns, as most of its runs say."""
    return {
        env: policy_return([run for row in rows for run in row.cells.get(env, ())])
        for env in ENVS
        if any(env in row.cells for row in rows)
    }


def policy_return(runs: Sequence[Run]) -> float:
    """What the policy that made the data earns, as most of ``runs`` say."""
    return float(np.median([run.policy_return for run in runs if run.policy_return is not None]))


def _task(run: Run) -> tuple[str, int]:
    return str(run.settings["env.name"]), run.seed


def number(value: float, digits: int = 0) -> str:
    """Rounded, with a true minus sign and no negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def mean(values: Sequence[float]) -> float:
    """As Python's own number."""
    return float(np.mean(values))
