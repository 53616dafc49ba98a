"""One sitting of a run: what the training loop calls to evaluate, log and save."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from sparse_offline_rl.agents.bcq import BCQ, Metrics, Update
from sparse_offline_rl.agents.state import agent_tensors, load_agent_tensors
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.load import LoadedDataset
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.evaluation.normalized_score import normalized_score
from sparse_offline_rl.evaluation.returns import evaluate
from sparse_offline_rl.policy.format import write_policy
from sparse_offline_rl.pruning.layer_reports import LayerReport
from sparse_offline_rl.seeding import generator, stream_seed
from sparse_offline_rl.training.checkpoint import Checkpoint, save_checkpoint
from sparse_offline_rl.training.console import ticker
from sparse_offline_rl.training.deploy import policy_content
from sparse_offline_rl.training.loop import Clock, Hooks, Schedule, train
from sparse_offline_rl.training.metrics import MetricsWriter
from sparse_offline_rl.training.run_folder import RunFolder
from sparse_offline_rl.training.summary import file_sizes, summarize
from sparse_offline_rl.types import BoolArray, FloatArray


@dataclass(frozen=True)
class Result:
    """How a call of ``experiment.run`` ended; ``summary`` is None after an interruption."""

    status: Literal["finished", "already complete", "interrupted"]
    summary: Mapping[str, Any] | None
    update: int


@dataclass(frozen=True)
class Experience:
    """What the agent learns from."""

    data: LoadedDataset
    normalization: Normalization
    buffer: ReplayBuffer


@dataclass(frozen=True)
class Trainee:
    """The agent that learns, and what pruning and the engine made of it."""

    agent: BCQ
    engine: str
    update: Update
    masks: Mapping[str, Mapping[str, BoolArray]]
    reports: list[LayerReport]


class Session:
    """Holds the state of the loop: random stream, clocks, metric files, last evaluation."""

    def __init__(
        self, config: Config, folder: RunFolder, experience: Experience, trainee: Trainee, checkpoint: Checkpoint | None
    ) -> None:
        self._config, self._folder, self._experience, self._trainee = config, folder, experience, trainee
        self._generator = generator(config.seed, "train", config.device)
        self._sample = experience.buffer.sampler(config.batch_size)
        self._clock, self._evaluation, self._start = Clock(), dict[str, float](), 0
        offset = 0
        if checkpoint is not None:
            progress = checkpoint.progress
            if progress["data"] != experience.buffer.fingerprint:
                raise UserError(
                    f"{folder.path} was trained on other data ({progress['data']}) than {experience.data.name} holds now "
                    f"({experience.buffer.fingerprint}): restore the dataset, or choose another run_dir."
                )
            tensors = dict(checkpoint.tensors)
            self._generator.set_state(tensors.pop("rng/train"))
            load_agent_tensors(trainee.agent, tensors, checkpoint.update)
            self._clock, self._evaluation = Clock(**progress["clock"]), progress["evaluation"]
            self._start, offset = checkpoint.update, progress["csv_bytes"]
        self._logged_at = (self._start, self._clock.train)
        self._metrics = MetricsWriter(folder.path, offset, self._start)

    def run(self, should_stop: Callable[[], bool]) -> Result:
        """Train to the end or until ``should_stop``, then write policy and summary."""
        config = self._config
        schedule = Schedule(config.updates, config.log.every, config.eval.every, config.checkpoint.every)
        with ticker(config.updates, self._start) as progress:
            self._show = progress.log
            hooks = Hooks(self._evaluate, self._log, self._save, should_stop)
            update = train(self._step, schedule, hooks, self._clock, self._start)
        if update < config.updates:
            return Result("interrupted", None, update)
        self._metrics.sync()
        summary = self._ship()
        self._folder.finish(summary)
        return Result("finished", summary, update)

    def close(self) -> None:
        """Close the metric files."""
        self._metrics.close()

    def _ship(self) -> dict[str, Any]:
        """Write the policy file and put the summary together."""
        config, trainee, data = self._config, self._trainee, self._experience.data
        content = policy_content(config, trainee.agent, trainee.masks, self._experience.normalization, data)
        write_policy(self._folder.policy, content)
        sizes = file_sizes(self._folder.checkpoint, self._folder.policy, content.dense_bytes)
        return summarize(config, trainee.reports, data.env_id, self._evaluation, self._clock, trainee.engine, sizes)

    def _step(self) -> Metrics:
        metrics = self._trainee.update(self._sample(self._generator), self._generator)
        if self._generator.device.type == "cuda":
            torch.cuda.synchronize()  # else the clock would time the launches only
        return metrics

    def _evaluate(self, update: int) -> dict[str, float]:
        config, data = self._config, self._experience.data
        draws = generator(config.seed, f"acting-{update}", config.device)
        normalization, agent = self._experience.normalization, self._trainee.agent

        def act(observations: FloatArray) -> FloatArray:
            normalized = torch.from_numpy(normalization.apply(observations)).to(config.device)
            actions: FloatArray = agent.act(normalized, draws).cpu().numpy()
            return actions

        seed = stream_seed(config.seed, f"evaluation-{update}") % 2**31
        returns = evaluate(act, data.env_id, config.eval.episodes, seed, data.env_kwargs)
        self._evaluation = {"eval/return_mean": float(returns.mean()), "eval/return_std": float(returns.std())}
        score = normalized_score(returns.mean(), data.reference_min_score, data.reference_max_score)
        if score is not None:
            self._evaluation["eval/normalized_score"] = float(score)
        return self._evaluation

    def _log(self, update: int, metrics: Metrics, evaluation: Mapping[str, float]) -> None:
        agent = self._trainee.agent
        values = {name: float(value.mean()) for name, value in metrics.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"training diverged: {broken[0]} is {values[broken[0]]} after update {update}; lower the learning rates, "
                "or check the scale of the dataset's rewards and observations."
            )
        values |= {f"gradient_norm/{name}": float(learner.gradient_norm()) for name, learner in agent.learners.items()}
        values |= {f"layer_density/{r.full_name}": r.kept / r.total for r in self._trainee.reports}
        values |= evaluation
        last_update, last_seconds = self._logged_at
        values["time/updates_per_second"] = (update - last_update) / max(self._clock.train - last_seconds, 1e-9)
        self._logged_at = (update, self._clock.train)
        self._metrics.write(update, values)
        self._show(update, values)

    def _save(self, update: int) -> None:
        tensors = agent_tensors(self._trainee.agent) | {"rng/train": self._generator.get_state()}
        progress = {"clock": asdict(self._clock), "evaluation": self._evaluation, "csv_bytes": self._metrics.sync()}
        progress["data"] = self._experience.buffer.fingerprint
        save_checkpoint(self._folder.checkpoint, Checkpoint(update, tensors, self._trainee.masks, progress))
