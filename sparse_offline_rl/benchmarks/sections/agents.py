"""TD3+BC and IQL: whole updates and single actions, against plain torch."""

from __future__ import annotations

from sparse_offline_rl.benchmarks.bench import ACTIONS, OBSERVATIONS, Bench, best_rate, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "TD3+BC and IQL"
AGENTS = ("td3bc", "iql")
BATCH, HIDDEN = 256, (256, 256)  # their authors'
_SPARSITY = 0.95
_FLOAT32, _BFLOAT16 = "plain torch, dense", "plain torch, dense, bfloat16"
_DIFFERENT_OBSERVATIONS = 64


def measure(bench: Bench) -> list[Table]:
    """Updates and acting."""
    return [_updates(bench), _latency(bench)]


def _overrides(agent: str, engine: str, sparsity: float) -> list[str]:
    """The training configuration; widths and all constants are the agent's defaults."""
    overrides = [f"agent={agent}", f"engine={engine}", "threads=1", f"batch_size={BATCH}"]
    return [*overrides, "prune=snip", f"sparsity={sparsity!r}"] if sparsity else overrides


def _ours(agent: str, engine: str, sparsity: float) -> Entry:
    return Entry("agents:training", {"overrides": _overrides(agent, engine, sparsity)})


def _plain(agent: str, bfloat16: bool) -> Entry:
    sizes = {"S": OBSERVATIONS, "A": ACTIONS, "hidden": HIDDEN, "batch": BATCH, "threads": 1}
    return Entry(f"plain_{agent}:training", {**sizes, "bfloat16": bfloat16})


def _updates(bench: Bench) -> Table:
    rows: list[Row] = []
    for agent in AGENTS:
        outcomes = bench.race({
            f"ours, sparse engine, sparsity {_SPARSITY:g}": (_ours(agent, "sparse", _SPARSITY),),
            f"ours, dense engine, sparsity {_SPARSITY:g}": (_ours(agent, "dense", _SPARSITY),),
            "ours, dense engine": (_ours(agent, "dense", 0.0),),
            _FLOAT32: (_plain(agent, bfloat16=False),),
            _BFLOAT16: (_plain(agent, bfloat16=True),),
        })  # fmt: skip
        plain, best = outcomes[_FLOAT32].rate, best_rate(outcomes[_FLOAT32], outcomes[_BFLOAT16])
        for name, outcome in outcomes.items():
            row: Row = {"agent": agent, "who": name, "updates/s": outcome.rate, "ms an update": outcome.milliseconds}
            row |= {"× plain torch": ratio(outcome.rate, plain), "× best plain torch": ratio(outcome.rate, best)}
            rows.append({**row, **remark(outcome)})
    notes = [
        f"{OBSERVATIONS} observations, {ACTIONS} actions, batch {BATCH}, hidden layers {list(HIDDEN)}, masks by SNIP, one thread; an update "
        "is one of the critic, and TD3+BC moves its policy and its targets at every second one. Ours draws its batch anew at "
        "each update, plain torch keeps one.",
        "Plain torch is this project's own code in the authors' style: `nn.Linear`, autograd through everything that a loss touches, "
        "`torch.optim.Adam` with its defaults, one parameter at a time for the targets. bfloat16 is `torch.autocast` around each "
        'loss; "best plain torch" is the faster of float32 and bfloat16.',
    ]
    return Table("Whole updates of TD3+BC and IQL", rows, notes)


def _latency(bench: Bench) -> Table:
    rows: list[Row] = []
    eager = {"S": OBSERVATIONS, "A": ACTIONS, "hidden": HIDDEN, "observations": _DIFFERENT_OBSERVATIONS}
    for agent in AGENTS:
        stored = {"kind": "policy file", "overrides": _overrides(agent, "auto", _SPARSITY)}
        outcomes = bench.race(
            {
                f"ours, `load_policy(…).act`, sparsity {_SPARSITY:g}": (Entry("acting:latency", stored),),
                "torch eager, dense": (Entry("plain:acting", eager),),
            },
            each=True,
        )
        slow = outcomes["torch eager, dense"].percentile(50)
        for how, outcome in outcomes.items():
            p50 = outcome.percentile(50)
            row: Row = {"agent": agent, "how": how, "p50 µs": p50, "p99 µs": outcome.percentile(99)}
            rows.append({**row, "× faster than torch eager": ratio(slow, p50), **remark(outcome)})
    notes = [
        f"One observation of {OBSERVATIONS} values in NumPy to one action of {ACTIONS}, one thread; IQL acts with its mean. The torch "
        "policy does not normalise the observation.",
    ]
    return Table("Latency of one action, TD3+BC and IQL", rows, notes)
