"""Tables about runs on other data than a million transitions of an expert: medium and mixed data, and few."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from findings_cells import Cell, best, joined, mean_at, of_cells, of_the_data, returns
from findings_tables import ENVS, Part, Table, dense_of

# Other data: 95 % pruned by SNIP and at random. BCQ's runs on medium data are shorter, and of experiment=masks.
_OTHER = Part(("study/other",), "bc", "medium", 0.95, (20_000,), length=20_000)
_BCQ_MEDIUM = Part(("masks/data",), "bcq", "medium", 0.95, (10_000,))
_OTHERS = {
    f"{agent}, {dataset}, {ENVS[env]}": (replace(part, agent=agent.lower(), dataset=dataset.replace("-", "_")), env)
    for agent, dataset, part, envs in (
        ("BCQ", "medium", _BCQ_MEDIUM, ENVS),
        ("BC", "medium", _OTHER, ENVS),
        ("BCQ", "medium-expert", _OTHER, ENVS),
        ("BC", "medium-expert", _OTHER, ENVS),
    )
    for env in envs
}
_PRUNED = {"SNIP 95 %": ("snip", 0.95), "random, ERK 95 %": ("random prune.scope=erk", 0.95)}
_DENSE_AND_PRUNED = {"dense": ("none", 0.0), **_PRUNED}
_MIXED = replace(_OTHER, dataset="medium_expert")
_MIXED_COLUMNS = {
    **_DENSE_AND_PRUNED,
    "SynFlow 95 %": ("synflow", 0.95),
    "RigL 95 %": ("rigl", 0.95),
    "SNIP 90 %": ("snip", 0.9),
    "SNIP 80 %": ("snip", 0.8),
}

# Few data, by agent, environment and dataset, of seed 0: the return after the last update and the best one, dense / SNIP / random.
_SMALL = Part(("study/small",), "td3bc", "expert", 0.95, (20_000,))
_SMALL_ROWS = {
    "TD3+BC, expert": _SMALL,
    "TD3+BC, medium": replace(_SMALL, dataset="medium"),
    "BC, expert": replace(_SMALL, agent="bc"),
    "BCQ, expert": replace(_SMALL, agent="bcq", updates=(10_000,), length=10_000),
}
_SIZES = (1000, 5000, 10_000, 50_000)


def _last(part: Part, env: str) -> Cell:
    return mean_at(part, env, part.updates[-1])


def _sized(part: Part, size: int, seed: int) -> Part:
    return replace(part, special=(("dataset.size", size), ("seed", seed)))


# The same of each seed where sparse agents are ahead, and those trained for longer.
_SEEDS = (0, 1, 2)
_SMALL_SEEDS = {
    label: [replace(_sized(_SMALL_ROWS["BCQ, expert"], 10_000, it), methods=(method,), sparsity=s) for it in _SEEDS]
    for label, (method, s) in _DENSE_AND_PRUNED.items()
}
_LENGTHS = {"dense": (5_000, 10_000), **dict.fromkeys(_PRUNED, (50_000,))}
_SMALL_UPDATES = (1_000, 2_000, 3_000, 4_000, 5_000, 10_000, 20_000, 30_000, 40_000, 50_000)


def _over_updates(label: str) -> list[Cell]:
    method, sparsity = _DENSE_AND_PRUNED[label]
    part = replace(
        _SMALL_ROWS["BCQ, expert"], methods=(method,), sparsity=sparsity, special=(("dataset.size", 10_000),)
    )
    return [
        mean_at(replace(part, updates=(length,), length=length), "halfcheetah", it)
        for it in _SMALL_UPDATES
        for length in [next((length for length in _LENGTHS[label] if it <= length), _LENGTHS[label][-1])]
    ]


def _small(cell: Callable[[Part, str], Cell]) -> Table:
    def of_size(part: Part, env: str, size: int) -> Cell:
        sized = _sized(part, size, 0)
        return joined(*(cell(replace(sized, methods=(it,), sparsity=s), env) for it, s in _DENSE_AND_PRUNED.values()))

    return of_cells(
        ("dense / SNIP 95 % / random 95 %", *(f"{it:,}" for it in _SIZES)),
        {
            f"{label}, {name}": [of_size(part, env, it) for it in _SIZES]
            for label, part in _SMALL_ROWS.items()
            for env, name in ENVS.items()
        },
    )


TABLES: dict[str, Table] = {
    "other": of_cells(
        (
            *("return (seeds)", "the data", *_DENSE_AND_PRUNED),
            *("SNIP, 200,000 updates", "random, 200,000"),
        ),
        {
            label: [
                of_the_data(dense_of(part), env),
                *(
                    returns(replace(part, methods=(method,), sparsity=it), env)
                    for method, it in _DENSE_AND_PRUNED.values()
                ),
                *(
                    returns(replace(part, methods=(method,), updates=(200_000,), length=200_000), env)
                    for method, _ in _PRUNED.values()
                ),
            ]
            for label, (part, env) in _OTHERS.items()
        },
    ),
    "mixed": of_cells(
        ("BC, medium-expert, 20,000 updates: return (seeds)", *_MIXED_COLUMNS),
        {
            ENVS[env]: [
                returns(replace(_MIXED, methods=(method,), sparsity=it), env) for method, it in _MIXED_COLUMNS.values()
            ]
            for env in ("hopper", "halfcheetah")
        },
    ),
    "small": _small(_last),
    "small-best": _small(best),
    "small-seeds": of_cells(
        ("last / best return", *(f"seed {it}" for it in _SEEDS)),
        {
            label: [joined(_last(part, "halfcheetah"), best(part, "halfcheetah")) for part in parts]
            for label, parts in _SMALL_SEEDS.items()
        },
    ),
    "small-long": of_cells(
        ("mean of three seeds after so many updates", *(f"{it:,}" for it in _SMALL_UPDATES)),
        {label: _over_updates(label) for label in _DENSE_AND_PRUNED},
    ),
}
