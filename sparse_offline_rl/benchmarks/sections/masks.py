"""What it costs to change masks while training."""

from __future__ import annotations

from sparse_offline_rl.benchmarks.bench import Bench, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "Masks that change while training"
METHODS = ("set", "dsr", "deepr", "rigl", "snfs")
TRAINED = ("set", "rigl")  # the others' masks lose their way on random data
_SPARSITY = 0.95
_STATIC = "static random masks by ERK"


def measure(bench: Bench) -> list[Table]:
    """One change, and training with one every so many updates."""
    return [_changes(bench), _speed(bench)]


def _changes(bench: Bench) -> Table:
    lines = {method: (_entry(bench, "rewiring:change", method),) for method in METHODS}
    rows: list[Row] = [
        {"method": method, "ms a change": outcome.milliseconds, **remark(outcome)}
        for method, outcome in bench.race(lines).items()
    ]
    notes = [
        f"All networks of BCQ at {_SPARSITY:g}, one thread: scores, new masks, moments and targets, new plans, and the first update after "
        "it with its recording. RigL and SNFS need the dense gradient of one and of five batches.",
    ]
    return Table("One change of all masks", rows, notes)


def _speed(bench: Bench) -> Table:
    every = bench.scale.updates_a_change
    static_masks = [*bench.overrides("bcq", "sparse", _SPARSITY, prune="random"), "prune.scope=erk"]
    lines = {_STATIC: (Entry("agents:training", {"overrides": static_masks}),)}
    for method in TRAINED:
        lines[method] = (_entry(bench, "rewiring:training", method, updates=every),)
    outcomes, rows = bench.race(lines), list[Row]()
    static = outcomes[_STATIC].rate
    for method, outcome in outcomes.items():
        updates = 1 if method == _STATIC else every
        rate = None if outcome.rate is None else updates * outcome.rate
        row: Row = {"masks": method, "updates/s": rate, "of static": ratio(rate, static)}
        rows.append({**row, **remark(outcome)})
    return Table(
        "Training speed with changing masks",
        rows,
        [f"BCQ, one thread, a change every {every} updates; both begin with such masks."],
    )


def _entry(bench: Bench, contestant: str, method: str, **arguments: int) -> Entry:
    return Entry(contestant, {"overrides": bench.overrides("bcq", "sparse", _SPARSITY, prune=method), **arguments})
