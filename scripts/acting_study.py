"""Which part of an agent's way to choose actions gains or costs return: its finished policies, played whole and with parts left out.

``python scripts/acting_study.py runs=runs/study/bcq out=results/study/acting.csv`` plays each policy below a folder in up to five
ways. BCQ perturbs an action for each of many latents and does the one that its critic values most, so either network may
lead it away from the data; without both it acts as BC does, and with the latent 0 it always does what is most likely. Nothing is
trained. A run that the file already holds is not played again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.main import run_main
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.evaluation.returns import evaluate
from sparse_offline_rl.evaluation.video import check_opengl
from sparse_offline_rl.files import read_csv, write_csv
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.runtime import FILE_NAME, Policy, load_policy
from sparse_offline_rl.types import Acting

WHOLE = "whole"
SETTINGS = ("episodes", "seed")
COLUMNS = ("run", "acting", *SETTINGS, "return_mean", "return_median", "return_min", "return_max", "under_half_of_best")
Row = Mapping[str, str | float]


class ActingOptions(Options):
    """Study what each part of acting does to the return: python scripts/acting_study.py runs=runs/study/bcq out=acting.csv"""

    runs: Path = Field(description="a folder; all finished runs below it are played")
    only: str = Field(
        "*", description="of these, the ones whose folder below `runs` fits this pattern, such as walker2d*seed0"
    )
    out: Path = Field(Path("results/study/acting.csv"), description="CSV file to write, or to add to")
    episodes: int = Field(20, ge=1, description="episodes of each policy and way")
    seed: int = Field(1, ge=0, lt=2**31, description="episode i starts from seed + i")


def main() -> None:
    """Entry point."""
    with user_errors():
        options = parse_options(ActingOptions, sys.argv[1:])
        runs = {
            path.parent.parent.relative_to(options.runs).as_posix(): path
            for path in sorted(options.runs.rglob(f"policy/{FILE_NAME}"))
        }
        wanted = [run for run in runs if fnmatchcase(run, options.only)]
        if not wanted:
            raise UserError(
                f"runs={options.runs} holds no policy/{FILE_NAME} of only={options.only}: give a folder with finished runs."
            )
        check_opengl()
        rows: list[Row] = []
        if options.out.exists():
            rows += read_csv(options.out, COLUMNS, "give another name with out=")
        _require_same_settings(rows, options)
        known = {row["run"] for row in rows}
        for run in wanted:
            if run in known:
                continue
            played = play(run, load_policy(runs[run]).content, options.episodes, options.seed)
            rows += played
            write_csv(options.out, [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)])
            print(f"{run}: " + ", ".join(f"{row['acting']} {row['return_mean']:.0f}" for row in played), flush=True)
        print(f"written to {options.out}")


def play(run: str, content: PolicyContent, episodes: int, seed: int) -> list[Row]:
    """A row for each way to act, with the share of episodes under half of the best episode of all ways, if that is positive."""
    returns = {}
    for name, acting in ways_to_act(content.acting):
        networks = {key: content.networks[key] for key in acting.networks}
        policy = Policy(replace(content, acting=acting, networks=networks), seed)
        returns[name] = evaluate(policy.act, content.env_id, episodes, seed, content.env_kwargs)
    half = max(values.max() for values in returns.values()) / 2
    return [
        {
            "run": run, "acting": name, "episodes": episodes, "seed": seed,
            "return_mean": float(values.mean()), "return_median": float(np.median(values)),
            "return_min": float(values.min()), "return_max": float(values.max()),
            "under_half_of_best": float((values < half).mean()) if half > 0 else "",
        }
        for name, values in returns.items()
    ]  # fmt: skip


def ways_to_act(acting: Acting) -> Iterator[tuple[str, Acting]]:
    """The agent's own way first, then those that lack a part of it; an agent without the part has no such way."""
    yield WHOLE, acting
    still = replace(acting, perturb=None, perturbation=0.0)
    neither = replace(still, rank=None, candidates=1)
    if acting.perturb is not None and acting.rank is not None:
        yield "not perturbed", still
        yield "not ranked", replace(acting, rank=None, candidates=1)
    if acting.perturb is not None or acting.rank is not None:
        yield "neither", neither
    if acting.latent_dim:
        yield "neither, latent 0", replace(neither, latent_clip=0.0)


def _require_same_settings(rows: list[Row], options: ActingOptions) -> None:
    """Raises UserError if ``rows`` were played otherwise: one file is one comparison."""
    for row in rows:
        for key in SETTINGS:
            if row[key] != str(getattr(options, key)):
                raise UserError(f"out={options.out} has {key}={row[key]}: give the same, or another name.")


if __name__ == "__main__":
    run_main(main)
