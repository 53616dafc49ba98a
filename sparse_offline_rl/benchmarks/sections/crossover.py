"""From which density on the dense engine is the faster one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sparse_offline_rl.benchmarks.bench import BATCH, Bench, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry, Outcome
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "Engine crossover"


def measure(bench: Bench) -> list[Table]:
    """Whole updates and one layer at every density, and the crossing points."""
    rows: list[Row] = []
    crossings: list[Row] = []
    cases = {f"whole {agent} update": agent for agent in bench.scale.agents} | {
        "layer, forward": "",
        "layer, both passes": "",
    }
    for what, agent in cases.items():
        outcomes = _updates(bench, agent) if agent else _layer(bench, what == "layer, both passes")
        times = []
        for density in bench.scale.densities:
            sparse, dense = outcomes[f"sparse {density:g}"], outcomes[f"dense {density:g}"]
            row: Row = {
                "what": what,
                "density": density,
                "sparse ms": sparse.milliseconds,
                "dense ms": dense.milliseconds,
            }
            rows.append({**row, "dense / sparse": ratio(sparse.rate, dense.rate), **remark(sparse), **remark(dense)})
            if sparse.milliseconds and dense.milliseconds:
                times.append((density, sparse.milliseconds / dense.milliseconds))
        crossings.append({"what": what, "density at which both are equally fast": crossing(times)})
    notes = [
        f"One thread. Updates: batch {BATCH}, SNIP masks, `engine=auto` decides by this. Layer: {10 * BATCH} rows, uniform mask."
    ]
    return [Table("Time by density", rows, notes), Table("Crossing points", crossings)]


def crossing(times: Sequence[tuple[float, float]]) -> float | str | None:
    """Density where sparse/dense time reaches 1, between (density, sparse/dense) points in rising order of density."""
    if not times:
        return None
    if times[0][1] >= 1:
        return f"below {times[0][0]:g}"
    for (low, before), (high, after) in pairwise(times):
        if before < 1 <= after:
            return low + (high - low) * math.log(1 / before) / math.log(after / before)
    return f"above {times[-1][0]:g}"


def _updates(bench: Bench, agent: str) -> dict[str, Outcome]:
    lines = {
        f"{engine} {density:g}": (bench.training(agent, engine, round(1 - density, 6)),)
        for density in bench.scale.densities
        for engine in ("sparse", "dense")
    }
    return bench.race(lines)


def _layer(bench: Bench, backward: bool) -> dict[str, Outcome]:
    arguments = {"batch": 10 * BATCH, "width": bench.scale.layer, "backward": backward, "threads": 1}
    lines = {
        f"{engine} {density:g}": (Entry("layers:layer", {**arguments, "kind": kind, "density": density}),)
        for density in bench.scale.densities
        for engine, kind in (("sparse", "sparse engine"), ("dense", "our dense"))
    }
    return bench.race(lines)
