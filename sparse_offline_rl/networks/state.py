"""The state of an agent as NumPy arrays, the same for every engine: what a checkpoint holds.

Resuming, changing the engine and changing the masks are the same thing: state, a pure function, state, an agent built from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.types import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class NetworkState:
    """One prunable network: its masks and, for each survivor in packed order, value, Adam's moments and the target's value."""

    topology: Topology
    values: FloatArray  # [n]
    exp_avg: FloatArray  # [n], Adam's first moment
    exp_avg_sq: FloatArray  # [n], Adam's second moment
    target: FloatArray | None  # [n], of the target network; None where there is none

    def vectors(self) -> dict[str, FloatArray]:
        """The vectors by name, without a target that is not there."""
        found = {"values": self.values, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return found if self.target is None else {**found, "target": self.target}


@dataclass(frozen=True, eq=False)
class ParameterState:
    """A parameter that stands outside the prunable networks, such as a policy's log σ: any shape, never pruned."""

    values: FloatArray
    exp_avg: FloatArray
    exp_avg_sq: FloatArray

    def vectors(self) -> dict[str, FloatArray]:
        """The three arrays by name."""
        return {"values": self.values, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}


@dataclass(frozen=True, eq=False)
class AgentState:
    """Everything that an agent is, independent of its engine. All arrays are copies: no later update changes them."""

    networks: Mapping[str, NetworkState]
    parameters: Mapping[str, ParameterState]
    buffers: Mapping[str, FloatArray]  # what else the networks' module keeps of the past
    steps: Mapping[str, int]  # optimiser -> steps it has taken

    @property
    def density(self) -> float:
        """Fraction of the weights of all networks that survive."""
        topologies = [network.topology for network in self.networks.values()]
        return sum(it.kept for it in topologies) / sum(it.total for it in topologies)


def with_masks(network: NetworkState, masks: Mapping[str, BoolArray]) -> NetworkState:
    """The same network with ``masks`` (layer name -> ``[out, in]``): what is dropped goes, what is grown starts at zero.

    Survivors keep value, moments and target to the bit. A grown weight has value 0, moments 0 and target 0, so the target starts
    as the online weight does. Layers that ``masks`` does not name keep theirs.
    """
    old = network.topology
    new = Topology(
        {name: masks.get(name, mask) for name, mask in old.hidden.items()},
        {name: masks.get(name, mask) for name, mask in old.heads.items()},
    )

    def move(vector: FloatArray) -> FloatArray:
        moved: FloatArray = new.pack(old.unpack(vector))
        return moved

    values, exp_avg, exp_avg_sq = (move(vector) for vector in (network.values, network.exp_avg, network.exp_avg_sq))
    return NetworkState(new, values, exp_avg, exp_avg_sq, None if network.target is None else move(network.target))


def with_values(network: NetworkState, values: FloatArray) -> NetworkState:
    """The same masks with other ``values`` ``[n]``, which the target starts from too; moments are zero."""
    zeros = np.zeros_like(values)
    target = None if network.target is None else values.copy()
    return NetworkState(network.topology, values, zeros, zeros.copy(), target)
