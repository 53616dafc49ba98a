"""How long the usual torch code takes until it has learned what the policy of its data does, beside which the times of our runs stand.

``python scripts/plain_torch_study.py agent=bcq env=hopper out=results/study/time/plain_torch.csv`` trains the benchmark's plain BCQ,
dense, on the bundled expert data, evaluates it as a run of ``experiment=study_time`` is evaluated, and adds a row for each evaluation.
What the file already holds is not trained again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from sparse_offline_rl.agents.bcq import BCQConfig, GenerativeConfig
from sparse_offline_rl.benchmarks.contestants.plain import PlainBatch
from sparse_offline_rl.benchmarks.contestants.plain_bcq import PlainBCQ
from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.main import run_main
from sparse_offline_rl.config import Config
from sparse_offline_rl.evaluation.returns import evaluate
from sparse_offline_rl.experiment import load_training_data
from sparse_offline_rl.files import read_csv, write_csv
from sparse_offline_rl.seeding import generator, seed_everything, stream_seed
from sparse_offline_rl.training.process import prepare_process
from sparse_offline_rl.training.session import TrainingData
from sparse_offline_rl.types import Batch, FloatArray

CELL = ("agent", "env", "size", "episodes", "seed")
COLUMNS = (*CELL, "update", "train_seconds", "return_mean", "dataset_return_mean")
Row = dict[str, str | float]


class PlainTorchOptions(Options):
    """Time the usual torch code until it is as good as the data: python scripts/plain_torch_study.py agent=bcq env=hopper"""

    agent: Literal["bcq", "bc"] = Field("bcq", description="bc trains the VAE alone, as agent.train_critic=false does")
    env: str = Field("hopper", description="whose expert data")
    size: int = Field(1_000_000, ge=1000, description="transitions of it")
    updates: int = Field(1000, ge=1, description="length of the run")
    every: int = Field(100, ge=1, description="updates between two evaluations")
    episodes: int = Field(20, ge=1, description="episodes of an evaluation")
    seed: int = Field(0, ge=0, lt=2**31, description="of the weights, the batches and the episodes")
    out: Path = Field(Path("results/study/time/plain_torch.csv"), description="CSV file to write, or to add to")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(PlainTorchOptions, sys.argv[1:] if arguments is None else arguments)
        rows: list[Row] = []
        if options.out.exists():
            rows += map(dict, read_csv(options.out, COLUMNS, "give another name with out="))
        cell = {name: str(getattr(options, name)) for name in CELL}
        if not any(all(str(row[name]) == cell[name] for name in CELL) for row in rows):
            prepare_process(threads=1)
            rows += [{**cell, **found} for found in learn(options)]
            write_csv(options.out, [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)])
        print(f"written to {options.out}")


def learn(options: PlainTorchOptions) -> Iterator[Row]:
    """Train; a row for each evaluation."""
    config = config_of(
        [f"agent={options.agent}", f"env={options.env}", f"dataset.size={options.size}", "prune=none", "sparsity=0"]
    )
    data = load_training_data(config)
    seed_everything(options.seed)
    agent = _agent(config, data)
    draw, stream = data.buffer.sampler(config.batch_size), generator(options.seed, "train")
    update = agent.update if options.agent == "bcq" else agent.update_vae
    seconds = 0.0
    for done in range(1, options.updates + 1):
        begin = time.perf_counter()
        agent.data = _plain(draw(stream))
        update()
        seconds += time.perf_counter() - begin
        if done % options.every == 0 or done == options.updates:
            episodes = stream_seed(options.seed, f"evaluation-{done}") % 2**31  # those of a run of ours
            earned = evaluate(partial(_act, agent, config, data), data.loaded.env_id, options.episodes, episodes)
            print(f"{done} updates, {seconds:.1f} s of training: return {earned.mean():.0f}", flush=True)
            yield {
                "update": done, "train_seconds": seconds, "return_mean": float(earned.mean()),
                "dataset_return_mean": data.return_mean or "",
            }  # fmt: skip


def _agent(config: Config, data: TrainingData) -> PlainBCQ:
    settings, spaces = config.agent, data.loaded.spaces
    assert isinstance(settings, GenerativeConfig)
    hidden = {"vae": settings.vae_hidden, "actor": settings.actor_hidden, "critic": settings.critic_hidden}
    sizes = spaces.observation_dim, spaces.action_dim, hidden, config.batch_size, settings.target_candidates
    return PlainBCQ(*sizes, sparsity=0.0, bfloat16=False)


def _plain(batch: Batch) -> PlainBatch:
    return PlainBatch(batch.observations, batch.actions, batch.rewards, batch.next_observations, 1 - batch.terminated)


def _act(agent: PlainBCQ, config: Config, data: TrainingData, observations: FloatArray) -> FloatArray:
    settings = config.agent
    assert isinstance(settings, GenerativeConfig)
    candidates = settings.acting_candidates if isinstance(settings, BCQConfig) else None
    states = torch.from_numpy(data.normalization.apply(observations).astype(np.float32))
    actions: FloatArray = agent.act(states, settings.acting_latent_clip, candidates).numpy()
    return actions


if __name__ == "__main__":
    run_main(main)
