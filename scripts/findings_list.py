"""The tables that ``scripts/findings.py`` fills, and the parts of the committed runs that they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from findings_agents import TABLES as AGENTS
from findings_cells import (
    Cell,
    all_seconds,
    each_seed,
    first_crossing,
    kilobytes,
    of_cells,
    plain_torch_crossing,
    played,
    returns,
    seconds,
    share,
    text,
)
from findings_data import TABLES as DATA
from findings_measured import TABLES as MEASURED
from findings_tables import (
    ENVS,
    Part,
    Setting,
    Table,
    after_equal_seconds,
    by_environment,
    by_setting,
    dense_of,
    last_columns,
    over_sparsity,
)

_SCRATCH = ("masks/data", "study/data")
_AFTER = ("masks/after",)
_BCQ_99 = Part(_SCRATCH, "bcq", "expert", 0.99, (10_000, 50_000))
_DENSE_20K = replace(_BCQ_99, sparsity=0.0, updates=(10_000, 20_000), label="dense, 20,000 updates")
_BC_DENSE = Part(_AFTER, "bc", "expert", 0.0, (20_000,), "dense, 20,000 updates", 20_000)
_BC_99 = Part(_AFTER, "bc", "expert", 0.99, (40_000,), begun=_BC_DENSE)
_BCQ_95 = Part(_SCRATCH, "bcq", "expert", 0.95, (5_000, 20_000))
_MEDIUM_99 = Part(_SCRATCH, "bcq", "medium", 0.99, (10_000, 20_000))
_MEDIUM_95 = Part(_SCRATCH, "bcq", "medium", 0.95, (5_000, 10_000))
_EIGENDAMAGE = replace(_BC_99, sparsity=0.95, label="`{}` at 95 %", methods=("eigendamage",))
_LONGER = replace(_BC_99, sparsity=0.0, label="dense, 40,000 updates", length=40_000)


# BCQ from 5,000 dense updates (experiment=masks_after_bcq).
_BCQ_BEGUN = Part(_AFTER, "bcq", "expert", 0.0, (5_000,), "dense, 5,000 updates", 5_000)
_BCQ_AFTER = Part(_AFTER, "bcq", "expert", 0.99, (10_000, 12_500), length=12_500, begun=_BCQ_BEGUN)
_MEDIUM_BEGUN = replace(_BCQ_BEGUN, dataset="medium")
_MEDIUM_AFTER = replace(_BCQ_AFTER, dataset="medium", begun=_MEDIUM_BEGUN)
# Learning rates that fall (experiment=study_rates), and the runs to compare them with.
_RATES = ("agent.vae_lr", 0.002), ("agent.lr_decay", 50_000)
_FALLING = Part(("study/rates",), "bcq", "expert", 0.99, (10_000, 50_000), special=_RATES)
_BC_DENSE_20K = Part(("study/data",), "bc", "expert", 0.0, (10_000, 20_000), "dense, 20,000 updates")
_BC_SCRATCH_99 = Part(
    ("study/data", "study/beyond"), "bc", "expert", 0.99, (10_000, 50_000), methods=("snip", "synflow")
)


def _with_dense(part: Part) -> tuple[Part, Part]:
    return dense_of(part), part


_STUDY = {
    "BCQ": Part(("study/data", "masks/data"), "bcq", "expert", 0.95, (50_000,)),
    "BC": Part(("study/data",), "bc", "expert", 0.95, (50_000,)),
}
_HIGH = {0.95: 50_000, 0.98: 50_000, 0.99: 50_000, 0.995: 50_000}
_SPARSITIES = {0.8: 20_000, 0.9: 20_000} | _HIGH
_PRUNERS = {
    "snip": "SNIP",
    "grasp": "GraSP",
    "random prune.scope=erk": "random, ERK",
    "random prune.scope=layer": "random, uniform",
}

# Normalisation, allocation and controls at 95 % (experiment=study_options).
_OPTIONS = Part(("study/data", "masks/data", "study/options"), "bcq", "expert", 0.95, (20_000,))
_OPTION_PRUNERS = {"snip": "SNIP", "grasp": "GraSP", "random prune.scope=erk": "random", "none": "dense"}
_SETTINGS = (
    Setting("standardised observations"),
    Setting("**raw observations**", special=(("dataset.normalize", False),)),
    Setting("`prune.scope=layer`", "prune.scope=layer"),
    Setting("`prune.scope=erk`", "prune.scope=erk"),
    Setting("positions shuffled within layers", "prune.shuffle_layerwise=true"),
    Setting("initial weights redrawn", "prune.reinit=true"),
)
_TWIN = Setting("`agent.twin=copy` (paper: both critics stay equal)", special=(("agent.twin", "copy"),))

# What SNIP costs: the last evaluation of each run, the agent's first store first.
_COST_SPARSITIES = (0.0, 0.95, 0.98, 0.99, 0.995)
_COST = {
    agent: {
        it: replace(
            _STUDY[agent], stores=("study/data",), sparsity=it, updates=(50_000,), methods=("snip" if it else "none",)
        )
        for it in _COST_SPARSITIES
    }
    for agent in ("BCQ", "BC")
}


def _costs(agent: str, env: str) -> list[Cell]:
    dense, *pruned = _COST[agent].values()
    # The runs of results/learning have other updates and had the machine for themselves.
    remark = " (50,000; alone)" if (agent, env) == ("BCQ", "halfcheetah") else ""
    return [seconds(dense, env, remark), *(seconds(part, env) for part in pruned)]


_LONG = Part(("study/long", "study/data"), "bcq", "expert", 0.98, (200_000,), methods=("snip",))
_BEYOND = Part(("study/beyond", "study/data"), "bc", "expert", 0.99, (50_000,))
_BEYOND_COLUMNS = {
    f"{pruner} {100 * sparsity:g} %": replace(_BEYOND, sparsity=sparsity, methods=(pruner.lower(),))
    for pruner, sparsity in [("SNIP", 0.99), ("SynFlow", 0.99), ("SNIP", 0.995), ("SynFlow", 0.995), ("SynFlow", 0.998)]
}
_WIDE = Part(("study/wide", "study/beyond"), "bc", "expert", 0.99, (50_000,), methods=("synflow",))
# The sparsities at which layers of 750, 1500 and 3000 units have as many weights.
_WIDTHS = {"99 %": (0.99, 0.99743, 0.99935), "99.5 %": (0.995, None, 0.99967)}
# The same at the weights of 95 %, by agent and pruner: BCQ's actor and critics are wider, too.
_WIDE_95 = {
    f"{agent}, {name}": (
        replace(_WIDE, stores=("study/wide", "study/data"), agent=agent.lower(), methods=(method,)),
        (0.95, *wider),
    )
    for agent, wider, pruners in (
        ("BC", (0.98717, 0.99675), {"SNIP": "snip", "SynFlow": "synflow"}),
        ("BCQ", (0.98713, 0.99673), {"SNIP": "snip", "random": "random prune.scope=erk"}),
    )
    for name, method in pruners.items()
}
_TIME_COLUMNS = (
    ("our dense engine", "none", 0.0),
    ("SNIP 90 %", "snip", 0.9),
    ("95 %", "snip", 0.95),
    ("98 %", "snip", 0.98),
    ("99 %", "snip", 0.99),
    ("SynFlow 98 %", "synflow", 0.98),
    ("99 %", "synflow", 0.99),
    ("99.5 %", "synflow", 0.995),
)


def _timed_part(agent: str, env: str, method: str, sparsity: float) -> Part:
    """Runs of experiment=study_time, whose length goes with all these."""
    updates = 2_000 if sparsity <= 0.95 else 5_000
    if env == "halfcheetah":
        updates = 30_000 if agent == "bcq" else 20_000
    return Part(("study/time",), agent, "expert", sparsity, (updates,), methods=(method,))


# The ways to act of scripts/acting_study.py.
_WAYS = ("whole", "not perturbed", "not ranked", "neither", "neither, latent 0")


def _acting(runs: Mapping[str, str]) -> Table:
    return of_cells(
        ("mean return of 20 episodes", *_WAYS),
        {label: [played(f"{it}*", way) for way in _WAYS] for label, it in runs.items()},
    )


# BCQ on Hopper, 6,000 updates by methods that begin dense, the best first; then three that begin sparse.
_SHORT = Part(("masks/short",), "bcq", "expert", 0.99, (6_000,))
_SHORT_METHODS = (
    *("kron_obd", "slimming", "iterative_magnitude", "sensitivity", "vardrop", "obs", "obd", "gradual", "kron_obs"),
    *("lottery", "espn", "after_training", "pipeline", "decorrelation", "bernoulli", "l0", "structured", "group_lasso"),
    *("synflow", "rigl", "snip"),
)

# The quickest of these stops the clock: the quickest of all are those that learn nothing.
_TIMED = ("synflow", "snfs", "rigl", "grasp", "iter_snip", "snip", "snip prune.scope=erk", "force", "set")

TABLES: dict[str, Table] = {
    "study": over_sparsity("share of the dense return that SNIP keeps", _STUDY, {"snip": ""}, _HIGH),
    "study-bcq": over_sparsity("BCQ", {"": _STUDY["BCQ"]}, _PRUNERS, _SPARSITIES),
    "study-bc": over_sparsity("BC", {"": _STUDY["BC"]}, _PRUNERS, _SPARSITIES),
    "options-bcq": by_setting(_OPTIONS, (*_SETTINGS, _TWIN), _OPTION_PRUNERS),
    "options-bc": by_setting(replace(_OPTIONS, agent="bc"), _SETTINGS, _OPTION_PRUNERS),
    "cost": of_cells(
        ("seconds of training (two runs at once)", "dense", "SNIP 95 %", "98 %", "99 %", "99.5 %"),
        {
            "updates": [text(it) for it in ("20,000", "50,000", "50,000", "50,000", "50,000")],
            **{f"{agent}, {name}": _costs(agent, env) for agent in _COST for env, name in ENVS.items()},
            **{
                f"policy file of {agent}, kB": [kilobytes(it) for it in parts.values()]
                for agent, parts in _COST.items()
            },
        },
    ),
    "long": of_cells(
        ("return after 200,000 updates (mean, of the dense agents')", "SNIP 98 %", "SNIP 99 %"),
        {
            agent: [each_seed(replace(_LONG, agent=agent.lower(), sparsity=it), "halfcheetah") for it in (0.98, 0.99)]
            for agent in ("BC", "BCQ")
        },
    ),
    "beyond": of_cells(
        ("", *_BEYOND_COLUMNS),
        {
            **{name: [share(part, env) for part in _BEYOND_COLUMNS.values()] for env, name in ENVS.items()},
            "kB": [kilobytes(part) for part in _BEYOND_COLUMNS.values()],
            "seconds": [all_seconds(part) for part in _BEYOND_COLUMNS.values()],
        },
    ),
    "wide": of_cells(
        ("return (seeds)", "750 units", "1500 units", "3000 units"),
        {
            f"{ENVS[env]}, the weights of {it}": [
                returns(replace(_WIDE, sparsity=found), env) if found else text("") for found in _WIDTHS[it]
            ]
            for it, envs in (("99 %", ENVS), ("99.5 %", ("walker2d", "halfcheetah")))
            for env in envs
        },
    ),
    "wide-95": of_cells(
        ("return (seeds)", "the usual width", "twice", "four times"),
        {
            f"{label}, {name}": [returns(replace(part, sparsity=it), env) for it in widths]
            for label, (part, widths) in _WIDE_95.items()
            for env, name in ENVS.items()
        },
    ),
    "time": of_cells(
        (
            "seconds of training until 95 % of the expert's return (updates)",
            "the usual torch code",
            *(it[0] for it in _TIME_COLUMNS),
        ),
        {
            f"{agent}, {name}": [
                plain_torch_crossing(agent.lower(), env),
                *(first_crossing(_timed_part(agent.lower(), env, *it[1:]), env) for it in _TIME_COLUMNS),
            ]
            for agent in ("BCQ", "BC")
            for env, name in ENVS.items()
        },
    ),
    "acting": _acting(
        {
            **{
                f"Walker2d, {label}, seed {seed}": f"walker2d-expert/{pruner}-network-{sparsity}/seed{seed}"
                for label, pruner, sparsity in (("dense", "none", 0.0), ("95 %", "snip", 0.95))
                for seed in (0, 1, 2)
            },
            "Walker2d, 98 %, mean of three seeds": "walker2d-expert/snip-network-0.98/",
            **{
                f"HalfCheetah, {100 * it:g} %, mean of three seeds": f"halfcheetah-expert/snip-network-{it}/"
                for it in (0.95, 0.98, 0.99)
            },
        }
    ),
    "acting-small": _acting(
        {
            **{f"dense, seed {it}": f"halfcheetah-expert-10000/none-network-0.0/seed{it}" for it in (0, 1, 2)},
            **{
                f"{label} 95 %, mean of three seeds{after}": f"halfcheetah-expert-10000/{mask}-0.95{length}/"
                for after, length in (("", ""), (", 50,000 updates", "-50000"))
                for label, mask in (("SNIP", "snip-network"), ("random, ERK", "random-erk"))
            },
        }
    ),
    "from-scratch": last_columns(_BCQ_99, _DENSE_20K, _FALLING),
    "from-dense": last_columns(_BC_99, _LONGER, _EIGENDAMAGE),
    "bcq-expert-99": by_environment(_DENSE_20K, _BCQ_99),
    "bcq-expert-99-seconds": after_equal_seconds(_BCQ_99, _TIMED),
    "bcq-expert-95": by_environment(*_with_dense(_BCQ_95)),
    "bcq-expert-95-seconds": after_equal_seconds(_BCQ_95, _TIMED),
    "bcq-medium-99": by_environment(*_with_dense(_MEDIUM_99)),
    "bcq-medium-99-seconds": after_equal_seconds(_MEDIUM_99, _TIMED),
    "bcq-medium-95": by_environment(*_with_dense(_MEDIUM_95)),
    "bcq-medium-95-seconds": after_equal_seconds(_MEDIUM_95, _TIMED),
    "bcq-after-99": by_environment(_BCQ_BEGUN, _BCQ_AFTER, _DENSE_20K),
    "bcq-after-95": by_environment(_BCQ_BEGUN, replace(_BCQ_AFTER, sparsity=0.95), _DENSE_20K),
    "bcq-after-medium-99": by_environment(_MEDIUM_BEGUN, _MEDIUM_AFTER),
    "bcq-after-medium-95": by_environment(_MEDIUM_BEGUN, replace(_MEDIUM_AFTER, sparsity=0.95)),
    "rates-bcq": by_environment(_DENSE_20K, replace(_BCQ_99, methods=("synflow", "rigl", "snip")), _FALLING),
    "rates-bc": by_environment(_BC_DENSE_20K, _BC_SCRATCH_99, replace(_FALLING, agent="bc")),
    "bc-after-99": by_environment(
        _BC_DENSE,
        _BC_99,
        _LONGER,
        _EIGENDAMAGE,
        replace(_BC_99, sparsity=0.995, label="`{}` at 99.5 %", methods=("obs",)),
    ),
    "short": of_cells(
        ("`prune=`", "return", "seconds", "kB"),
        {
            f"`{it}`": [cell(part, "hopper") for cell in (returns, seconds)] + [kilobytes(part)]
            for it in _SHORT_METHODS
            for part in [replace(_SHORT, methods=(it,))]
        },
    ),
    **AGENTS,
    **DATA,
    **MEASURED,
}
