"""Whole updates of BCQ and BC by engine, sparsity and threads; runs side by side; where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_offline_rl.benchmarks.bench import Bench, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "Updates per second"
_SHOWN = 0.95  # sparsity of the side-by-side runs and of the stages


def measure(bench: Bench) -> list[Table]:
    """The four tables."""
    return [_updates(bench), _side_by_side(bench), _captured(bench), _stages(bench)]


def _updates(bench: Bench) -> Table:
    rows: list[Row] = []
    for agent in bench.scale.agents:
        for threads in bench.scale.threads:
            settings = [("dense", s) for s in (0.0, *bench.scale.sparsities)]
            settings += [("sparse", s) for s in bench.scale.sparsities]
            lines = {f"{e} {s:g}": (bench.training(agent, e, s, threads),) for e, s in settings}
            outcomes = bench.race(lines)
            reference = outcomes["dense 0"].rate
            for engine, sparsity in settings:
                outcome = outcomes[f"{engine} {sparsity:g}"]
                rows.append({
                    "agent": agent,
                    "threads": threads,
                    "engine": engine,
                    "sparsity": sparsity,
                    "updates/s": outcome.rate,
                    "ms an update": outcome.milliseconds,
                    "× dense at sparsity 0": ratio(outcome.rate, reference),
                    "lowest round": min(outcome.rates, default=None),
                    "highest round": max(outcome.rates, default=None),
                    **remark(outcome),
                })  # fmt: skip
    notes = [
        "17 observations, 6 actions, batch 100, random standardised data, masks by SNIP; an update draws its own batch, as in "
        "training. updates/s is the median of the rounds.",
    ]
    return Table("BCQ and BC", rows, notes)


def _side_by_side(bench: Bench) -> Table:
    lines: dict[str, Sequence[Entry]] = {}
    for engine, sparsity in (("dense", 0.0), ("sparse", _SHOWN)):
        lines[f"{engine} {sparsity:g}, one run"] = (bench.training("bcq", engine, sparsity),)
        lines[f"{engine} {sparsity:g}, two runs"] = tuple(
            bench.training("bcq", engine, sparsity, core=core) for core in (0, 1)
        )
        lines[f"{engine} {sparsity:g}, one run on two threads"] = (bench.training("bcq", engine, sparsity, 2),)
    outcomes, rows = bench.race(lines), []
    for name, outcome in outcomes.items():
        engine_of, how = name.split(", ")
        reference = outcomes[f"{engine_of}, one run"].rate
        row: Row = {"engine and sparsity": engine_of, "runs": how, "updates/s together": outcome.rate}
        rows.append({**row, "× one run": ratio(outcome.rate, reference), **remark(outcome)})
    return Table("Two cores: two runs side by side, or one run on two threads (BCQ)", rows)


def _captured(bench: Bench) -> Table:
    lines = {
        agent: (Entry("agents:captured", {"overrides": bench.overrides(agent, "sparse", _SHOWN)}),)
        for agent in bench.scale.agents
    }
    rows: list[Row] = []
    for agent, outcome in bench.race(lines).items():
        spent = outcome.facts
        rows.append({"agent": agent, **{f"{label} ms": ms for label, ms in spent.items()}, **remark(outcome)})
    notes = ["One thread. The whole update draws its batch and its noise as well; each part runs from a warm cache."]
    return Table(f"A recorded update at sparsity {_SHOWN:g}", rows, notes)


def _stages(bench: Bench) -> Table:
    lines = {
        f"{agent} {engine}": (
            Entry("agents:stages", {"overrides": [*bench.overrides(agent, engine, _SHOWN), "capture=false"]}),
        )
        for agent in bench.scale.agents
        for engine in ("dense", "sparse")
    }
    rows: list[Row] = []
    for name, outcome in bench.race(lines).items():
        agent, engine = name.split()
        stages = {
            f"{label} ms": ms for label, ms in sorted(outcome.facts.items()) if label not in ("kernels", "whole update")
        }
        whole, kernels = outcome.facts.get("whole update"), outcome.facts.get("kernels")
        row: Row = {
            "agent": agent,
            "engine": engine,
            "whole update ms": whole,
            **stages,
            "in the sparse kernels ms": kernels,
        }
        if whole and kernels:
            row["everything else ms"] = whole - kernels
        rows.append({**row, **remark(outcome)})
    notes = ["One thread, capture=false; clocks around every stage cost a little. critic is without its target."]
    return Table(f"Stages of an update that is not recorded, at sparsity {_SHOWN:g}", rows, notes)
