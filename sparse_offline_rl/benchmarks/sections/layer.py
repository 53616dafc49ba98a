"""One 750×750 layer at 5 % density against the libraries that offer one."""

from __future__ import annotations

from sparse_offline_rl.benchmarks.bench import Bench, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "One layer"
_DENSITY = 0.05
_KINDS = ("sparse engine", "torch dense", "oneDNN dense", "torch CSR", "scipy CSR", "sparseprop")
_NOTES = (
    "One thread; row-major input and output, and the bias, are part of the time. Backward: gradients of input, weights and bias. "
    "All run with the allocator settings of training, which keep large buffers.",
    "oneDNN: `torch.ops.mkldnn._linear_pointwise` for all products. torch CSR: `addmm`, `sparse.mm` and `sampled_addmm` "
    "called directly, which is faster than through autograd, output left transposed. scipy has no sampled product: its "
    "weight gradient is dense NumPy, then picked.",
    "The sparse engine transposes input and output of this one layer; inside an MLP it does so for the whole network once.",
)


def measure(bench: Bench) -> list[Table]:
    """One table for all batches."""
    rows: list[Row] = []
    for batch in bench.scale.batches:
        passes = {}
        for backward in (False, True):
            lines = {kind: (_entry(bench, kind, batch, backward),) for kind in _KINDS}
            passes[backward] = bench.race(lines)
        for kind in _KINDS:
            forward, both = passes[False][kind], passes[True][kind]
            row: Row = {"batch": batch, "library": " ".join([kind, *map(str, forward.facts.values())])}
            for name, outcome in (("forward", forward), ("forward + backward", both)):
                row[f"{name} ms"] = outcome.milliseconds
                row[f"{name}, × faster than torch dense"] = ratio(
                    outcome.rate, passes[outcome is both]["torch dense"].rate
                )
            rows.append({**row, **remark(forward)})
    width = bench.scale.layer
    return [Table(f"{width}×{width}, {_DENSITY:.0%} of the weights, uniformly random", rows, _NOTES)]


def _entry(bench: Bench, kind: str, batch: int, backward: bool) -> Entry:
    arguments = {
        "kind": kind,
        "batch": batch,
        "width": bench.scale.layer,
        "density": _DENSITY,
        "backward": backward,
        "threads": 1,
    }
    if kind == "sparseprop":
        return Entry("layers:layer", arguments, python=bench.peers)
    return Entry("layers:layer", arguments)
