"""Tables about measurements: those of the benchmark (``results/benchmark.json`` and its like), of compressed policies and of batch sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import batch_study
from findings_cells import Cell, committed, joined, of_cells, text
from findings_tables import ENVS, ROOT, Table, mean, number

from sparse_offline_rl.benchmarks.results import SectionResult, load_results
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import read_json

COMPRESSED_COLUMNS = (
    *("run", "env", "prune", "sparsity", "how", "bytes", "episodes"),
    *("return_mean", "return_std", "return_min"),
)


@dataclass(frozen=True)
class Measured:
    """A table of the benchmark: its folder in ``results``, its section and its title there."""

    folder: str
    section: str
    title: str

    def value(self, column: str, **row: object) -> float:
        """The number in ``column`` of the one row that has these values.

        Raises UserError where the file has no such row, or several, or no number there.
        """
        path = ROOT / "results" / self.folder / "benchmark.json"
        sections = _benchmark(path)
        tables = sections[self.section].tables if self.section in sections else ()
        rows = [it for table in tables if table.title == self.title for it in table.rows]
        found = [it for it in rows if all(it.get(key) == value for key, value in row.items())]
        value = found[0].get(column) if len(found) == 1 else None
        if not isinstance(value, int | float):
            raise UserError(
                f"{path}, {self.title}: no single row {row} with a number for {column}; measure section "
                f"{self.section} again, or mend scripts/findings_measured.py."
            )
        return value

    def cell(self, column: str, **row: object) -> Cell:
        """That number, with three significant digits."""
        return lambda: significant(self.value(column, **row))

    def ratio(self, column: str, row: Mapping[str, object], other: Mapping[str, object]) -> Cell:
        """``19.5 ×``: how many times the number of one row is that of another."""
        return lambda: f"{significant(self.value(column, **row) / self.value(column, **other))} ×"


@cache
def _benchmark(path: Path) -> dict[str, SectionResult]:
    return load_results(path)


def significant(value: float) -> str:
    """Three significant digits: ``1.12``, ``11.0``, ``1190``."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def bracketed(cell: Cell, other: Cell) -> Cell:
    """``87.0 (19.7 ×)``: what one says, and another in brackets."""
    return lambda: f"{cell()} ({other()})"


_UPDATES = Measured("", "updates", "BCQ and BC")
_THREADS = Measured("", "updates", "Two cores: two runs side by side, or one run on two threads (BCQ)")
_LAYER = Measured("", "layer", "750×750, 5% of the weights, uniformly random")
_PEERS = Measured("", "peers", "Whole updates of BCQ")
_ACTING = Measured("", "acting", "Latency of one action")
_POLICY = Measured("", "files", "Size of the policy file")
_CHECKPOINT = Measured("", "files", "Size of the checkpoint with Adam's moments and targets")
_WIDE = Measured("", "costs", "Wider networks with as many surviving weights")
_AGENTS = Measured("benchmark_agents", "agents", "Whole updates of TD3+BC and IQL")
_AGENTS_ACTING = Measured("benchmark_agents", "agents", "Latency of one action, TD3+BC and IQL")

_SPARSITIES = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)
_OURS = "ours, sparse engine, sparsity 0.95"
_ACT_OURS = "ours, `load_policy(…).act`, sparsity 0.95"
_ACT_TORCH = "torch eager, dense"


def _rates(engine: str, threads: int) -> list[Cell]:
    of = {"agent": "bcq", "engine": engine, "threads": threads}
    return [
        _UPDATES.cell("updates/s", sparsity=it, **of) if it or engine == "dense" else text("–") for it in _SPARSITIES
    ]


def _race(who: str) -> list[Cell]:
    ours, other = {"threads": 1, "who": _OURS}, {"threads": 1, "who": who}
    return [_PEERS.cell("updates/s", **other), text("") if who == _OURS else _PEERS.ratio("updates/s", ours, other)]


def _layer(column: str) -> list[Cell]:
    libraries = ("sparse engine", "torch dense", "torch CSR", "sparseprop 0.1.14")
    return [_LAYER.cell(column, batch=1024, library=it) for it in libraries]


def _latency(agent: str) -> list[Cell]:
    return [
        *(_ACTING.cell(column, agent=agent, how=_ACT_OURS) for column in ("p50 µs", "p99 µs")),
        *(_ACTING.cell("p50 µs", agent=agent, how=it) for it in (_ACT_TORCH, "ONNX Runtime, dense")),
    ]


def _sizes(files: Measured, *columns: str) -> list[Cell]:
    return [files.cell(it, agent="bcq", sparsity=0.95) for it in columns]


