"""One sitting of a run: what the training loop calls to evaluate, log and save."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sparse_offline_rl.agents.base import Metrics
from sparse_offline_rl.agents.flops import flops_and_bytes
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.load import DatasetInfo
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.evaluation.normalized_score import normalized_score
from sparse_offline_rl.evaluation.returns import evaluate
from sparse_offline_rl.policy.format import write_policy
from sparse_offline_rl.pruning.schedule import Memory, movement
from sparse_offline_rl.seeding import generator, stream_seed
from sparse_offline_rl.training.active import ActiveAgent, put_on_engine
from sparse_offline_rl.training.checkpoint import Checkpoint, Progress, save_checkpoint
from sparse_offline_rl.training.console import ProgressLine, progress_line, show_layers, warn_of_collapse
from sparse_offline_rl.training.deploy import policy_content
from sparse_offline_rl.training.distillation import Teacher
from sparse_offline_rl.training.loop import Clock, Hooks, Schedule, train
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.metrics import EVALUATION_COLUMNS, EpisodesWriter, MetricsWriter
from sparse_offline_rl.training.pretrained import Logs
from sparse_offline_rl.training.run_folder import RunFolder, stored_values
from sparse_offline_rl.training.summary import file_sizes, level, summarize
from sparse_offline_rl.types import FloatArray


@dataclass(frozen=True)
class Result:
    """How a call of ``experiment.run`` ended; ``summary`` is None after an interruption."""

    status: Literal["finished", "already complete", "interrupted"]
    summary: Mapping[str, Any] | None
    update: int


@dataclass(frozen=True)
class TrainingData:
    """What the agent learns from."""

    loaded: DatasetInfo
    normalization: Normalization
    buffer: ReplayBuffer
    return_mean: float | None  # of the dataset's whole episodes, as its policy earned them


class Session:
    """Holds the state of the loop: the agent, the random stream, clocks, metric files, the last evaluation."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        data: TrainingData,
        active: ActiveAgent,
        masks: MaskChanges,
        memory: Memory,
        checkpoint: Checkpoint | None,
        teacher: Teacher | None,
        earlier: Logs | None = None,
    ) -> None:
        """``active`` and ``memory`` are what to start from, that of ``checkpoint`` if there is one (:func:`check_checkpoint`).

        If ``checkpoint`` is of the dense run that this one goes on from, ``earlier`` is what that run logged. It is logged here, too, and the
        loop begins with what follows the dense run's last update.
        """
        self._config, self._folder, self._data, self._teacher = config, folder, data, teacher
        self._masks, self._levels = masks, list[Mapping[str, float]]()
        self._schedule = Schedule(config.updates, config.log.every, config.eval.every, config.checkpoint.every)
        self._generator = generator(config.seed, "train", config.device)
        self._sample = data.buffer.sampler(config.batch_size)
        self._clock, self._evaluation, self._start = Clock(), dict[str, float](), 0
        csv = episodes = (0, "")
        if checkpoint is not None:
            progress = checkpoint.progress
            self._generator.set_state(torch.from_numpy(checkpoint.random_state.copy()))
            self._clock = Clock(progress.train_seconds, progress.eval_seconds)
            self._evaluation, self._start = dict(progress.evaluation), checkpoint.update
            self._levels = list(progress.levels)
            csv = (progress.csv_bytes, progress.csv_sha256)
            episodes = (progress.episodes_bytes, progress.episodes_sha256)
        self._logged_at = (self._start, self._clock.train)
        self._earlier = earlier
        self._adopt(active, memory)
        if earlier is not None:
            self._start -= 1
        with ExitStack() as opened:
            metrics = MetricsWriter(folder.path, self._columns(), *csv, update=self._start if csv[0] else 0)
            self._metrics = opened.enter_context(closing(metrics))
            self._episodes = EpisodesWriter(folder.path, config.eval.episodes, *episodes)
            opened.callback(self._episodes.close)
            self._opened = opened.pop_all()

    def _masks_now(self) -> dict[str, float]:
        """Metrics: the share of each layer that is kept, how far masks have moved, and what is learned beside the weights."""
        densities = {f"layer_density/{report.full_name}": report.kept / report.total for report in self._reports}
        return densities | dict(self._movement) | dict(self._active.left())

    def _adopt(self, active: ActiveAgent, memory: Memory) -> None:
        """Go on with ``active``: at the start, and whenever the agent was built anew because its masks changed."""
        self._active, self._memory = active, memory
        self._reports = active.layer_reports()
        self._gradient_norms: Mapping[str, float] | None = None
        self._known_returns: Mapping[str, str] | None = None  # a row of episodes.csv, of this agent as it is
        topologies = {name: mlp.topology for name, mlp in active.agent.mlps().items()}
        self._movement = movement(topologies, memory) if self._masks.schedule.CHANGES else {}

    def _replay(self, earlier: Logs) -> Metrics:
        """Log what the dense run logged before its last update, when no mask had moved; returns the metrics of that update."""
        columns, agent = self._columns(), self._active.agent
        *before, last = earlier.metrics
        for row in before:
            values = {name: float(row[name]) for name in columns if name != "update" and row.get(name)}
            self._metrics.write(int(row["update"]), values | dict.fromkeys(self._movement, 1.0))
        for row in earlier.episodes:
            if int(row["update"]) <= self._start:
                self._episodes.write(row)
            else:
                self._known_returns = row
        logged = int(before[-1]["update"]) if before else 0
        rate = float(last["time/updates_per_second"])
        self._logged_at = (logged, self._clock.train - (int(last["update"]) - logged) / rate)
        norms = {name: last.get(f"gradient_norm/{name}") for name in agent.optimizers}
        self._gradient_norms = {name: float(norm) for name, norm in norms.items() if norm}
        return {name: torch.tensor(float(last[name]), dtype=torch.float64) for name in agent.METRICS if last.get(name)}

    def run(self, should_stop: Callable[[], bool]) -> Result:
        """Train to the end or until ``should_stop``, then write policy and summary."""
        config = self._config
        self._replayed = None if self._earlier is None else self._replay(self._earlier)
        with progress_line(config.updates, self._start) as line:
            self._line: ProgressLine = line
            hooks = Hooks(
                self._ends_evaluated_level, self._change_masks, self._evaluated, self._log, self._save, should_stop
            )
            update = train(self._step, self._schedule, hooks, self._clock, self._start)
        if update < config.updates:
            return Result("interrupted", None, update)
        self._metrics.sync()
        self._episodes.sync()
        summary = self._ship()
        self._folder.finish(summary)
        return Result("finished", summary, update)

    def close(self) -> None:
        """Close the metric files."""
        self._opened.close()

    def _ship(self) -> dict[str, Any]:
        """Write the policy file and put the summary together."""
        config, active, loaded = self._config, self._active, self._data.loaded
        content = policy_content(config, active.agent, self._data.normalization, loaded)
        write_policy(self._folder.policy, content)
        sizes = file_sizes(self._folder.checkpoint, self._folder.policy, content.dense_bytes)
        names = content.acting.networks
        summary = summarize(
            config, self._reports, loaded.env_id, self._evaluation, self._clock, active.engine, names, sizes
        )
        summary |= flops_and_bytes(active.agent, config.batch_size)
        summary |= {
            "dataset_return_mean": self._data.return_mean,
            "reference_min_score": loaded.reference_min_score,
            "reference_max_score": loaded.reference_max_score,
        }
        if not self._masks.schedule.CHANGES:
            return summary
        totals = {name: mlp.topology.total for name, mlp in active.agent.mlps().items()}
        return summary | {
            "levels": self._levels,
            **self._movement,
            **self._masks.schedule.results(self._memory, totals),
        }

    def _step(self) -> Metrics:
        if self._replayed is not None:
            metrics, self._replayed = self._replayed, None
            return metrics
        self._gradient_norms = self._known_returns = None
        for optimizer in self._active.agent.optimizers.values():
            optimizer.gradients = ()  # one that takes no step now has none to log, neither after a resume nor without one
        metrics = self._active.update(self._sample(self._generator), self._generator)
        if self._generator.device.type == "cuda":
            torch.cuda.synchronize()  # else the clock would time the launches only
        return metrics

    def _change_masks(self, update: int) -> None:
        masks, active, config = self._masks, self._active, self._config
        if not masks.due(update):
            return
        if masks.schedule.ends_level(update):
            evaluation = self._evaluation if self._ends_evaluated_level(update) else {}
            self._levels.append(level(update, self._reports, evaluation))
        norms = self._norms()
        collapsed = {report.full_name for report in self._reports if report.collapsed}
        change = masks.change(update, active.agent.state(), active.remember(self._memory))
        extensions = masks.extensions(update, change)
        spaces = self._data.loaded.spaces
        soft = masks.soft(update)
        fresh = put_on_engine(
            config, spaces, change.state, before=active, extensions=extensions, soft=soft, teacher=self._teacher
        )
        self._adopt(fresh, change.memory)
        self._gradient_norms = norms
        if masks.schedule.STARTS_DENSE and update == masks.schedule.found:
            show_layers(self._reports)
        warn_of_collapse([it for it in self._reports if it.full_name not in collapsed])

    def _ends_evaluated_level(self, update: int) -> bool:
        """Without ``eval.levels`` an evaluation that is due anyway still comes before the change, which may undo what was trained."""
        evaluated = self._config.eval.levels or self._schedule.due(self._schedule.eval_every, update)
        return evaluated and self._masks.schedule.ends_level(update)

    def _norms(self) -> Mapping[str, float]:
        """Of the last step's gradients, which an agent that was built anew does not know."""
        if self._gradient_norms is not None:
            return self._gradient_norms
        optimizers = self._active.agent.optimizers
        return {name: float(it.gradient_norm()) for name, it in optimizers.items() if it.gradients}

    def _evaluated(self, update: int) -> dict[str, float]:
        """Play episodes: what a row says of the network that played them, whose masks may change before it is written."""
        self._evaluate(update)
        return self._masks_now() | self._evaluation

    def _evaluate(self, update: int) -> None:
        if self._known_returns is not None:
            self._episodes.write(self._known_returns)
            return
        config, loaded = self._config, self._data.loaded
        draws = generator(config.seed, f"acting-{update}", config.device)
        normalization, agent = self._data.normalization, self._active.agent

        def act(observations: FloatArray) -> FloatArray:
            normalized = torch.from_numpy(normalization.apply(observations)).to(config.device)
            actions: FloatArray = agent.act(normalized, draws).cpu().numpy()
            return actions

        seed = stream_seed(config.seed, f"evaluation-{update}") % 2**31
        returns = evaluate(act, loaded.env_id, config.eval.episodes, seed, loaded.env_kwargs)
        self._episodes.write_returns(update, returns)
        self._evaluation = {"eval/return_mean": float(returns.mean()), "eval/return_std": float(returns.std())}
        score = normalized_score(returns.mean(), loaded.reference_min_score, loaded.reference_max_score)
        if score is not None:
            self._evaluation["eval/normalized_score"] = float(score)

    def _columns(self) -> list[str]:
        """Every metric that a row may have."""
        agent = self._active.agent
        norms = [f"gradient_norm/{name}" for name in agent.optimizers]
        densities = [f"layer_density/{report.full_name}" for report in self._reports]
        learned, rate = self._masks.columns(agent.mlps()), "time/updates_per_second"
        return ["update", *agent.METRICS, *norms, *densities, *self._movement, *learned, rate, *EVALUATION_COLUMNS]

    def _log(self, update: int, metrics: Metrics, evaluation: Mapping[str, float]) -> None:
        kind = type(self._active.agent)
        if unknown := metrics.keys() - set(kind.METRICS):
            raise ValueError(
                f"{kind.__name__}.update returns {sorted(unknown)}, which {kind.__name__}.METRICS must name"
            )
        values = {name: float(value.mean()) for name, value in metrics.items()}
        broken = [name for name, value in {**values, **evaluation}.items() if not math.isfinite(value)]
        if broken:
            raise UserError(
                f"training diverged: {broken[0]} is not finite after update {update}; lower the learning rates, or check the "
                "scale of the dataset's rewards and observations."
            )
        values |= {f"gradient_norm/{name}": norm for name, norm in self._norms().items()}
        values |= self._masks_now()
        values |= evaluation
        last_update, last_seconds = self._logged_at
        values["time/updates_per_second"] = (update - last_update) / max(self._clock.train - last_seconds, 1e-9)
        self._logged_at = (update, self._clock.train)
        self._metrics.write(update, values)
        self._line.log(update, values)

    def _save(self, update: int) -> None:
        csv_bytes, csv_sha256 = self._metrics.sync()
        episodes_bytes, episodes_sha256 = self._episodes.sync()
        progress = Progress(
            train_seconds=self._clock.train,
            eval_seconds=self._clock.evaluate,
            evaluation=self._evaluation,
            csv_bytes=csv_bytes,
            csv_sha256=csv_sha256,
            data=self._data.buffer.fingerprint,
            engine=self._active.engine,
            config=stored_values(self._config),
            episodes_bytes=episodes_bytes,
            episodes_sha256=episodes_sha256,
            levels=self._levels,
            teacher="" if self._teacher is None else self._teacher.digest,
        )
        random_state = self._generator.get_state().numpy()
        state, memory = self._active.agent.state(), self._active.remember(self._memory)
        save_checkpoint(self._folder.checkpoint, Checkpoint(update, state, random_state, progress, memory))


