"""Which engine runs an agent's networks: dense (masked, without idle hidden units) or sparse (surviving values only)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from sparse_offline_rl.agents.base import Agent, Update
from sparse_offline_rl.config import AgentConfig
from sparse_offline_rl.engines.dense import compacted, hidden_units
from sparse_offline_rl.engines.sparse.available import engine_factory
from sparse_offline_rl.engines.sparse.module import SparseMLP, set_threads
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.hashed import HashedMLP
from sparse_offline_rl.networks.mlp import MLP, PrunableMLP
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.types import Spaces

# Whole updates of BCQ and BC were equally fast at 0.61 (results/benchmark.md, "Engine crossover"); below this sparse wins.
CROSSOVER_DENSITY = 0.5

# Makes a network of its masks and packed values.
NetworkMaker = Callable[[Topology, NDArray[Any]], PrunableMLP]


@dataclass(frozen=True)
class Engine:
    """An engine, why it was taken, and how it makes its networks. Hashed networks are the same on every one."""

    name: str
    reason: str
    make: NetworkMaker

    def restore(
        self, agent: type[Agent], state: AgentState, spaces: Spaces, config: AgentConfig, device: str = "cpu"
    ) -> Agent:
        """The agent of ``state`` on this engine. ValueError if the state is not that of ``config``'s networks."""

        def build(name: str, in_features: int, hidden: Sequence[int], heads: Mapping[str, int]) -> PrunableMLP:
            if name not in state.networks:
                raise ValueError(f"it lacks the network {name}")
            stored = state.networks[name]
            _check_shapes(name, stored.topology.shapes, Topology.dense(in_features, hidden, heads).shapes)
            make = HashedMLP if stored.topology.hashes else self.make
            network = make(stored.topology, stored.values)
            network.name = name
            return network

        return agent.restore(state, spaces, config, build, device)


def choose_engine(
    requested: str, device: str, density: float, weight_decay: float = 0.0, masks_change: bool = False
) -> Engine:
    """Resolve ``engine=auto|dense|sparse`` for networks of which ``density`` of the weights survive.

    Raises UserError for ``engine=sparse`` on a device that it does not run on.
    """
    # Weight decay moves the parameters of dead units, too, which takes a place to do it in. So do the moments and the target of a
    # unit that has learned and died when the masks changed; it may come to life again.
    dense: NetworkMaker = _dense if weight_decay or masks_change else _dense_compacted
    if device != "cpu":
        if requested == "sparse":
            raise UserError(f"engine=sparse runs on the CPU, not on device={device}: use engine=dense, or device=cpu.")
        return Engine("dense", f"the sparse engine is for the CPU, and device={device}", dense)
    if requested == "auto" and engine_factory() is None:
        return Engine("dense", "the sparse kernels are not available here", dense)
    if requested != "auto":
        return Engine(requested, "as requested", SparseMLP if requested == "sparse" else dense)
    if density > CROSSOVER_DENSITY:
        return Engine(
            "dense", f"density {density:.3g} is above {CROSSOVER_DENSITY:g}, where engine=auto changes over", dense
        )
    reason = f"density {density:.3g} is below {CROSSOVER_DENSITY:g}, where engine=auto changes over"
    return Engine("sparse", reason, SparseMLP)


def masked_engine(reason: str) -> Engine:
    """The dense engine with every hidden unit: networks that can be scored, or have something beside their weights."""
    return Engine("dense", reason, _dense)


def use_threads(engine: Engine, threads: int) -> None:
    """Let ``engine`` run on ``threads`` threads. Raises UserError for a number that the sparse engine cannot use."""
    if engine.name == "sparse":
        try:
            set_threads(threads)
        except ValueError as error:
            raise UserError(f"threads={threads} cannot be used by the sparse engine: {error}.") from None


def choose_update(agent: Agent, engine: str, capture: bool, previous: Update | None = None) -> Update:
    """``agent.update`` itself, or its recording where ``capture`` allows it and the sparse kernels do the work.

    ``previous`` did the updates of this agent before its masks changed, if they did.
    """
    if engine != "sparse" or not capture or engine_factory() is None:
        return agent.update
    from sparse_offline_rl.engines.capture.update import CapturedUpdate  # needs Numba

    return CapturedUpdate(agent, previous if isinstance(previous, CapturedUpdate) else None)


def left_out(agent: Agent) -> str:
    """A few words on the hidden units that the dense engine left out, or nothing."""
    total = sum(len(mask) for mlp in agent.mlps().values() for mask in mlp.topology.hidden.values())
    computed = hidden_units(agent.networks)
    return f"{computed} of {total} hidden units are computed" if 0 < computed < total else ""


def _dense(topology: Topology, values: NDArray[Any]) -> PrunableMLP:
    return MLP.from_packed(topology, values)


def _dense_compacted(topology: Topology, values: NDArray[Any]) -> PrunableMLP:
    return compacted(MLP.from_packed(topology, values))


def _check_shapes(name: str, found: Mapping[str, tuple[int, int]], wanted: Mapping[str, tuple[int, int]]) -> None:
    if found != wanted:
        raise ValueError(f"its network {name} has layers {found}, and the configuration asks for {wanted}")
