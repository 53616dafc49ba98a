"""Run folders written by hand, for the tests of the reports."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

_SIZES = {"actor": (17 + 6, 400, 300, 6), "critic1": (23, 400, 300, 1), "critic2": (23, 400, 300, 1)}
_SIZES |= {"encoder": (23, 750, 750, 12), "decoder": (29, 750, 750, 6)}
_EXPERTS = {"hopper": ("Hopper-v5", 3234.3), "halfcheetah": ("HalfCheetah-v5", 12135.0)}
_POLICIES = {"hopper": 320.0, "halfcheetah": 3200.0}


def layers(sparsity: float, last_head_empty: bool = False) -> list[dict[str, object]]:
    """What ``summary.json`` says of the layers, hidden ones pruned more than the others."""
    found: list[dict[str, object]] = []
    for network, sizes in _SIZES.items():
        shapes = [(f"hidden{i}", sizes[i] * sizes[i + 1]) for i in range(2)]
        heads = ["mean", "log_std"] if network == "encoder" else ["out"]
        shapes += [(name, sizes[2] * sizes[3] // len(heads)) for name in heads]
        for name, total in shapes:
            density = 1 - sparsity if name == "hidden1" else min(1, 6 * (1 - sparsity))
            kept = 0 if last_head_empty and name == "mean" else round(density * total)
            outputs = total // (sizes[int(name[6:])] if name.startswith("hidden") else sizes[2])
            found.append({"name": f"{network}.{name}", "kept": kept, "total": total, "outputs": outputs})
    return found


def config(env: str, agent: str, prune: str, sparsity: float, seed: int, **extra: object) -> dict[str, object]:
    """The keys of ``config.yaml`` that reports read, and ``extra`` ones of the prune section."""
    env_id, expert = _EXPERTS[env]
    hidden = {"actor_hidden": [400, 300], "critic_hidden": [400, 300], "vae_hidden": [750, 750]}
    return {
        "agent": {"name": agent, **hidden},
        "prune": {"name": prune, "scope": "network", **extra},
        "env": {"name": env, "id": env_id, "reference_max_score": expert},
        "dataset": {"name": "expert", "id": None, "path": None},
        "sparsity": sparsity,
        "seed": seed,
        "updates": 1000,
        "threads": seed + 1,
    }


def summary(env: str, agent: str, sparsity: float, final: float, collapsed: bool = False) -> dict[str, object]:
    """The keys of ``summary.json`` that reports read."""
    found = layers(sparsity, collapsed)
    return {
        "env": _EXPERTS[env][0],
        "return_mean": final,
        "normalized_score": final / 100,
        "nonzero_weights": sum(layer["kept"] for layer in found),
        "total_weights": sum(layer["total"] for layer in found),
        "layers": found,
        "policy_networks": ["decoder", "actor", "critic1"] if agent == "bcq" else ["decoder"],
        "collapsed_layers": ["encoder.mean"] if collapsed else [],
        "policy_bytes": int(3.2e6 * (1 - sparsity)) + 9000,
        "policy_dense_bytes": 3_400_000 if agent == "bcq" else 2_350_000,
        "checkpoint_bytes": int(2e7 * (1 - sparsity)) + 60000,
        "updates_per_second": 60.0 + 300 * sparsity,
        "train_seconds": 1000 / (60.0 + 300 * sparsity),
        "engine": "sparse" if sparsity else "dense",
        "dataset_return_mean": _POLICIES[env],
        **counts(sparsity),
    }


def counts(sparsity: float) -> dict[str, float]:
    """FLOPs and bytes in proportion to the density."""
    dense = {"act_flops": 4.0e6, "act_bytes": 3.4e6, "update_flops": 2.0e9, "update_bytes": 2.0e7}
    kept = {key: (1 - sparsity) * value for key, value in dense.items()}
    return kept | {key.replace("_", "_dense_"): value for key, value in dense.items()}


def write_run(
    folder: Path,
    env: str = "hopper",
    agent: str = "bcq",
    prune: str = "snip",
    sparsity: float = 0.95,
    seed: int = 0,
    returns: tuple[float, ...] = (100.0, 200.0, 300.0),
    finished: bool = True,
    collapsed: bool = False,
    episodes: tuple[tuple[float, ...], ...] = (),
    densities: tuple[float, ...] = (),
    moved: tuple[tuple[float, float], ...] = (),
    **extra: object,
) -> Path:
    """A run folder with an evaluation every 10 updates, at 5 updates a second; the last is the final one if ``finished``.

    ``episodes`` are the returns of each evaluation's episodes, ``densities`` those of one layer at each evaluation, and ``moved`` the
    shares of the actor's positions that were ever kept and of its first mask that is kept.
    """
    folder.mkdir(parents=True)
    values = config(env, agent, prune, sparsity, seed, **extra)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    names = ",masks/ever_kept/actor,masks/first_kept/actor" if moved else ""
    rows = [f"update,loss/vae,layer_density/actor.out{names},time/updates_per_second,eval/return_mean,eval/return_std"]
    for i, value in enumerate(returns):
        masks = ",".join(map(str, (densities[i] if densities else 0.3, *(moved[i] if moved else ()))))
        rows += [f"{10 * i + 5},0.5,{masks},5.0,,", f"{10 * i + 10},0.5,{masks},5.0,{value},1.0"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    if episodes:
        lines = ["update," + ",".join(f"return_{i}" for i in range(len(episodes[0])))]
        lines += [f"{10 * i + 10}," + ",".join(map(str, values)) for i, values in enumerate(episodes)]
        (folder / "episodes.csv").write_text("\n".join(lines) + "\n")
    if finished:
        found = summary(env, agent, sparsity, returns[-1], collapsed)
        (folder / "summary.json").write_text(json.dumps(found))
    return folder