def check_checkpoint(checkpoint: Checkpoint, config: Config, folder: RunFolder, data: TrainingData) -> None:
    """Raise UserError unless ``checkpoint`` is of this run and of this data."""
    folder.refuse_other(checkpoint.progress.config, f"{folder.checkpoint} is of")
    remedy = "restore it from a copy, or remove the run folder to start again"
    progress = checkpoint.progress
    if checkpoint.update > config.updates:
        raise UserError(
            f"{folder.checkpoint} stands after update {checkpoint.update}, and this run ends after {config.updates}: {remedy}."
        )
    if checkpoint.update == config.updates and EVALUATION_COLUMNS[0] not in progress.evaluation:
        raise UserError(f"{folder.checkpoint} stands after the last update and holds no evaluation: {remedy}.")
    try:
        torch.Generator(config.device).set_state(torch.from_numpy(checkpoint.random_state.copy()))
    except RuntimeError:
        raise UserError(f"{folder.checkpoint} holds no random state for device={config.device}: {remedy}.") from None
    check_data(checkpoint, folder, data)


def check_data(checkpoint: Checkpoint, folder: RunFolder, data: TrainingData) -> None:
    """Raise UserError unless ``data`` are those that the run of ``checkpoint`` learned from."""
    if checkpoint.progress.data != data.buffer.fingerprint:
        raise UserError(
            f"{folder.path} was trained on other data ({checkpoint.progress.data}) than {data.loaded.name} holds now "
            f"({data.buffer.fingerprint}): restore the dataset, or choose another run_dir."
        )
