"""The composition root: builds everything that a configuration names, trains, and leaves a finished run folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from sparse_offline_rl.agents.registry import AGENTS, agent_configs
from sparse_offline_rl.config import Config, parse_config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.load import load_dataset
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.overview import overview, suspect_values
from sparse_offline_rl.datasets.rewards import mean_return, scale_rewards
from sparse_offline_rl.engines.selection import choose_engine, choose_update, left_out, use_threads
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.pruning.layer_reports import layer_reports
from sparse_offline_rl.pruning.prune import find_masks, prune_state, redraw
from sparse_offline_rl.seeding import generator, seed_everything
from sparse_offline_rl.training.checkpoint import load_checkpoint
from sparse_offline_rl.training.console import say, show_layers, warn
from sparse_offline_rl.training.deploy import policy_content
from sparse_offline_rl.training.process import prepare_process, stop_on_signal
from sparse_offline_rl.training.run_folder import RunFolder
from sparse_offline_rl.training.session import ActiveAgent, Result, Session, TrainingData, check_checkpoint
from sparse_offline_rl.types import Spaces


def read_config(values: Mapping[str, Any]) -> Config:
    """Check a composed configuration against the models of all parts. Raises UserError for the first bad key."""
    return parse_config(values, agent_configs())


def run(config: Config) -> Result:
    """Do one run, continue it, or report it as complete. Raises UserError before anything is written if it cannot be done."""
    folder = RunFolder(config)
    if folder.complete:
        summary = folder.summary()
        return Result("already complete", summary, config.updates)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device=cuda: this torch sees no CUDA device; use device=cpu, or install a CUDA build of torch."
        )
    prepare_process(config.threads)
    seed_everything(config.seed)
    checkpoint = load_checkpoint(folder.checkpoint) if folder.resumable else None
    data = load_training_data(config)
    spaces = data.loaded.spaces
    if checkpoint is None:
        active = put_on_engine(config, spaces, initial_state(config, spaces, data.buffer))
    else:
        check_checkpoint(checkpoint, config, folder, data)
        try:
            active = put_on_engine(config, spaces, checkpoint.state, checkpoint.progress.engine)
        except ValueError as error:
            raise UserError(
                f"{folder.checkpoint} is not of this agent ({error}): restore it from a copy, or remove the run folder to start again."
            ) from None
    # Made once now, so that an agent whose record of acting does not fit its networks does not train in vain.
    policy_content(config, active.agent, data.normalization, data.loaded)
    folder.claim()
    try:
        session = Session(config, folder, data, active, checkpoint)
        with closing(session), stop_on_signal() as should_stop:
            return session.run(should_stop)
    except Exception as error:
        folder.fail(error)
        raise
    finally:
        folder.release()


def load_training_data(config: Config) -> TrainingData:
    """The dataset with its normalisation, ready to sample from."""
    loaded = load_dataset(config.dataset, config.env)
    say(overview(loaded.name, loaded.transitions))
    for sentence in suspect_values(loaded.transitions):
        warn(sentence)
    return_mean = mean_return(loaded.transitions)
    if config.agent.rewards == "return_range":
        loaded = replace(loaded, transitions=scale_rewards(loaded.transitions))
    observations = loaded.transitions.observations
    wanted = config.dataset.normalize
    normalization = Normalization.fit(observations) if wanted else Normalization.identity(observations.shape[1])
    buffer = ReplayBuffer(loaded.transitions, normalization, config.device)
    buffer.require(config.batch_size, "batch_size")
    return TrainingData(loaded.info(), normalization, buffer, return_mean)


def initial_state(config: Config, spaces: Spaces, buffer: ReplayBuffer) -> AgentState:
    """New weights, scored and pruned, in the order of Algorithm 1."""
    kind = AGENTS[config.agent.name]
    agent = kind.create(spaces, config.agent, generator(config.seed, "init"), config.device)
    state, prune = agent.state(), config.prune
    if prune.name == "none":
        return state
    buffer.require(prune.batch_size, "prune.batch_size")
    draws = generator(config.seed, "prune", config.device)
    objectives = agent.objectives(buffer.sampler(prune.batch_size)(draws), draws)
    masks = find_masks(objectives, prune, config.sparsity, draws)
    if prune.reinit:
        state = redraw(state, lambda network: generator(config.seed, f"reinit-{network}"))
    state = prune_state(state, masks, kind.TWINS, config.agent.twin)
    networks = state.networks.items()
    show_layers([report for name, network in networks for report in layer_reports(name, network.topology)])
    return state


def put_on_engine(config: Config, spaces: Spaces, state: AgentState, begun_on: str | None = None) -> ActiveAgent:
    """The agent of ``state`` on the engine that suits it. Raises UserError if that is not the one that the run began on."""
    kind = AGENTS[config.agent.name]
    engine = choose_engine(config.engine, config.device, state.density, config.agent.weight_decay)
    if begun_on is not None and begun_on != engine.name:
        raise UserError(
            f"this run began on the {begun_on} engine and would go on with the {engine.name} one ({engine.reason}), which rounds "
            "differently: mend that, or choose another run_dir."
        )
    use_threads(engine, config.threads)
    agent = engine.restore(kind, state, spaces, config.agent, config.device)
    remark = left_out(agent)
    say(f"engine: {engine.name} ({engine.reason}{remark and '; ' + remark})")
    return ActiveAgent(agent, engine.name, choose_update(agent, engine.name, config.capture))
