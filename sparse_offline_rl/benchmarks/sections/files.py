"""Bytes of policies and checkpoints."""

from __future__ import annotations

from sparse_offline_rl.benchmarks.bench import Bench, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "File sizes"
_NOTES = (
    "Dense, COO and CSR are `torch.save` of the same float32 values; indices are torch's int64. The bound is float32 values and "
    "biases plus the logarithm of the number of masks with these counts by layer, equal masks once. Ours may lie under it: "
    "SNIP's masks have structure, and the policy file codes its values in fewer than 32 bits without loss.",
)


def measure(bench: Bench) -> list[Table]:
    """One table for policies, one for checkpoints."""
    cases = [(agent, sparsity) for agent in bench.scale.agents for sparsity in (0.0, *bench.scale.sparsities)]
    outcomes = bench.once({f"{agent} {sparsity:g}": (_entry(bench, agent, sparsity),) for agent, sparsity in cases})
    tables = []
    for what, title in (("policy", "policy file"), ("checkpoint", "checkpoint with Adam's moments and targets")):
        rows: list[Row] = []
        for agent, sparsity in cases:
            outcome = outcomes[f"{agent} {sparsity:g}"]
            sizes = outcome.facts.get(what, {})
            row: Row = {"agent": agent, "sparsity": sparsity, "ours kB": _kilobytes(sizes.get("file"))}
            row |= {f"{name} kB": _kilobytes(sizes.get(name)) for name in ("dense", "COO", "CSR")}
            row |= {
                "bound kB": _kilobytes(sizes.get("least")),
                "dense / ours": ratio(sizes.get("dense"), sizes.get("file")),
            }
            row |= {"dense / COO": ratio(sizes.get("dense"), sizes.get("COO"))}
            rows.append({**row, **remark(outcome)})
        tables.append(Table(f"Size of the {title}", rows, _NOTES))
    return tables


def _entry(bench: Bench, agent: str, sparsity: float) -> Entry:
    engine = "sparse" if sparsity else "dense"
    return Entry("storage:sizes", {"overrides": bench.overrides(agent, engine, sparsity)})


def _kilobytes(size: float | None) -> float | None:
    return None if size is None else size / 1000
