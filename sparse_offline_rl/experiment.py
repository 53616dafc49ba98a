"""The composition root: builds everything that a configuration names, trains, and leaves a finished run folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.registry import AGENTS, agent_configs
from sparse_offline_rl.compression.compress import Sharing
from sparse_offline_rl.compression.finetune import finetune
from sparse_offline_rl.config import Config, parse_config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.load import load_dataset
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.overview import overview, suspect_values
from sparse_offline_rl.datasets.rewards import mean_return, scale_rewards
from sparse_offline_rl.engines.selection import masked_engine
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyContent, same_values
from sparse_offline_rl.policy.header import MAX_POSITIONS
from sparse_offline_rl.pruning.layer_reports import layer_reports
from sparse_offline_rl.pruning.registry import mask_schedule, prune_configs
from sparse_offline_rl.pruning.schedule import Change
from sparse_offline_rl.seeding import generator, seed_everything
from sparse_offline_rl.training.active import ActiveAgent, put_on_engine
from sparse_offline_rl.training.checkpoint import Checkpoint, load_checkpoint
from sparse_offline_rl.training.console import say, show_layers, warn, warn_of_collapse
from sparse_offline_rl.training.deploy import policy_content
from sparse_offline_rl.training.distillation import Teacher, load_teacher
from sparse_offline_rl.training.finished import require_finished
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.pretrained import go_on
from sparse_offline_rl.training.process import prepare_process, stop_on_signal
from sparse_offline_rl.training.run_folder import RunFolder
from sparse_offline_rl.training.session import Result, Session, TrainingData, check_checkpoint, check_data
from sparse_offline_rl.training.softened import soft_phase
from sparse_offline_rl.training.stored_config import read_stored_config
from sparse_offline_rl.types import Spaces


def read_config(values: Mapping[str, Any]) -> Config:
    """Check a composed configuration against the models of all parts. Raises UserError for the first bad key."""
    config = parse_config(values, agent_configs(), prune_configs())
    schedule = mask_schedule(config.prune, config.sparsity, config.updates)  # refuses what does not fit together
    soft_phase(config, schedule)
    if schedule.LEARNS and config.engine == "sparse":
        raise UserError(
            f"engine=sparse cannot learn masks, and prune={config.prune.name} does: use engine=auto, which goes on with the sparse "
            "engine once the masks are found."
        )
    if schedule.HASHES and config.engine == "sparse":
        raise UserError(
            f"engine=sparse computes with weights that survive, and with prune={config.prune.name} all weights do: use engine=auto or dense."
        )
    if schedule.HASHES and config.init != "default":
        raise UserError(
            f"init={config.init} gives each weight a value of its own, and with prune={config.prune.name} weights share theirs: set "
            "init=default."
        )
    if schedule.STARTS_DENSE and config.init == "sparse":
        raise UserError(
            f"init=sparse scales the initial weights of survivors, and with prune={config.prune.name} all weights are there when training "
            "begins: set init=default."
        )
    if config.init == "sparse" and config.prune.name == "none":
        raise UserError(
            "init=sparse scales the initial weights of survivors, and prune=none leaves all: set init=default."
        )
    ticket = getattr(config.prune, "ticket", None) == "reinit"
    if (config.init == "zero" and config.prune.reinit) or (config.init != "default" and ticket):
        raise UserError(
            f"prune.{'ticket=reinit' if ticket else 'reinit=true'} draws initial weights anew as torch does, in place of those of "
            f"init={config.init}: set init=default."
        )
    if not config.eval.levels and not schedule.LEVELS:
        raise UserError(
            f"eval.levels=false is about levels, each trained and then pruned, and prune={config.prune.name} has none: leave it out."
        )
    return config


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
    if checkpoint is None:  # before the dataset, which may be generated for minutes
        require_finished("pretrained", config.pretrained)
    require_finished("distill.teacher", config.distill.teacher)
    data = load_training_data(config)
    spaces = data.loaded.spaces
    masks = MaskChanges(config, spaces, data.buffer)
    teacher = load_teacher(config, spaces, data.buffer.fingerprint)
    earlier = None
    if checkpoint is None:
        pretrained = go_on(config, masks, spaces, data.buffer, teacher)
        if pretrained is not None:
            checkpoint, earlier = pretrained.checkpoint, pretrained.logs
        begin, active = _begun(config, masks, spaces, teacher, checkpoint)
    else:
        check_checkpoint(checkpoint, config, folder, data)
        begin, active = _resumed(config, masks, spaces, teacher, checkpoint, folder)
    _refuse_what_cannot_be_stored(config, active.agent, data)
    folder.claim()
    try:
        session = Session(config, folder, data, active, masks, begin.memory, checkpoint, teacher, earlier)
        with closing(session), stop_on_signal() as should_stop:
            return session.run(should_stop)
    except Exception as error:
        folder.fail(error)
        raise
    finally:
        folder.release()


def _refuse_what_cannot_be_stored(config: Config, agent: Agent, data: TrainingData) -> None:
    """Raise UserError, before anything trains in vain, if no checkpoint or policy file could hold the agent."""
    layers = [mask.size for mlp in agent.mlps().values() for mask in mlp.topology.layers.values()]
    try:
        content = policy_content(config, agent, data.normalization, data.loaded)
    except ValueError as error:
        raise UserError(
            f"agent={config.agent.name} cannot be kept as a policy file ({error}): mend what its acting asks for, e.g. "
            "agent.acting_candidates, or the sizes of its networks."
        ) from None
    policy = sum(layer.mask.size for network in content.networks.values() for layer in network.layers)
    if max(policy, *layers) > MAX_POSITIONS:
        raise UserError(
            f"agent={config.agent.name} has a layer of {max(layers)} weights and a policy of {policy}, and a checkpoint holds "
            f"{MAX_POSITIONS} a layer, a policy file as many in all: give its networks fewer hidden units."
        )


def _begun(
    config: Config, masks: MaskChanges, spaces: Spaces, teacher: Teacher | None, dense: Checkpoint | None
) -> tuple[Change, ActiveAgent]:
    """What a run begins with: new weights, or those of the dense run that it goes on from, whose last update ``dense`` stands at.

    Raises UserError if that run's updates were computed otherwise than this one's would be.
    """
    begin = masks.start() if dense is None else Change(dense.state, dense.memory)
    if masks.schedule.STARTS_DENSE:
        say(
            f"pruning: training begins dense, and networks have their final sparsity after update {masks.schedule.found}"
        )
    elif config.prune.name != "none":
        topologies = {name: network.topology for name, network in begin.state.networks.items()}
        reports = [report for name, it in topologies.items() for report in layer_reports(name, it)]
        show_layers(reports)
        warn_of_collapse(reports)
    if teacher is not None:
        teacher.require_fit(begin.state)
    active = put_on_engine(config, spaces, begin.state, soft=masks.soft(0), teacher=teacher)
    if dense is not None and active.engine != dense.progress.engine:
        raise UserError(
            f"pretrained={config.pretrained} ended on the {dense.progress.engine} engine, and this run would begin on the "
            f"{active.engine} one, which rounds differently: set engine={dense.progress.engine} or auto, or leave pretrained out."
        )
    return begin, active


def _resumed(
    config: Config,
    masks: MaskChanges,
    spaces: Spaces,
    teacher: Teacher | None,
    checkpoint: Checkpoint,
    folder: RunFolder,
) -> tuple[Change, ActiveAgent]:
    """What a run goes on with. Raises UserError if ``checkpoint`` is of another agent, or learned from another teacher."""
    progress, begin = checkpoint.progress, Change(checkpoint.state, checkpoint.memory)
    if teacher is not None and progress.teacher != teacher.digest:
        raise UserError(
            f"{folder.path} learned from another teacher than distill.teacher={config.distill.teacher} holds now: restore that run, "
            "or choose another run_dir."
        )
    try:
        masks.check(checkpoint.update, begin.state, begin.memory)
        extensions, soft = masks.extensions(checkpoint.update, begin), masks.soft(checkpoint.update)
        engine, state = progress.engine, begin.state
        return begin, put_on_engine(config, spaces, state, engine, extensions=extensions, soft=soft, teacher=teacher)
    except ValueError as error:
        raise UserError(
            f"{folder.checkpoint} is not of this agent ({error}): restore it from a copy, or remove the run folder to start again."
        ) from None


def finetune_run(run_dir: Path, content: PolicyContent, sharing: Sharing, updates: int) -> Sharing:
    """The shared weights of ``content``, the policy of the finished run in ``run_dir``, fine-tuned on its dataset.

    Raises UserError if the run is unfinished, its checkpoint or dataset is not there, or its policy is another.
    """
    stored = read_stored_config(run_dir / "config.yaml", "restore it, or give finetune=0")
    config = read_config({**stored, "run_dir": str(run_dir)})
    folder = RunFolder(config)
    if not (folder.complete and folder.resumable):
        raise UserError(f"run_dir={run_dir} is not finished: finish it with its own command, or give finetune=0.")
    torch.set_num_threads(1)  # the same bits on any number of cores
    checkpoint = load_checkpoint(folder.checkpoint)
    data = load_training_data(config.model_copy(update={"device": "cpu"}))
    check_data(checkpoint, folder, data)
    kind, spaces = AGENTS[config.agent.name], data.loaded.spaces
    agent = masked_engine("its gradients are wanted").restore(kind, checkpoint.state, spaces, config.agent, "cpu")
    trained = policy_content(config, agent, data.normalization, data.loaded)
    if not same_values(trained, content):
        raise UserError(
            f"the policy of {run_dir} is not that of its checkpoint: restore both from a copy, or give finetune=0."
        )
    draws = generator(config.seed, "compress")
    sample = data.buffer.sampler(config.batch_size)
    return finetune(agent, sharing, lambda: sample(draws), updates, draws)


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
