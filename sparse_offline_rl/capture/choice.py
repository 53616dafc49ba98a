"""Which function does an agent's updates."""

from __future__ import annotations

from sparse_offline_rl.agents.bcq import BCQ, Update
from sparse_offline_rl.sparse.fallback import engine_factory


def choose_update(agent: BCQ, engine: str, capture: bool) -> Update:
    """``agent.update`` itself, or its recording where ``capture`` allows it and the sparse kernels do the work."""
    if engine != "sparse" or not capture or engine_factory() is None:
        return agent.update
    from sparse_offline_rl.capture.update import CapturedUpdate  # needs Numba

    return CapturedUpdate(agent)
