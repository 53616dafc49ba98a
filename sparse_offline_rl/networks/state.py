"""The state of an agent as NumPy arrays, the same for every engine: what a checkpoint holds.

Resuming, changing the engine and changing the masks are the same thing: state, a pure function, state, an agent built from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.types import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class NetworkState:
    """One prunable network: its masks and, for each survivor in packed order, value, Adam's moments and the target's value.

    In a hashed network these are of the values that weights share.
    """

    topology: Topology
    values: FloatArray  # [n]
    exp_avg: FloatArray  # [n], Adam's first moment
    exp_avg_sq: FloatArray  # [n], Adam's second moment
    target: FloatArray | None  # [n], of the target network; None where there is none

    def vectors(self) -> dict[str, FloatArray]:
        """The vectors by name, without a target that is not there."""
        found = {"values": self.values, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return found if self.target is None else {**found, "target": self.target}

    def layers(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Layer name -> weight ``[out, in]``, zero where pruned, and bias ``[out]``: new arrays."""
        arrays = self.topology.unpack(self.values)
        return dict(zip(self.topology.layers, zip(arrays[0::2], arrays[1::2], strict=True), strict=True))


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


def shape_of(state: AgentState) -> dict[str, object]:
    """What two states of the same agent have in common whatever their masks: the names and shapes of all that they hold."""
    layers = {
        name: ({layer: mask.shape for layer, mask in it.topology.layers.items()}, it.target is not None)
        for name, it in state.networks.items()
    }
    parameters = {name: it.values.shape for name, it in state.parameters.items()}
    buffers = {name: it.shape for name, it in state.buffers.items()}
    return {"networks": layers, "parameters": parameters, "buffers": buffers, "optimisers": set(state.steps)}


def with_masks(
    network: NetworkState, masks: Mapping[str, BoolArray], born: Mapping[str, FloatArray] | None = None
) -> NetworkState:
    """The same network with ``masks`` (layer name -> ``[out, in]``): what is dropped goes, what is grown begins.

    Survivors keep value, moments and target to the bit. A grown weight starts at zero, or at its value in ``born`` (layer name ->
    ``[out, in]``); its moments are zero, and its target starts as the weight itself does. Layers that ``masks`` does not name keep
    theirs.
    """
    old = network.topology
    if old.hashes:
        raise ValueError("the weights of a hashed network share values: it has no masks that could change")
    new = Topology(
        {name: masks.get(name, mask) for name, mask in old.hidden.items()},
        {name: masks.get(name, mask) for name, mask in old.heads.items()},
        linear=old.linear,
    )
    # Of each packed position its old one, counted from 1; 0 where a weight is grown.
    origin = new.pack(old.unpack(np.arange(1, old.size + 1, dtype=np.int32)))
    grown = np.flatnonzero(origin == 0)
    origin -= 1

    def move(vector: FloatArray, start: FloatArray | float = 0.0) -> FloatArray:
        moved: FloatArray = vector.take(origin)
        moved[grown] = start
        return moved

    start = np.zeros(new.size, np.float32) if born is None else new.pack(_with_biases(new, born))
    values = move(network.values, start[grown])
    target = None if network.target is None else move(network.target, start[grown])
    return NetworkState(new, values, move(network.exp_avg), move(network.exp_avg_sq), target)


def _with_biases(topology: Topology, weights: Mapping[str, FloatArray]) -> list[FloatArray]:
    """``weights`` and biases of zero, in the order of :meth:`Topology.pack`."""
    pairs = ((weights[name], np.zeros(len(mask), np.float32)) for name, mask in topology.layers.items())
    return [array for pair in pairs for array in pair]


def all_grown(state: AgentState) -> AgentState:
    """The agent of ``state`` with every weight there, those that its masks prune at zero; its moments are zero."""

    def grown(network: NetworkState) -> NetworkState:
        old = network.topology
        new = old.unpruned
        values = new.pack(old.unpack(network.values))
        target = None if network.target is None else new.pack(old.unpack(network.target))
        zeros = np.zeros(new.size, np.float32)
        return NetworkState(new, values, zeros, zeros, target)

    return replace(state, networks={name: grown(network) for name, network in state.networks.items()})


def with_values(network: NetworkState, values: FloatArray) -> NetworkState:
    """The same masks with other ``values`` ``[n]``, which the target starts from too; moments are zero."""
    zeros = np.zeros_like(values)
    target = None if network.target is None else values.copy()
    return NetworkState(network.topology, values, zeros, zeros.copy(), target)