def _policy_sizes() -> list[Cell]:
    ours, dense, *others = _sizes(_POLICY, "ours kB", "dense kB", "COO kB", "bound kB")
    unpruned = _POLICY.cell("ours kB", agent="bcq", sparsity=0.0)
    return [ours, bracketed(dense, lambda: f"our file, unpruned: {unpruned()}"), *others]


def _two_cores(runs: str) -> Sequence[Cell]:
    column, of = "updates/s together", {"engine and sparsity": "sparse 0.95"}
    one = {**of, "runs": "one run"}

    def compared() -> str:
        times = _THREADS.ratio(column, {**of, "runs": runs}, one)()
        return f"one thread {_THREADS.cell(column, **one)()} ({times})"

    return [_THREADS.cell(column, **{**of, "runs": runs}), compared]


def _four_times_wider() -> Sequence[Cell]:
    def of(width: int, engine: str) -> dict[str, object]:
        return {"hidden widths ×": width, "engine": engine}

    def compared() -> str:
        usual, dense, dense_usual = (
            _WIDE.cell("updates/s", **of(*it))() for it in ((1, "sparse"), (4, "dense"), (1, "dense"))
        )
        times = _WIDE.ratio("updates/s", of(4, "sparse"), of(4, "dense"))()
        return f"the usual width {usual}; dense engine {dense} ({times}), at the usual width {dense_usual}"

    return [_WIDE.cell("updates/s", **of(4, "sparse")), compared]


def _agents_race(who: str, compared: bool = False) -> list[Cell]:
    def of(agent: str, name: str) -> dict[str, object]:
        return {"agent": agent, "who": name}

    cells = [_AGENTS.cell("updates/s", **of(agent, who)) for agent in ("td3bc", "iql")]
    if not compared:
        return cells
    times = [_AGENTS.ratio("updates/s", of(agent, _OURS), of(agent, who)) for agent in ("td3bc", "iql")]
    return [bracketed(cell, ratio) for cell, ratio in zip(cells, times, strict=True)]


def _agents_latency(how: str) -> list[Cell]:
    return [_AGENTS_ACTING.cell("p50 µs", agent=agent, how=how) for agent in ("td3bc", "iql")]


def _compressed(run: str, how: str, episodes: int) -> dict[str, str] | None:
    rows = committed(ROOT / "results/compress/returns.csv", COMPRESSED_COLUMNS)
    found = [it for it in rows if (it["run"], it["how"], it["episodes"]) == (run, how, str(episodes))]
    return found[0] if found else None


def _file_and_return(run: str, how: str, episodes: int = 20) -> list[Cell]:
    """Kilobytes of the file, and mean and standard deviation of its returns over the episodes; nothing where it was not played."""

    def size() -> str:
        row = _compressed(run, how, episodes)
        return significant(int(row["bytes"]) / 1000) if row else ""

    def played() -> str:
        row = _compressed(run, how, episodes)
        return f"{number(float(row['return_mean']))} ± {number(float(row['return_std']))}" if row else ""

    return [size, played]


def _before_and_after(env: str, how: str, seeds: Sequence[int] = (0, 1, 2), episodes: int = 100) -> list[Cell]:
    """Returns of the study's policies with falling learning rates, before and after, and the share of their mean that is kept."""

    def earned(seed: int, how: str) -> float:
        run = f"results/study/rates {env}/synflow seed{seed}"
        row = _compressed(run, how, episodes)
        if row is None:
            raise UserError(f"results/compress/returns.csv: {run} was not played {how}; take it from git again.")
        return float(row["return_mean"])

    def kept() -> str:
        after, before = (mean([earned(seed, it) for seed in seeds]) for it in (how, "before"))
        return f"{number(100 * after / before, 1)} %"

    def said(seed: int, how: str) -> Cell:
        return lambda: number(earned(seed, how))

    return [*(joined(said(seed, "before"), said(seed, how)) for seed in seeds), kept]


def _fewest_steps(batch_size: int, sparsity: float) -> Cell:
    """``585 (0.003)``: steps to the goal of ``scripts/batch_study.py`` with the best learning rate, and that rate."""

    def cell() -> str:
        folder = ROOT / "results/batch"
        found = _best_batches(folder).get((batch_size, sparsity))
        return (
            f"{found.steps} ({found.cell.rate:g})"
            if found
            else f"more than {read_json(folder / 'settings.json')['steps']}"
        )

    return cell


@cache
def _best_batches(folder: Path) -> dict[tuple[int, float], batch_study.Outcome]:
    return batch_study.best(batch_study.read(folder))


