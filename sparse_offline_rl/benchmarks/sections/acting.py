"""How long one action takes, and a whole evaluation."""

from __future__ import annotations

from sparse_offline_rl.benchmarks.bench import ACTIONS, OBSERVATIONS, Bench, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry, Outcome, race
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "Acting"
_SPARSITY = 0.95
_EAGER = "torch eager, dense"
_LINES = {  # what is shown: the contestant and its sparsity
    f"ours, `load_policy(…).act`, sparsity {_SPARSITY:g}": ("policy file", _SPARSITY),
    f"ONNX Runtime, our export of sparsity {_SPARSITY:g}": ("ONNX Runtime", _SPARSITY),
    "ONNX Runtime, dense": ("ONNX Runtime", 0.0),
    "torch.compile, dense": ("torch.compile", 0.0),
    _EAGER: ("torch eager", 0.0),
}


def measure(bench: Bench) -> list[Table]:
    """Latency and evaluation."""
    return [_latency(bench), _evaluation(bench)]


def _latency(bench: Bench) -> Table:
    rows: list[Row] = []
    for agent in bench.scale.agents:
        lines = {
            how: (Entry("acting:latency", {"kind": kind, "overrides": bench.overrides(agent, "auto", sparsity)}),)
            for how, (kind, sparsity) in _LINES.items()
        }
        outcomes = bench.race(lines, each=True)
        eager = outcomes[_EAGER].percentile(50)
        for how, outcome in outcomes.items():
            p50 = outcome.percentile(50)
            row: Row = {"agent": agent, "how": how, "p50 µs": p50, "p99 µs": outcome.percentile(99)}
            rows.append({**row, "× faster than torch eager": ratio(eager, p50), **remark(outcome)})
    notes = [
        f"One observation of {OBSERVATIONS} values in NumPy to one action of {ACTIONS}, one thread; latent noise included. BCQ "
        "scores its 100 candidates for it, BC decodes one. The ONNX export is dense after "
        "dropping dead units, since ONNX Runtime makes sparse weights dense. The torch policies do not normalise the observation.",
    ]
    return Table("Latency of one action", rows, notes)


def _evaluation(bench: Bench) -> Table:
    count = bench.scale.episodes
    sparse, dense = bench.overrides("bcq", "sparse", _SPARSITY), bench.overrides("bcq", "dense", 0.0)
    settings = {
        f"policy file, sparsity {_SPARSITY:g}": ("policy file", sparse),
        f"agent in training, sparse engine, sparsity {_SPARSITY:g}": ("agent", sparse),
        "agent in training, dense engine": ("agent", dense),
        "the environment alone": ("environment", dense),
    }
    lines = {
        name: (Entry("acting:episodes", {"kind": kind, "overrides": overrides, "count": count}),)
        for name, (kind, overrides) in settings.items()
    }
    bench.say(f"  playing {count} episodes with {len(lines)} policies")
    outcomes: dict[str, Outcome] = race(lines, rounds=min(3, bench.scale.rounds), seconds=0.0)
    rows: list[Row] = []
    for name, outcome in outcomes.items():
        seconds = 1 / outcome.rate if outcome.rate else None
        rows.append({"policy": name, "seconds": seconds, **remark(outcome)})
    return Table(f"HalfCheetah episodes of 1000 steps, BCQ: {count}", rows, ["One thread, episodes side by side."])
