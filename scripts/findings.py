"""Fill the tables of the findings from the CSVs in ``results``: ``python scripts/findings.py``; ``check=true`` only says what is out of date.

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->`` in one of :data:`PAGES`; NAME is a key of :data:`TABLES`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from findings_cells import (
    Cell,
    each_seed,
    first_crossing,
    kilobytes,
    late_and_best,
    of_cells,
    returns,
    seconds,
    share,
    text,
)
from findings_tables import (
    ENVS,
    ROOT,
    Part,
    Setting,
    Table,
    after_equal_seconds,
    by_environment,
    by_setting,
    last_columns,
    over_sparsity,
)
from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.main import run_main
from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.files import write_bytes

PAGES = ("README.md", "results/masks/README.md", "results/study/README.md")
_BLOCK = re.compile(r"(<!-- table (?P<name>\S+) -->\n)(?P<body>(?:(?!<!-- ).*\n)*)(?=<!-- end -->\n)")


class FindingsOptions(Options):
    """Fill the tables of the findings from the CSVs in results: python scripts/findings.py"""

    root: Path = Field(ROOT, description="the clone whose pages are filled, from the results of this one")
    check: bool = Field(False, description="only say what is out of date, and end with status 2 if something is")


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
    return replace(part, sparsity=0.0, label="dense"), part


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
    if (agent, env) == ("BCQ", "halfcheetah"):
        # Three runs of 50,000 updates without others beside them; other work disturbed the clocks of two.
        first = seconds(dense, env, seed=0, remark=" (50,000; alone)")
    else:
        first = seconds(dense, env)
    return [first, *(seconds(part, env) for part in pruned)]


_LONG = Part(("study/long", "study/data"), "bcq", "expert", 0.98, (200_000,), methods=("snip",))
_BEYOND = Part(("study/beyond", "study/data"), "bc", "expert", 0.99, (50_000,))
_WIDE = Part(("study/wide", "study/beyond"), "bc", "expert", 0.99, (50_000,), methods=("synflow",))
# The sparsities at which layers of 750, 1500 and 3000 units have as many weights.
_WIDTHS = {"99 %": (0.99, 0.99743, 0.99935), "99.5 %": (0.995, None, 0.99967)}
_TIME = Part(("study/time",), "bcq", "expert", 0.95, (1_000,))
_TIMES = {0.0: 1000, 0.9: 2000, 0.95: 2000, 0.98: 5000, 0.99: 5000}  # the updates of these runs
_SMALL = Part(("study/small",), "td3bc", "expert", 0.95, (20_000,))

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
        ("", "SNIP 99 %", "SynFlow 99 %", "SNIP 99.5 %", "SynFlow 99.5 %", "SynFlow 99.8 %"),
        {
            name: [
                share(replace(_BEYOND, sparsity=it, methods=(method,)), env)
                for it, method in (
                    (0.99, "snip"),
                    (0.99, "synflow"),
                    (0.995, "snip"),
                    (0.995, "synflow"),
                    (0.998, "synflow"),
                )
            ]
            for env, name in ENVS.items()
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
    "time": of_cells(
        (
            "seconds of training until 95 % of the expert's return (updates)",
            "dense",
            "SNIP 90 %",
            "95 %",
            "98 %",
            "99 %",
        ),
        {
            f"{agent}, {ENVS[env]}": [
                first_crossing(
                    replace(
                        _TIME, agent=agent.lower(), sparsity=it, updates=(updates,), methods=("snip" if it else "none",)
                    ),
                    env,
                )
                for it, updates in _TIMES.items()
            ]
            for agent, env in (("BCQ", "hopper"), ("BC", "hopper"), ("BC", "walker2d"))
        },
    ),
    "small": of_cells(
        ("", "dense", "SNIP 95 %", "random, ERK 95 %"),
        {
            f"{ENVS[env]}, {dataset}, {size:,}": [
                late_and_best(
                    replace(_SMALL, dataset=dataset, special=(("dataset.size", size),), methods=(method,), sparsity=it),
                    env,
                )
                for method, it in (("none", 0.0), ("snip", 0.95), ("random prune.scope=erk", 0.95))
            ]
            for dataset, size in (("expert", 1000), ("expert", 10_000), ("medium", 1000))
            for env in ("hopper", "halfcheetah")
        },
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
}


def filled(page: Path) -> tuple[str, str]:
    """The text of a page, as it stands and with all its tables made anew.

    Raises UserError for a page that cannot be read, a table that is none of :data:`TABLES`, and markers that do not enclose one table.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{page} cannot be read ({reason(error)}): give root= the folder of a clone.") from None

    def fill(block: re.Match[str]) -> str:
        if block["name"] not in TABLES:
            raise UserError(f"{page}, {block['name']}: there is no such table; take one of {', '.join(TABLES)}.")
        return block[1] + TABLES[block["name"]](block["body"])

    new, count = _BLOCK.subn(fill, text)
    if not text.count("<!-- table") == text.count("<!-- end") == count:
        raise UserError(f"{page}: a table needs lines <!-- table NAME --> before and <!-- end --> after it; mend them.")
    return text, new


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(FindingsOptions, sys.argv[1:] if arguments is None else arguments)
        texts = {options.root / page: filled(options.root / page) for page in PAGES}
        stale = {page: new for page, (text, new) in texts.items() if new != text}
        if stale and options.check:
            raise UserError(f"{', '.join(map(str, stale))}: not what results say; run python scripts/findings.py.")
        for page, text in stale.items():
            write_bytes(page, text.encode())
            print(page)


if __name__ == "__main__":
    run_main(main)
