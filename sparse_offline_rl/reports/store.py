"""All that a report is made from, as six small CSVs, so that figures and tables can be made again without the run folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.files import write_csv
from sparse_offline_rl.reports.progress import Evaluation, Movement
from sparse_offline_rl.reports.runs import (
    COUNTS,
    UNREADABLE,
    Run,
    checked_run,
    checked_summary,
    differing_keys,
    read_run_folders,
)

RUNS, LAYERS, LEVELS, EVALUATIONS = "runs.csv", "layers.csv", "levels.csv", "evaluations.csv"
DENSITIES, MOVEMENT = "densities.csv", "movement.csv"
_FAILURE = "failure"  # a column of runs.csv, where some run failed
_SUMMARY = "summary."  # before the columns of summary.json in runs.csv
# What of a summary a report needs, beside its layers and levels.
_KEPT = (
    *("env", "engine", "return_mean", "normalized_score", "dataset_return_mean", "nonzero_weights", "total_weights"),
    *("policy_networks", "collapsed_layers", "policy_bytes", "policy_dense_bytes", "checkpoint_bytes"),
    *("updates_per_second", "train_seconds", "eval_seconds"),
    *COUNTS,
)
# Have columns where some run has them: one of hashed networks, one that noted its machine, or the references of its scores.
_SOMETIMES = ("stored_weights", "machine", "reference_min_score", "reference_max_score")


def read_runs(*folders: Path) -> tuple[list[Run], list[str]]:
    """All runs below ``folders``, from the CSVs of a report where one holds them, else from run folders; notes about the rest.

    Of a run that several folders have, under one name and with the same settings, the one that got furthest counts, of equal ones the
    last: so runs are added to those of an earlier report, or brought up to date there. Another experiment of that name gets its folder
    before it. A note is a sentence about a run that could not be read. Raises UserError for a folder without a run to report on.
    """
    found: dict[str, Run] = {}
    namesakes: dict[str, list[str]] = {}  # name in its folder -> names in ``found``
    notes = []
    for folder in folders:
        runs, unread = _read_folder(folder)
        notes += unread
        for run in runs:
            names, below = namesakes.setdefault(run.name, []), (folder / run.name).as_posix()
            if below in found and below not in names:  # the name under which an earlier report has it
                names.append(below)
            same = [it for it in names if found[it].seed == run.seed and not differing_keys((run, found[it]))]
            if same:
                both = replace(run, name=same[0]), found[same[0]]
                found[same[0]] = max(both, key=lambda it: (it.summary is not None, it.update))
            else:
                while below in found:
                    below += "'"
                names.append(below if names else run.name)
                found[names[-1]] = replace(run, name=names[-1])
    return list(found.values()), notes


def _read_folder(folder: Path) -> tuple[list[Run], list[str]]:
    if not folder.is_dir():
        raise UserError(f"runs={folder}: there is no such folder.")
    runs, notes = _read_store(folder) if (folder / RUNS).exists() else read_run_folders(folder)
    if not runs:
        found = f": {notes[0]}" if notes else ": train first, or give the folder that holds the runs."
        raise UserError(f"runs={folder} holds no run{found}")
    return runs, notes


def write_store(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write the CSVs from which :func:`read_runs` gives the same runs."""
    tables = {RUNS: _run_rows(runs), LAYERS: _layer_rows(runs), EVALUATIONS: _evaluation_rows(runs)}
    tables |= {LEVELS: _level_rows(runs), DENSITIES: _density_rows(runs), MOVEMENT: _movement_rows(runs)}
    for name, rows in tables.items():
        write_csv(folder / name, rows)
    return [folder / name for name in tables]


def _run_rows(runs: Sequence[Run]) -> list[list[object]]:
    settings = list(dict.fromkeys(key for run in runs for key in run.settings))
    kept = [*_KEPT, *(key for key in _SOMETIMES if any(key in (run.summary or {}) for run in runs))]
    failure = [_FAILURE] if any(run.failure for run in runs) else []
    rows: list[list[object]] = [["run", "update", *failure, *settings, *(f"{_SUMMARY}{key}" for key in kept)]]
    for run in runs:
        values = [_cell(run.settings[key]) if key in run.settings else "" for key in settings]
        facts = run.summary or {}
        failed = [run.failure or ""] if failure else []
        rows.append(
            [run.name, run.update, *failed, *values, *(_cell(facts[key]) if key in facts else "" for key in kept)]
        )
    return rows


def _layer_rows(runs: Sequence[Run]) -> list[list[object]]:
    layers = [(run.name, layer) for run in runs if run.summary for layer in run.summary["layers"]]
    columns = ("name", "kept", "total", "outputs")
    return [["run", *columns], *([name, *(layer[column] for column in columns)] for name, layer in layers)]


