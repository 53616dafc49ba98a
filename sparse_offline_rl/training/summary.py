"""The contents of ``summary.json``: what a finished run reports of itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from sparse_offline_rl.config import Config
from sparse_offline_rl.cores import processor_name
from sparse_offline_rl.errors import first_problem
from sparse_offline_rl.pruning.layer_reports import LayerReport
from sparse_offline_rl.training.loop import Clock

_VERSIONED = ("sparse-offline-rl", "torch", "numpy", "gymnasium", "mujoco", "minari", "numba")


def installed_version(package: str) -> str | None:
    """The version of an installed package; None for one that is absent, or run from a clone without installation."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _Shown(BaseModel):
    """What is shown of a complete run."""

    model_config = ConfigDict(strict=True)

    agent: str
    env: str
    dataset: str
    prune: str
    engine: str
    sparsity: float
    return_mean: float
    return_std: float
    normalized_score: float | None
    updates_per_second: float
    train_seconds: float
    nonzero_weights: int
    total_weights: PositiveInt
    stored_weights: int | None = None  # values that weights share by a hash; None: each has its own
    policy_bytes: PositiveInt
    policy_dense_bytes: PositiveInt


def check_summary(values: Any) -> dict[str, Any]:
    """``values`` of a ``summary.json``, if they are those of a complete run. Raises ValueError naming the first bad key."""
    try:
        _Shown.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    found: dict[str, Any] = values
    return found


def machine(device: str) -> dict[str, Any]:
    """On what the last sitting of a run was done, for seconds are those of one machine."""
    found = {"processor": processor_name(), "logical_cores": os.cpu_count()}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def sparsity_by_network(reports: Sequence[LayerReport]) -> dict[str, float]:
    """Fraction of the weights removed, for each network."""
    networks = dict.fromkeys(report.network for report in reports)
    return {name: 1 - _count(reports, name, "kept") / _count(reports, name, "total") for name in networks}


def level(update: int, reports: Sequence[LayerReport], evaluation: Mapping[str, float]) -> dict[str, float]:
    """What a level reached that ended after ``update``; ``evaluation`` is empty if it was not evaluated then."""
    kept, total = sum(report.kept for report in reports), sum(report.total for report in reports)
    keys = {f"eval/{name}": name for name in ("return_mean", "return_std")}
    returns = {name: evaluation[key] for key, name in keys.items() if key in evaluation}
    return {"update": update, "sparsity": 1 - kept / total, **returns}


def summarize(
    config: Config,
    reports: Sequence[LayerReport],
    env_id: str,
    evaluation: Mapping[str, float],
    clock: Clock,
    engine: str,
    policy_networks: Sequence[str],
    files: Mapping[str, int],
) -> dict[str, Any]:
    """The contents of ``summary.json``; ``files`` holds the three byte counts."""
    kept, stored = sum(report.kept for report in reports), sum(report.stored for report in reports)
    return {
        "agent": config.agent.name,
        "prune": config.prune.name,
        "sparsity": config.sparsity,
        "env": env_id,
        "dataset": config.dataset.id or config.dataset.path or config.dataset.name,
        "seed": config.seed,
        "updates": config.updates,
        "return_mean": evaluation["eval/return_mean"],
        "return_std": evaluation["eval/return_std"],
        "normalized_score": evaluation.get("eval/normalized_score"),
        "sparsity_achieved": sparsity_by_network(reports),
        "nonzero_weights": kept,
        **({"stored_weights": stored} if stored != kept else {}),
        "total_weights": sum(report.total for report in reports),
        "layers": [report.as_dict() for report in reports],
        "collapsed_layers": [report.full_name for report in reports if report.collapsed],
        "policy_networks": list(policy_networks),
        **files,
        "updates_per_second": config.updates / max(clock.train, 1e-9),
        "train_seconds": clock.train,
        "eval_seconds": clock.evaluate,
        "engine": engine,
        "machine": machine(config.device),
        "versions": {"python": platform.python_version()} | {name: installed_version(name) for name in _VERSIONED},
    }


def file_sizes(checkpoint: Path, policy: Path, dense_bytes: int) -> dict[str, int]:
    """Bytes of the checkpoint, of the policy file, and of the policy's own networks as dense float32."""
    return {
        "checkpoint_bytes": checkpoint.stat().st_size,
        "policy_bytes": policy.stat().st_size,
        "policy_dense_bytes": dense_bytes,
    }


def _count(reports: Sequence[LayerReport], network: str, field: str) -> int:
    return sum(getattr(report, field) for report in reports if report.network == network)
