"""The agent that learns now, on the engine that suits its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparse_offline_rl.agents.base import Agent, Update
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import Config
from sparse_offline_rl.engines.selection import choose_engine, choose_update, left_out, masked_engine, use_threads
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.pruning.layer_reports import LayerReport, layer_reports
from sparse_offline_rl.pruning.registry import SCHEDULES
from sparse_offline_rl.pruning.schedule import Memory
from sparse_offline_rl.training.console import say
from sparse_offline_rl.training.distillation import Teacher, learn_from
from sparse_offline_rl.training.extended import ExtendedUpdate, Extensions
from sparse_offline_rl.training.softened import SoftPhase, SoftUpdate
from sparse_offline_rl.types import Spaces


@dataclass(frozen=True)
class ActiveAgent:
    """The agent that learns now, the name of its engine, and the function that does its updates."""

    agent: Agent
    engine: str
    update: Update
    special: str = ""  # why its layers compute something else than usual for now, if they do

    def layer_reports(self) -> list[LayerReport]:
        """What its present masks leave of each layer."""
        return [report for name, mlp in self.agent.mlps().items() for report in layer_reports(name, mlp.topology)]

    def remember(self, memory: Memory) -> Memory:
        """``memory`` with what has been learned beside the weights since."""
        return self.update.remember(memory) if isinstance(self.update, ExtendedUpdate) else memory

    def left(self) -> Mapping[str, float]:
        """Metrics of what is learned beside the weights."""
        return self.update.left() if isinstance(self.update, ExtendedUpdate) else {}


def put_on_engine(
    config: Config,
    spaces: Spaces,
    state: AgentState,
    begun_on: str | None = None,
    before: ActiveAgent | None = None,
    extensions: Extensions | None = None,
    soft: SoftPhase | None = None,
    teacher: Teacher | None = None,
) -> ActiveAgent:
    """The agent of ``state`` on the engine that suits it; the console says which, unless the agent ``before`` a change was on it, too.

    With ``extensions`` or ``soft`` layers that is the dense one: only its layers can compute something else. With a ``teacher`` updates
    are not recorded: a recording knows the agent's own losses only.
    Raises UserError if that is not the engine ``begun_on``, on which a run that is resumed stood.
    """
    kind = AGENTS[config.agent.name]
    changing = SCHEDULES[config.prune.schedule].CHANGES
    special = "masks are learned beside the weights" if extensions else "hidden layers are soft" if soft else ""
    engine = (
        masked_engine(special)
        if special
        else choose_engine(config.engine, config.device, state.density, config.agent.weight_decay, changing)
    )
    if begun_on is not None and begun_on != engine.name:
        raise UserError(
            f"this run stands on the {begun_on} engine and would go on with the {engine.name} one ({engine.reason}), which rounds "
            "differently: mend that, or choose another run_dir."
        )
    use_threads(engine, config.threads)
    agent = engine.restore(kind, state, spaces, config.agent, config.device)
    update: ExtendedUpdate | SoftUpdate | None = None
    if extensions is not None:
        update = ExtendedUpdate(agent, extensions)
    elif soft is not None:
        update = SoftUpdate(agent, soft)
    if teacher is not None:  # after extensions, whose penalties are of what the agent's own losses have computed
        learn_from(agent, teacher, config.distill.weight)
    if before is None or before.engine != engine.name or before.special != special:
        remark = left_out(agent)
        say(f"engine: {engine.name} ({engine.reason}{remark and '; ' + remark})")
    if update is not None:
        return ActiveAgent(agent, engine.name, update, special)
    captured = choose_update(
        agent, engine.name, config.capture and teacher is None, None if before is None else before.update
    )
    return ActiveAgent(agent, engine.name, captured)
