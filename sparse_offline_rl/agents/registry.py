"""Agents by the name that ``agent=…`` gives them."""

from __future__ import annotations

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.bc import BC
from sparse_offline_rl.agents.bcq import BCQ
from sparse_offline_rl.agents.iql import IQL
from sparse_offline_rl.agents.td3bc import TD3BC
from sparse_offline_rl.config import AgentConfig

AGENTS: dict[str, type[Agent]] = {"bcq": BCQ, "bc": BC, "td3bc": TD3BC, "iql": IQL}


def agent_configs() -> dict[str, type[AgentConfig]]:
    """The configuration model of each agent, by its name."""
    return {name: agent.Config for name, agent in AGENTS.items()}
