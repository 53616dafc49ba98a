"""Which engine runs the networks: dense (masked, without idle hidden units) or sparse (surviving values only)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sparse_offline_rl.agents.bcq import BCQ, Update
from sparse_offline_rl.engines.dense import compacted, hidden_units
from sparse_offline_rl.engines.sparse.fallback import engine_factory
from sparse_offline_rl.engines.sparse.module import convert, set_threads
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.mlp import replace_mlps

# Whole updates of BCQ and BC were equally fast at 0.61 (results/benchmark.md, "Engine crossover"); below this sparse wins.
CROSSOVER_DENSITY = 0.5


@dataclass(frozen=True)
class Engine:
    """An engine and why it was taken."""

    name: str
    reason: str


def choose_engine(requested: str, device: str, density: float) -> Engine:
    """Resolve ``engine=auto|dense|sparse`` for networks of which ``density`` of the weights survive.

    Raises UserError for ``engine=sparse`` on a device that it does not run on.
    """
    if device != "cpu":
        if requested == "sparse":
            raise UserError(f"engine=sparse runs on the CPU, not on device={device}: use engine=dense, or device=cpu.")
        return Engine("dense", f"the sparse engine is for the CPU, and device={device}")
    if requested == "auto" and engine_factory() is None:
        return Engine("dense", "the sparse kernels are not available here")
    if requested != "auto":
        return Engine(requested, "as requested")
    if density > CROSSOVER_DENSITY:
        return Engine("dense", f"density {density:.3g} is above the measured crossover of {CROSSOVER_DENSITY:g}")
    return Engine("sparse", f"density {density:.3g} is below the measured crossover of {CROSSOVER_DENSITY:g}")


def install_engine(engine: Engine, networks: nn.Module, threads: int, weight_decay: float) -> str:
    """Let ``engine`` take over every MLP in ``networks``; after pruning, before targets and optimisers exist.

    Returns a few words on what it left out, or nothing. Raises UserError for ``threads`` that the sparse engine cannot use.
    """
    if engine.name == "sparse":
        try:
            set_threads(threads)
        except ValueError as error:
            raise UserError(f"threads={threads} cannot be used by the sparse engine: {error}.") from None
        convert(networks)
    elif weight_decay == 0:  # else the parameters of dead units have to decay, which takes a place to do it in
        before = hidden_units(networks)
        replace_mlps(networks, compacted)
        after = hidden_units(networks)
        if after < before:
            return f"{after} of {before} hidden units are computed"
    return ""


def choose_update(agent: BCQ, engine: str, capture: bool) -> Update:
    """``agent.update`` itself, or its recording where ``capture`` allows it and the sparse kernels do the work."""
    if engine != "sparse" or not capture or engine_factory() is None:
        return agent.update
    from sparse_offline_rl.engines.capture.update import CapturedUpdate  # needs Numba

    return CapturedUpdate(agent)
