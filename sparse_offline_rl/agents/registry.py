"""Agents by name."""

from __future__ import annotations

from sparse_offline_rl.agents.bc import BC
from sparse_offline_rl.agents.bcq import BCQ

# To add an agent: a class with BCQ's methods in a file of its own, an entry here, and configs/agent/<name>.yaml.
AGENTS: dict[str, type[BCQ]] = {"bcq": BCQ, "bc": BC}