_POLICIES = ("hopper-95", "halfcheetah-95", "hopper-99")


def _compressed_row(how: str) -> list[Cell]:
    return [cell for run in _POLICIES for cell in _file_and_return(run, how)]


TABLES: dict[str, Table] = {
    "speed": of_cells(
        ("BCQ updates/s", *(f"sparsity {it:g}" if not it else f"{it:g}" for it in _SPARSITIES)),
        {
            "sparse engine": _rates("sparse", 1),
            "… on two threads": _rates("sparse", 2),
            "dense engine (masked, without idle hidden units)": _rates("dense", 1),
        },
    ),
    "speed-peers": of_cells(
        ("BCQ updates/s at sparsity 0.95", "updates/s", "sparse engine faster by"),
        {
            "sparse engine, one thread, in this race": _race(_OURS),
            "d3rlpy 2.8.1, dense, equal sizes": _race("d3rlpy 2.8.1"),
            "the usual torch code, dense": _race("plain torch, dense"),
            "the usual torch code with masks": _race("plain torch, masks of sparsity 0.95"),
            "our own dense engine, unpruned": _race("ours, dense engine"),
        },
    ),
    "speed-layer": of_cells(
        ("one layer 750×750, 5 %, batch 1024, ms", "ours", "torch dense", "torch CSR", "SparseProp"),
        {"forward": _layer("forward ms"), "forward and backward": _layer("forward + backward ms")},
    ),
    "speed-acting": of_cells(
        (
            *("acting on one observation at 0.95, µs", "ours, p50", "ours, p99"),
            *("torch dense, p50", "ONNX Runtime dense, p50"),
        ),
        {"BC": _latency("bc"), "BCQ (100 candidates)": _latency("bcq")},
    ),
    "speed-files": of_cells(
        ("files of BCQ at 0.95, kB", "ours", "dense float32", "COO", "values and mask entropy"),
        {
            "policy": _policy_sizes(),
            "checkpoint, with moments and targets": [*_sizes(_CHECKPOINT, "ours kB", "dense kB"), text(""), text("")],
        },
    ),
    "speed-sizes": of_cells(
        ("BCQ at 0.95, other sizes, updates/s", "sparse engine", "compared with"),
        {
            "two threads, one run": _two_cores("one run on two threads"),
            "two runs side by side, together": _two_cores("two runs"),
            "four times the width, equal nonzeros (another machine)": _four_times_wider(),
        },
    ),
    "speed-agents": of_cells(
        ("updates/s, SNIP", "TD3+BC", "IQL"),
        {
            "sparse engine, sparsity 0.95": _agents_race(_OURS),
            "dense engine, sparsity 0.95": _agents_race("ours, dense engine, sparsity 0.95"),
            "dense engine, unpruned": _agents_race("ours, dense engine"),
            "the usual torch code, dense, float32": _agents_race("plain torch, dense", compared=True),
            "… in bfloat16 (`torch.autocast`)": _agents_race("plain torch, dense, bfloat16", compared=True),
        },
    ),
    "speed-agents-acting": of_cells(
        ("acting on one observation, p50 µs", "TD3+BC", "IQL"),
        {
            "`load_policy(…).act`, sparsity 0.95": _agents_latency(_ACT_OURS),
            "torch, dense": _agents_latency(_ACT_TORCH),
        },
    ),
    "compressed": of_cells(
        (
            *("BCQ, 20 episodes", "Hopper 95 %, kB", "return"),
            *("HalfCheetah 95 %, kB", "return", "Hopper 99 %, kB", "return"),
        ),
        {
            "before": _compressed_row("before"),
            "`bits=16`": _compressed_row("bits=16"),
            "`bits=8` (default)": _compressed_row("bits=8"),
            "`bits=4`": _compressed_row("bits=4"),
            "`clusters=16 finetune=0`": _compressed_row("clusters=16 finetune=0"),
            "`clusters=16` (`finetune=300`)": _compressed_row("clusters=16 finetune=300"),
        },
    ),
    "compressed-rates": of_cells(
        ("return before / with 8 bits, seeds 0, 1, 2", "", "", "", "kept"),
        {name: _before_and_after(env, "bits=8") for env, name in ENVS.items()},
    ),
    "batch": of_cells(
        ("steps (best rate)", "batch 8", "32", "128", "512", "2048"),
        {
            f"{100 * sparsity:g} %" if sparsity else "dense": [
                _fewest_steps(it, sparsity) for it in (8, 32, 128, 512, 2048)
            ]
            for sparsity in (0.0, 0.8, 0.9, 0.95, 0.98)
        },
    ),
}