def _level_rows(runs: Sequence[Run]) -> list[list[object]]:
    """Of runs whose training had levels."""
    levels = [(run.name, level) for run in runs if run.summary for level in run.summary.get("levels", [])]
    return [
        ["run", "update", "sparsity", "return_mean"],
        *([name, it["update"], repr(it["sparsity"]), it.get("return_mean", "")] for name, it in levels),
    ]


def _evaluation_rows(runs: Sequence[Run]) -> list[list[object]]:
    rows: list[list[object]] = [["run", "update", "train_seconds", "return_mean", "returns"]]
    for run in runs:
        for it in run.evaluations:
            seconds = "" if it.seconds is None else repr(it.seconds)
            rows.append([run.name, it.update, seconds, repr(it.mean), " ".join(f"{value:.7g}" for value in it.returns)])
    return rows


def _density_rows(runs: Sequence[Run]) -> list[list[object]]:
    """Of runs whose masks changed; of others the layers say all."""
    rows: list[list[object]] = [["run", "update", "layer", "density"]]
    for run in runs:
        for update, shares in run.densities.items():
            rows += [[run.name, update, layer, repr(share)] for layer, share in shares.items()]
    return rows


def _movement_rows(runs: Sequence[Run]) -> list[list[object]]:
    """Of runs whose masks may change."""
    rows: list[list[object]] = [["run", "update", "network", *Movement._fields]]
    for run in runs:
        for update, networks in run.movement.items():
            rows += [[run.name, update, network, *map(repr, it)] for network, it in networks.items()]
    return rows


def _cell(value: Any) -> str:
    """A value of YAML in one cell: text as it is where it would be read back as such, all else as JSON."""
    return value if isinstance(value, str) and value and _parse(value) == value else json.dumps(value)


def _parse(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _read_store(folder: Path) -> tuple[list[Run], list[str]]:
    layers, evaluations = _by_run(folder / LAYERS), _by_run(folder / EVALUATIONS)
    densities = _by_run(folder / DENSITIES)
    # Reports from before masks could move, or levels were kept, have none of them.
    movement, levels = (_by_run(path) if (path := folder / name).exists() else {} for name in (MOVEMENT, LEVELS))
    runs, notes = [], []
    for name, (row,) in _by_run(folder / RUNS).items():
        try:
            found = _evaluations(evaluations.get(name, []))
            values = {key: _parse(cell) for key, cell in row.items() if cell and key not in ("run", "update", _FAILURE)}
            settings = {key: value for key, value in values.items() if not key.startswith(_SUMMARY)}
            facts = {key.removeprefix(_SUMMARY): v for key, v in values.items() if key.startswith(_SUMMARY)}
            if facts:
                facts["layers"] = [_layer(layer) for layer in layers.get(name, [])]
                if name in levels:
                    facts["levels"] = [_level(level) for level in levels[name]]
                checked_summary(facts)
            moves = _densities(densities.get(name, [])), _movement(movement.get(name, []))
            failure = row.get(_FAILURE) or None
            runs.append(checked_run(Run(name, settings, found, int(row["update"]), facts or None, *moves, failure)))
        except UNREADABLE as error:
            notes.append(f"{name} in {folder / RUNS} is left out: its rows are damaged ({reason(error)}).")
    return runs, notes


def _by_run(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each run. Raises UserError for a file that is not there or cannot be read."""
    found: dict[str, list[dict[str, str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                rows = found.setdefault(row["run"], [])
                rows.append(row)
                if path.name == RUNS and len(rows) > 1:
                    raise ValueError(f"it has the run {row['run']} twice")
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read ({reason(error)}): make the report's CSVs again.") from None
    return found


def _layer(row: Mapping[str, str]) -> dict[str, Any]:
    return {"name": row["name"], **{key: int(row[key]) for key in ("kept", "total", "outputs")}}


def _level(row: Mapping[str, str]) -> dict[str, Any]:
    values = {key: float(row[key]) for key in ("sparsity", "return_mean") if row[key]}
    return {"update": int(row["update"]), **values}


def _evaluations(rows: Sequence[Mapping[str, str]]) -> list[Evaluation]:
    return [
        Evaluation(
            int(row["update"]),
            float(row["train_seconds"]) if row["train_seconds"] else None,
            float(row["return_mean"]),
            tuple(map(float, row["returns"].split())),
        )
        for row in rows
    ]


def _densities(rows: Sequence[Mapping[str, str]]) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        found.setdefault(int(row["update"]), {})[row["layer"]] = float(row["density"])
    return found


def _movement(rows: Sequence[Mapping[str, str]]) -> dict[int, dict[str, Movement]]:
    found: dict[int, dict[str, Movement]] = {}
    for row in rows:
        shares = (float(row[name]) for name in Movement._fields)
        found.setdefault(int(row["update"]), {})[row["network"]] = Movement(*shares)
    return found
