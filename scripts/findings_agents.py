"""Tables about the runs of single agents: learning curves, and TD3+BC and IQL by pruner."""

from __future__ import annotations

from dataclasses import replace

from findings_cells import all_seconds, joined, mean_at, mean_of_all, of_cells, returns, seeds
from findings_tables import ENVS, Part, Table, dense_of

# Runs of single agents, and TD3+BC and IQL by other pruners.
_LEARNING = Part(("learning", "masks/agents"), "bcq", "expert", 0.95, (50_000,), methods=("snip",))
_AGENTS = {
    "TD3+BC": replace(_LEARNING, agent="td3bc", updates=(20_000, 100_000)),
    "IQL": replace(_LEARNING, agent="iql", updates=(20_000, 100_000)),
}
_AGENT_DATA = [(env, dataset) for dataset in ("expert", "medium") for env in ("hopper", "halfcheetah")]
_RAW = (("dataset.normalize", False),)
_BC_HOPPER = replace(_LEARNING, agent="bc")
_CURVES = {
    "`agent=bcq prune=none` HalfCheetah, 3 seeds": (dense_of(_LEARNING), "halfcheetah"),
    "`agent=bcq prune=snip sparsity=0.95` HalfCheetah, 3 seeds": (_LEARNING, "halfcheetah"),
    "`agent=bcq prune=grasp sparsity=0.95` HalfCheetah, 3 seeds": (
        replace(_LEARNING, methods=("grasp",)),
        "halfcheetah",
    ),
    "… SNIP with `dataset.normalize=false`": (replace(_LEARNING, special=_RAW), "halfcheetah"),
    "`agent=bc prune=none env=hopper` (20k updates), 3 seeds": (dense_of(_BC_HOPPER), "hopper"),
    "`agent=bc prune=snip sparsity=0.95 env=hopper`, 3 seeds": (_BC_HOPPER, "hopper"),
    "… with `dataset.normalize=false`": (replace(_BC_HOPPER, special=_RAW), "hopper"),
}
_CURVE_UPDATES = (5_000, 10_000, 15_000, 20_000, 30_000, 40_000, 50_000)


def _agent_row(part: Part, method: str, sparsity: float) -> Part:
    updates = part.updates if sparsity else part.updates[:1]  # dense agents have no more
    return replace(part, sparsity=sparsity, methods=(method,), updates=updates)


# Label, method and sparsity of the rows of TD3+BC's and IQL's table, the best first.
_AGENT_ROWS = (
    ("dense", "none", 0.0),
    *(
        (f"`{it}`", it, 0.95)
        for it in ("rigl", "random prune.scope=erk", "snip prune.scope=erk", "synflow", "grasp", "snip")
    ),
    ("`snip`, positions shuffled within layers", "snip prune.shuffle_layerwise=true", 0.95),
    ("`snip` at 80 %", "snip", 0.8),
    ("`rigl` at 98 %", "rigl", 0.98),
)

TABLES: dict[str, Table] = {
    "agents": of_cells(
        ("", *(f"{ENVS[env]}, {dataset}" for env, dataset in _AGENT_DATA)),
        {
            agent: [
                joined(
                    mean_at(replace(dense_of(part), dataset=dataset), env, 20_000),
                    mean_at(replace(part, dataset=dataset), env, 100_000),
                )
                for env, dataset in _AGENT_DATA
            ]
            for agent, part in _AGENTS.items()
        },
    ),
    "agents-pruners": of_cells(
        ("expert data (11456)", *_AGENTS, "seconds"),
        {
            label: [*(returns(part, "halfcheetah") for part in parts), all_seconds(*parts, env="halfcheetah")]
            for label, method, sparsity in _AGENT_ROWS
            for parts in [[_agent_row(it, method, sparsity) for it in _AGENTS.values()]]
        },
    ),
    "curves": of_cells(
        ("run", *(f"{it // 1000}k" for it in _CURVE_UPDATES), "mean of all evaluations"),
        {
            label: [*(mean_at(part, env, it) for it in _CURVE_UPDATES), mean_of_all(part, env)]
            for label, (part, env) in _CURVES.items()
        },
    ),
    "curves-agents": of_cells(
        ("run (standardised, 10 episodes an evaluation)", "seeds", "10k", "20k", "50k", "100k"),
        {
            f"{agent}, {label}, {ENVS[env]} {dataset}": [
                seeds(part, env),
                *(mean_at(part, env, it) for it in (10_000, 20_000, 50_000, 100_000)),
            ]
            for agent, learned in _AGENTS.items()
            for env in ("hopper", "halfcheetah")
            for dataset in ("expert", "medium")
            for label, part in (
                ("dense", replace(dense_of(learned), dataset=dataset)),
                ("SNIP 95 %", replace(learned, dataset=dataset)),
            )
        },
    ),
}
