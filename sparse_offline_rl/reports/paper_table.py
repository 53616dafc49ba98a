"""The paper's Table 1, memory of the networks in megabytes, with our runs beside it."""

from __future__ import annotations

import numpy as np

from sparse_offline_rl.reports.groups import Group, Panel, Study
from sparse_offline_rl.reports.memory import COO, CSR, DENSE, FORMATS, MEGABYTE, Count, stored_as
from sparse_offline_rl.reports.survivors import layers_of
from sparse_offline_rl.reports.tables import Column, Table, Value

# Arnob et al. 2021, Table 1: HalfCheetah's networks, both critics together, 95 % sparsity.
_PAPER: tuple[tuple[str, float, float, float], ...] = (
    ("dense", 0.5287, 1.04492, 4.7621),
    ("dense in sparse indexing", 2.6318, 5.2035, 23.7739),
    ("grasp 95 %, sparse indexing", 0.14099, 0.2768, 1.2122),
    ("snip 95 %, sparse indexing", 0.14297, 0.2824, 1.2303),
)
_PARTS = {"actor": ("actor",), "critics": ("critic1", "critic2"), "VAE": ("encoder", "decoder")}


def memory_table(study: Study) -> Table | None:
    """Rows of the paper, then of each panel whose agent has the paper's networks. None without such a finished run."""
    rows: list[tuple[Value, ...]] = []
    for panel in study.panels:
        rows += _panel_rows(panel)
    if not rows:
        return None
    columns = (Column("from"), Column("method"), *(Column(f"{part}, MB", "{:.4f}") for part in _PARTS))
    columns += (Column("policy file, MB", "{:.4f}"),)
    note = (
        "The paper's networks are those of HalfCheetah, in which S = 17 and A = 6. The policy file holds only the networks that acting needs. "
        "1 MB is 10⁶ bytes; ours: means over the finished seeds, float32 values, biases included."
    )
    paper: list[tuple[Value, ...]] = [("the paper", *row, None) for row in _PAPER]
    return Table("memory", "Table of memory (the paper's Table 1)", note, columns, (*paper, *rows))


def _panel_rows(panel: Panel) -> list[tuple[Value, ...]]:
    groups = [group for group in panel.groups if group.finished and _has_parts(group)]
    if not groups:
        return []
    first = next((group for group in groups if group.dense), groups[0])
    file = _policy_file(first) if first.dense else None
    rows: list[tuple[Value, ...]] = [
        (panel.title, "dense", *_megabytes(first, FORMATS[DENSE]), file),
        (panel.title, "dense in sparse indexing", *_megabytes(first, _unpruned), None),
    ]
    for group in (group for group in groups if not group.dense):
        rows += [
            (panel.title, f"{group.label}, {name}", *_megabytes(group, FORMATS[name]), None) for name in (COO, CSR)
        ]
        rows.append((panel.title, f"{group.label}, our file", None, None, None, _policy_file(group)))
    return rows


def _unpruned(_kept: int, total: int, outputs: int) -> int:
    return FORMATS[COO](total, total, outputs)


def _megabytes(group: Group, count: Count) -> list[float]:
    return [float(np.mean([stored_as(run, count, it) for run in group.finished])) / MEGABYTE for it in _PARTS.values()]


def _policy_file(group: Group) -> float:
    return float(np.mean(group.values("policy_bytes"))) / MEGABYTE


def _has_parts(group: Group) -> bool:
    return set(layers_of(group)) == {network for part in _PARTS.values() for network in part}
