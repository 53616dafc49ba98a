"""HashedNets (Chen et al. 2015) in the place of masks: no weight is removed, but so many share a value that as few values are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch

from sparse_offline_rl.config import PruneConfig, written
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState, with_values
from sparse_offline_rl.pruning.allocate import distribute, erk_density, survivors
from sparse_offline_rl.pruning.prune import naming
from sparse_offline_rl.pruning.schedule import MaskSchedule, Moment


class HashedConfig(PruneConfig):
    """Keys of ``prune.schedule=hashed``."""

    schedule: Literal["hashed"] = "hashed"


class Hashed(MaskSchedule):
    """Networks are hashed before the first update: each stores exactly ``round((1 - s) n)`` values for its n weights."""

    Config: ClassVar[type[PruneConfig]] = HashedConfig
    HASHES = True
    SCORES: ClassVar[Mapping[str, object]] = {"none": None}

    def __init__(self, config: PruneConfig, sparsity: float, updates: int) -> None:
        defaults = {"score": None, "rounds": 1, "revive": False, "shuffle_layerwise": False, "reinit": False}
        for key, default in defaults.items():
            if (found := getattr(config, key)) != default:
                raise UserError(
                    f"prune.{key}={written(found)} is about which weights are pruned, and prune.schedule=hashed prunes none, for its weights "
                    f"share values: set prune.{key}={written(default)}."
                )
        super().__init__(config, sparsity, updates)

    @property
    def score(self) -> str:
        """There is none."""
        return "none"

    def start(self, moment: Moment) -> AgentState:
        """The state with hashed networks; twins that follow another have its hashes, and values of their own.

        Each value is that of one of the weights that share it, so all have torch's own initial distribution; biases stay. Raises
        UserError, naming the network, if the sparsity would leave less than one value for a layer.
        """
        twins, hashes = moment.twins, dict[str, dict[str, LayerHash]]()
        for name, network in moment.state.networks.items():
            if not twins.follows(name):
                with naming(name):
                    hashes[name] = self._hashes(network.topology, moment.draws)
        networks = {
            name: _hashed(network, hashes[twins.pairs[name] if twins.follows(name) else name])
            for name, network in moment.state.networks.items()
        }
        return replace(moment.state, networks=networks)

    def _hashes(self, topology: Topology, draws: torch.Generator) -> dict[str, LayerHash]:
        counts = value_counts(topology, self.sparsity, self.config.scope)
        seeds = torch.randint(2**32, (len(counts),), generator=draws, device=draws.device).tolist()
        hashes = {}
        for (name, count), seed in zip(counts.items(), seeds, strict=True):
            outputs, inputs = topology.layers[name].shape
            hashes[name] = LayerHash(outputs, inputs, count, seed)
        return hashes


def value_counts(topology: Topology, sparsity: float, scope: str) -> dict[str, int]:
    """Layer name -> how many values its weights share: ``round((1 - s) n)`` in all, at least one a layer.

    Layers have the same share of their weights, to the rounding (``scope`` network or layer), or shares as of Erdős–Rényi masks (erk).
    Raises UserError if there are fewer values than layers.
    """
    sizes = {name: mask.size for name, mask in topology.layers.items()}
    total = survivors(topology.total, sparsity)
    if total < len(sizes):
        raise UserError(
            f"sparsity={sparsity:g} would leave {total} values for {len(sizes)} layers, and each needs one: choose a sparsity of at most "
            f"{1 - len(sizes) / topology.total:.6g}."
        )
    weights = {name: erk_density(it.shape) if scope == "erk" else 1.0 for name, it in topology.layers.items()}
    tiny: set[str] = set()  # layers that would get none get one, and the others share the rest
    while True:
        others = [name for name in sizes if name not in tiny]
        shares = distribute(total - len(tiny), [sizes[it] for it in others], [weights[it] for it in others])
        counts = dict.fromkeys(sizes, 1) | dict(zip(others, shares, strict=True))
        if all(counts.values()):
            return counts
        tiny |= {name for name, count in counts.items() if not count}


def _hashed(network: NetworkState, hashes: Mapping[str, LayerHash]) -> NetworkState:
    """``network``, which nobody has pruned or trained, with these hashes, each value that of the last of its weights."""
    old = network.topology
    new = Topology(old.hidden, old.heads, hashes)
    values = np.empty(new.size, np.float32)
    for name, (weight, bias) in network.layers().items():
        values[new.spans[name].values] = hashes[name].last(weight)
        values[new.spans[name].bias] = bias
    return with_values(replace(network, topology=new), values)
