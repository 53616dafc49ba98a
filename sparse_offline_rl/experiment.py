"""The composition root: reads the configuration, builds everything, trains, and leaves a finished run folder."""

from __future__ import annotations

from contextlib import closing

import torch

from sparse_offline_rl.agents.bcq import BCQ
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.load import load_dataset
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.overview import overview, suspect_values
from sparse_offline_rl.engines.selection import choose_engine, choose_update, install_engine
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.pruning.layer_reports import layer_reports
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.prune import apply_masks, find_masks
from sparse_offline_rl.seeding import generator, seed_everything
from sparse_offline_rl.training.checkpoint import Checkpoint, load_checkpoint
from sparse_offline_rl.training.console import say, show_layers, warn
from sparse_offline_rl.training.process import prepare_process, stop_on_signal
from sparse_offline_rl.training.run_folder import RunFolder
from sparse_offline_rl.training.session import Experience, Result, Session, Trainee
from sparse_offline_rl.types import Spaces


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
    experience = load_experience(config)
    trainee = build_agent(config, experience.data.spaces, experience.buffer, checkpoint)
    folder.claim()
    try:
        session = Session(config, folder, experience, trainee, checkpoint)
        with closing(session), stop_on_signal() as should_stop:
            return session.run(should_stop)
    finally:
        folder.release()


def load_experience(config: Config) -> Experience:
    """The dataset with its normalisation, ready to sample from."""
    data = load_dataset(config.dataset, config.env)
    say(overview(data.name, data.transitions))
    for sentence in suspect_values(data.transitions):
        warn(sentence)
    observations = data.transitions.observations
    wanted = config.dataset.normalize
    normalization = Normalization.fit(observations) if wanted else Normalization.identity(observations.shape[1])
    buffer = ReplayBuffer(data.transitions, normalization, config.device)
    buffer.require(config.batch_size, "batch_size")
    return Experience(data, normalization, buffer)


def build_agent(config: Config, spaces: Spaces, buffer: ReplayBuffer, checkpoint: Checkpoint | None) -> Trainee:
    """Networks, masks, twin, engine, targets and optimisers, in the order of Algorithm 1; weights of a checkpoint come later."""
    agent = AGENTS[config.agent.name](spaces, config.agent, config.device, generator(config.seed, "init"))
    mlps = agent.networks.dense_mlps()
    if checkpoint is not None:
        for name, layers in checkpoint.masks.items():
            apply_masks(
                mlps[name], Masks({layer: torch.from_numpy(mask).to(config.device) for layer, mask in layers.items()})
            )
    elif config.prune.name != "none":
        _prune(config, agent, buffer)
        agent.tie_twin()
    reports = [report for name, mlp in mlps.items() for report in layer_reports(name, *mlp.masks())]
    masks = {name: {layer: m.mask.cpu().numpy() for layer, m in mlp.layers().items()} for name, mlp in mlps.items()}
    if config.prune.name != "none" and checkpoint is None:
        show_layers(reports)
    engine = choose_engine(config.engine, config.device, sum(r.kept for r in reports) / sum(r.total for r in reports))
    remark = install_engine(engine, agent.networks, config.threads, config.agent.weight_decay)
    say(f"engine: {engine.name} ({engine.reason}{remark and '; ' + remark})")
    agent.begin_training()
    update = choose_update(agent, engine.name, config.capture)
    return Trainee(agent, engine.name, update, masks, reports)


def _prune(config: Config, agent: BCQ, buffer: ReplayBuffer) -> None:
    buffer.require(config.prune.batch_size, "prune.batch_size")
    draws = generator(config.seed, "prune", config.device)
    objectives = agent.objectives(buffer.sampler(config.prune.batch_size)(draws), draws)
    masks = find_masks(objectives, config.prune, config.sparsity, draws)
    for name, mlp in agent.networks.dense_mlps().items():
        if config.prune.reinit:
            redraw = generator(config.seed, f"reinit-{name}")
            for layer in mlp.layers().values():
                layer.reset_parameters(redraw)
        if name in masks:
            apply_masks(mlp, masks[name])
