"""Whole BCQ updates against d3rlpy and against plain torch."""

from __future__ import annotations

from sparse_offline_rl.benchmarks.bench import ACTIONS, BATCH, OBSERVATIONS, Bench, best_rate, ratio, remark
from sparse_offline_rl.benchmarks.race import Entry
from sparse_offline_rl.benchmarks.results import Row, Table

TITLE = "Against other libraries"
_SPARSITY = 0.95
_FLOAT32, _BFLOAT16 = "plain torch, dense", "plain torch, dense, bfloat16"
_NOTES = (
    "BCQ, 17 observations, 6 actions, batch 100, 10 actions per next state, actor [400, 300], critics [400, 300], VAE [750, 750], "
    "an actor update with every critic update. Ours draws its batch anew at each update; the others keep one prepared "
    "batch and run with the allocator as it comes.",
    "Plain torch is this project's own code in the usual style: autograd through everything that a loss touches, `F.linear`, "
    "`torch.optim.Adam` with its defaults, one parameter at a time for the targets. With masks, every weight is multiplied by its mask at "
    "every use, as simulated sparsity does. bfloat16 is `torch.autocast` around each loss, which pays on processors with AMX; "
    '"best plain torch" is the faster of float32 and bfloat16.',
)


def measure(bench: Bench) -> list[Table]:
    """One table for all threads."""
    rows: list[Row] = []
    for threads in bench.scale.threads:
        lines = {
            f"ours, sparse engine, sparsity {_SPARSITY:g}": (bench.training("bcq", "sparse", _SPARSITY, threads),),
            "ours, dense engine": (bench.training("bcq", "dense", 0.0, threads),),
            _FLOAT32: (_foreign(bench, "plain_bcq:training", threads),),
            _BFLOAT16: (_foreign(bench, "plain_bcq:training", threads, bfloat16=True),),
            f"plain torch, masks of sparsity {_SPARSITY:g}": (
                _foreign(bench, "plain_bcq:training", threads, sparsity=_SPARSITY),
            ),
            "d3rlpy": (_foreign(bench, "peers:d3rlpy_bcq", threads),),
        }
        outcomes = bench.race(lines)
        plain, ours = outcomes[_FLOAT32].rate, outcomes["ours, dense engine"].rate
        best = best_rate(outcomes[_FLOAT32], outcomes[_BFLOAT16])
        for name, outcome in outcomes.items():
            row: Row = {"threads": threads, "who": " ".join([name, str(outcome.facts.get("version", ""))]).strip()}
            row |= {"updates/s": outcome.rate, "ms an update": outcome.milliseconds}
            row |= {"× plain torch": ratio(outcome.rate, plain), "× best plain torch": ratio(outcome.rate, best)}
            row["× our dense engine"] = ratio(outcome.rate, ours)
            rows.append({**row, **remark(outcome)})
    return [Table("Whole updates of BCQ", rows, _NOTES)]


def _foreign(bench: Bench, contestant: str, threads: int, **arguments: float) -> Entry:
    sizes = {"S": OBSERVATIONS, "A": ACTIONS, "hidden": bench.scale.hidden, "batch": BATCH}
    sizes |= {"candidates": bench.scale.candidates, "threads": threads, **arguments}
    if contestant.startswith("peers:"):
        return Entry(contestant, sizes, threads, python=bench.peers)
    return Entry(contestant, sizes, threads)
