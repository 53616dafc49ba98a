"""What training costs beside its updates: memory, wider networks, pruning, the first start."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from sparse_offline_rl.benchmarks.bench import TRANSITION_NUMBERS, Bench, remark
from sparse_offline_rl.benchmarks.contestants.agents import count_weights
from sparse_offline_rl.benchmarks.race import Entry, Outcome
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "Memory, width, pruning, first start"
_SPARSITY = 0.95


def measure(bench: Bench) -> list[Table]:
    """Five tables."""
    return [_memory(bench), _side_by_side(bench), _width(bench), _pruning(bench), _start(bench)]


def _memory(bench: Bench) -> Table:
    settings = [("dense", 0.0), ("dense", _SPARSITY), ("sparse", _SPARSITY)]
    lines = {
        f"{engine} {sparsity:g}": (
            Entry(
                "agents:memory",
                {"overrides": bench.overrides("bcq", engine, sparsity), "updates": bench.scale.memory_updates},
            ),
        )
        for engine, sparsity in settings
    }
    outcomes, rows = bench.once(lines), []
    for engine, sparsity in settings:
        outcome = outcomes[f"{engine} {sparsity:g}"]
        row: Row = {"engine": engine, "sparsity": sparsity}
        if not outcome.missing:
            before, peak = outcome.facts["before"], outcome.facts["peak"]
            row |= {"whole process MB": peak / 1e6, "of which building and training MB": (peak - before) / 1e6}
        rows.append({**row, **remark(outcome)})
    notes = [
        f"BCQ, batch 100; peak resident memory after {bench.scale.memory_updates} updates. Dense scoring before pruning is part of it; "
        "so is Numba with the sparse engine. The rest of the process is Python, torch and the data.",
    ]
    return Table("Peak memory of training", rows, notes)


def _side_by_side(bench: Bench) -> Table:
    rows: list[Row] = []
    for runs in bench.scale.side_by_side:
        row: Row = {"runs at once": runs}
        for name, shared in (("MB a run", True), ("MB a run, each with rows of its own", False)):
            outcome = _together(bench, runs, shared)
            row[name] = None if outcome.missing else outcome.facts["bytes"] / 1e6
            row |= remark(outcome)
        rows.append(row)
    count = bench.scale.transitions
    notes = [
        f"BCQ, SNIP at {_SPARSITY:g}, on {count:,} transitions of {4 * TRANSITION_NUMBERS * count / 1e6:.0f} MB, which runs map from one file. After "
        f"{bench.scale.memory_updates} updates; what several processes map is counted in proportion (Pss).",
    ]
    return Table("Memory of runs side by side", rows, notes)


def _together(bench: Bench, runs: int, shared: bool) -> Outcome:
    """So many processes that train at once; the facts of the first one."""
    arguments = {
        "overrides": bench.overrides("bcq", "sparse", _SPARSITY),
        "updates": bench.scale.memory_updates,
        "transitions": bench.scale.transitions,
    }
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(0 if shared else run) for run in range(runs)]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        team = [Entry("agents:shared_memory", arguments, environment={"TMPDIR": str(folder)}) for folder in folders]
        return bench.once({"run": team})["run"]


def _width(bench: Bench) -> Table:
    entries = {
        (factor, engine): Entry(
            "agents:training", {"overrides": bench.overrides("bcq", engine, sparsity, factor=factor)}
        )
        for factor in bench.scale.widths
        for engine, sparsity in (("sparse", _at_constant_survivors(bench, factor)), ("dense", 0.0))
    }
    outcomes = bench.race({f"{factor} {engine}": (entry,) for (factor, engine), entry in entries.items()})
    rows: list[Row] = []
    for factor, engine in entries:
        outcome = outcomes[f"{factor} {engine}"]
        kept, total = outcome.facts.get("kept"), outcome.facts.get("total")
        row: Row = {"hidden widths ×": factor, "engine": engine, "weights": total, "surviving": kept}
        row |= {"sparsity": None if kept is None else 1 - kept / total, "live units": outcome.facts.get("live_units")}
        rows.append({**row, "updates/s": outcome.rate, "ms an update": outcome.milliseconds, **remark(outcome)})
    notes = ["BCQ, one thread. Hidden layers grow, the number of surviving weights stays that of the first row."]
    return Table("Wider networks with as many surviving weights", rows, notes)


def _at_constant_survivors(bench: Bench, factor: int) -> float:
    """The sparsity that leaves as many weights of the wider networks as ``_SPARSITY`` leaves of the usual ones."""
    usual, wide = (count_weights(bench.overrides("bcq", "dense", 0.0, factor=n)) for n in (1, factor))
    return round(1 - (1 - _SPARSITY) * usual / wide, 6)


def _pruning(bench: Bench) -> Table:
    methods = ("snip", "grasp", "magnitude", "random")
    lines = {
        method: (Entry("agents:pruning", {"overrides": bench.overrides("bcq", "dense", _SPARSITY, prune=method)}),)
        for method in methods
    }
    rows: list[Row] = []
    for method, outcome in bench.race(lines).items():
        rows.append({"method": method, "ms": outcome.milliseconds, **remark(outcome)})
    notes = ["All networks of BCQ, one thread: batch, scores, exact-k masks, weights zeroed. It happens once a run."]
    return Table("Scoring and pruning", rows, notes)


def _start(bench: Bench) -> Table:
    seconds: dict[str, list[float]] = {
        "dense engine": [],
        "sparse engine, kernels compiled": [],
        "sparse engine, cached": [],
    }
    missing: dict[str, Row] = {}
    dense = Entry("agents:first_update", {"overrides": bench.overrides("bcq", "dense", _SPARSITY)})
    sparse = {"overrides": bench.overrides("bcq", "sparse", _SPARSITY)}
    for _ in range(bench.scale.starts):
        with tempfile.TemporaryDirectory() as cache:
            fresh = Entry("agents:first_update", sparse, environment={"NUMBA_CACHE_DIR": cache})
            # The second start with the same folder finds what the first has compiled.
            outcomes = bench.once(dict(zip(seconds, [(dense,), (fresh,), (fresh,)], strict=True)))
        for name, outcome in outcomes.items():
            missing[name] = remark(outcome)
            if not outcome.missing:
                seconds[name].append(outcome.start_seconds)
    medians = {name: statistics.median(values) if values else None for name, values in seconds.items()}
    base = medians["dense engine"]
    rows: list[Row] = []
    for name, value in medians.items():
        more = value - base if value and base else None
        rows.append({"engine": name, "s": value, "s more than dense": more, **missing[name]})
    notes = [
        "BCQ, one thread: from the launch of Python over imports, building and pruning to the end of the first update."
    ]
    return Table("First start", rows, notes)
