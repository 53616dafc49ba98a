"""Train, learn which weights matter beside the weights, prune to exactly what was asked for, train what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState
from sparse_offline_rl.pruning.allocate import allocate, survivors
from sparse_offline_rl.pruning.learned.config import LearnedConfig
from sparse_offline_rl.pruning.learned.extension import Extension, ExtensionState, UnitExtension
from sparse_offline_rl.pruning.learned.registry import EXTENSIONS
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.prune import Twins, find_masks, naming, prune_state
from sparse_offline_rl.pruning.schedule import (
    Change,
    MaskSchedule,
    Memory,
    Moment,
    first_update,
    last_update,
    require_choice,
    require_unset,
)
from sparse_offline_rl.pruning.units import require_units_of, without_units
from sparse_offline_rl.types import FloatArray


class Learned(MaskSchedule):
    """Between the fractions ``prune.start`` and ``prune.until`` of training, networks have extensions (``prune.learn``).

    Then the gates are multiplied into the weights, masks are made of what was learned, and training goes on with what is left
    (``prune.after=finetune``) or with the values of update ``prune.rewind`` under those masks (``rewind``).
    """

    Config: ClassVar[type[PruneConfig]] = LearnedConfig
    CHANGES = True
    STARTS_DENSE = True
    LEARNS = True
    config: LearnedConfig

    def __init__(self, config: LearnedConfig, sparsity: float, updates: int) -> None:
        require_choice("prune.learn", config.learn, EXTENSIONS)
        super().__init__(config, sparsity, updates)
        self.kind = EXTENSIONS[config.learn]
        self._units = issubclass(self.kind, UnitExtension)
        self.first, self.last = max(1, first_update(config.start, updates)), last_update(config.until, updates)
        if not self.first < self.last < updates:
            raise UserError(
                f"prune.start={config.start:g} and prune.until={config.until:g} leave no time to learn masks and to train with them: in a "
                f"run of updates={updates} that would be updates {self.first} to {self.last}. Choose 0 <= start < until < 1, or train longer."
            )
        if config.rewind and config.after != "rewind":
            raise UserError(
                f"prune.rewind={config.rewind} has no meaning with prune.after={config.after}: set prune.after=rewind."
            )
        if config.rewind >= self.first:
            raise UserError(
                f"prune.rewind={config.rewind} must lie before masks begin to be learned, update {self.first}."
            )
        for key, asked in (("polarize", self.kind.POLARIZES), ("gate_lr", self.kind.INITIAL is not None)):
            if not asked:
                require_unset(config, key, f"prune.learn={config.learn}")
        if config.penalty == 0:
            require_unset(config, "warmup", "prune.penalty=0")
        if config.score is not None and (self.kind.INITIAL is not None or self._units):
            raise UserError(
                f"prune.score={config.score} has no meaning with prune.learn={config.learn}, which says itself what is kept: "
                "set prune.score=null."
            )
        if self._units and config.scope != "network":
            raise UserError(
                f"prune.scope={config.scope} has no meaning with prune.learn={config.learn}, which removes whole units: "
                "set prune.scope=network."
            )

    @property
    def score(self) -> str:
        """As the base says; what is learned has a score of its own, unless ``prune.score`` names one."""
        return self.config.score or "magnitude"

    def start(self, moment: Moment) -> AgentState:
        """As the base says. Raises UserError, too, if no whole number of units comes near the sparsity."""
        if self._units:
            require_units_of(moment.state, self.sparsity)
        return super().start(moment)

    @property
    def found(self) -> int:
        """As the base says."""
        return self.last

    def due(self, update: int) -> bool:
        """As the base says."""
        return update in (self.first, self.last) or self._remembers(update)

    def remembered(self, moment: Moment) -> Memory:
        """As the base says."""
        return Memory(rewind=moment.state if self.goes_back(0) else None)

    def goes_back(self, update: int) -> bool:
        """As the base says."""
        return self.config.after == "rewind" and self.config.rewind <= update < self.last

    def numbers(self, update: int, networks: Mapping[str, Topology]) -> Mapping[str, tuple[int, ...]]:
        """As the base says."""
        if update < self.first:
            return {}
        if update >= self.last:
            return {f"{name}/left": (1,) for name in networks}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, topology in networks.items():
            nothing = {layer: torch.zeros(mask.shape) for layer, mask in topology.layers.items()}
            start = self.kind.begin(topology, self.config, nothing)
            shapes |= {key: array.shape for key, array in start.numbers(name).items()}
        return shapes

    def extensions(self, update: int, state: AgentState, memory: Memory, device: str) -> dict[str, Extension]:
        """As the base says."""
        if not self.first <= update < self.last:
            return {}
        names = {key.partition("/")[0] for key in memory.numbers}
        return {name: self._extension(name, state, memory, device) for name in state.networks if name in names}

    def allowed(self, total: int) -> int:
        """How many of ``total`` weights shall survive: once no more are left, nothing pulls at them."""
        return survivors(total, self.sparsity)

    def check_memory(self, update: int, state: AgentState, memory: Memory, twins: Twins) -> None:
        """As the base says."""
        super().check_memory(update, state, memory, twins)
        for key, numbers in memory.numbers.items():
            kind = key.partition("/")[2].partition(".")[0]
            if kind in ("steps", "unit", "left", "exp_avg_sq") and (numbers < 0).any():
                raise ValueError(f"its {key} is negative")
            if kind in ("steps", "left") and (numbers % 1).any():
                raise ValueError(f"its {key} is no whole number")

    def columns(self, networks: Iterable[str]) -> list[str]:
        """As the base says: the share of weights that are switched on."""
        return [f"gates/left/{name}" for name in networks] if self.kind.SWITCHES else []

    def results(self, memory: Memory, totals: Mapping[str, int]) -> dict[str, float]:
        """As the base says: the share of weights that were switched on when gates became masks."""
        return {f"gates/left/{name}": left / totals[name] for name, left in self._left(memory).items()}

    def doubts(self, update: int, memory: Memory, state: AgentState) -> list[str]:
        """As the base says: gates that were far from their target when they became masks; not those that nothing has trained."""
        if update != self.last:
            return []
        totals = {name: network.topology.total for name, network in state.networks.items()}
        return [
            f"network {name}: {left} of {totals[name]} weights were still switched on where {self.allowed(totals[name])} were to "
            "survive; the others were cut by rank. Raise prune.penalty, or learn for longer."
            for name, left in self._left(memory).items()
            if state.networks[name].exp_avg_sq.any() and left > 1.05 * self.allowed(totals[name])
        ]

    def _left(self, memory: Memory) -> dict[str, int]:
        """Network -> how many of its weights were not switched off when they were last counted; nothing where none ever are."""
        if not self.kind.SWITCHES:
            return {}
        return {key.removesuffix("/left"): int(it[0]) for key, it in memory.numbers.items() if key.endswith("/left")}

    def warmth(self, update: int) -> float:
        """The part of ``prune.penalty`` that acts after ``update``: it rises linearly over ``prune.warmup`` of the time of learning."""
        rising = self.config.warmup * (self.last - self.first)
        return min(1.0, (update + 1 - self.first) / rising) if rising else 1.0

    def change(self, moment: Moment) -> Change:
        """The update to rewind to, the beginning of learning, or its end."""
        if self._remembers(moment.update):
            return Change(moment.state, replace(moment.memory, rewind=moment.state))
        if moment.update == self.first:
            return Change(moment.state, replace(moment.memory, numbers=self._begun(moment)))
        return self._hardened(moment)

    def _remembers(self, update: int) -> bool:
        return self.config.after == "rewind" and 0 < update == self.config.rewind

    def _extension(self, name: str, state: AgentState, memory: Memory, device: str = "cpu") -> Extension:
        found = ExtensionState.of_numbers(name, memory.numbers)
        return self.kind(self.config, found, state.networks[name].topology, device)

    def _begun(self, moment: Moment) -> dict[str, FloatArray]:
        numbers: dict[str, FloatArray] = {}
        for name, view in moment.views().items():
            gradients = view.gradients()
            effects = {layer: value * gradients[layer] for layer, value in view.values.items()}
            numbers |= self.kind.begin(view.topology, self.config, effects).numbers(name)
        return numbers

    def _hardened(self, moment: Moment) -> Change:
        """Gates into values, then masks; a twin that follows another network has the gates of that one."""
        twins, state = moment.twins, moment.state
        leaders = {name: twins.pairs[name] if twins.follows(name) else name for name in state.networks}
        extensions = {name: self._extension(name, state, moment.memory) for name in dict.fromkeys(leaders.values())}
        networks = {name: _folded(it, extensions[leaders[name]]) for name, it in state.networks.items()}
        folded = replace(state, networks=networks)
        masks = self._masks(replace(moment, state=folded), state, extensions)
        numbers = {f"{name}/left": moment.memory.numbers[f"{name}/left"] for name in extensions}
        begin = folded if moment.memory.rewind is None else moment.memory.rewind
        pruned = prune_state(begin, masks, twins)
        if self.config.rescale:
            networks = {name: _rescaled(begin.networks[name], network) for name, network in pruned.networks.items()}
            pruned = replace(pruned, networks=networks)
        return Change(pruned, replace(moment.memory, numbers=numbers, rewind=None))

    def _masks(self, moment: Moment, raw: AgentState, extensions: Mapping[str, Extension]) -> Mapping[str, Masks]:
        """Of every network that follows no other; ``moment`` has the gates in its values, ``raw`` has not."""
        if self.config.score is not None:
            return find_masks(moment.views(), self.config, self.score, self.sparsity, moment.draws)
        masks = {}
        for name, extension in sorted(extensions.items()):
            weights = _weights(raw.networks[name])
            with naming(name), torch.no_grad():
                if isinstance(extension, UnitExtension):
                    norms = {layer: weights[layer].square().mean(1).sqrt() for layer in extension.hidden}
                    scores = norms if extension.idle else extension.unit_scores(weights)
                    masks[name] = without_units(raw.networks[name].topology, scores, self.sparsity)
                else:
                    scores = {
                        layer: weight.abs() if extension.idle else extension.importance(layer, weight)
                        for layer, weight in weights.items()
                    }
                    masks[name] = allocate(scores, self.sparsity, self.config.scope)
        return masks


def _weights(network: NetworkState) -> dict[str, Tensor]:
    return {name: torch.from_numpy(weight) for name, (weight, _) in network.layers().items()}


@torch.no_grad()
def _folded(network: NetworkState, extension: Extension) -> NetworkState:
    """``network`` with its gates in its weights; the moments become those of the product, as far as the gates stood still.

    The gradient by ``w g`` is that by w, divided by g, so Adam's first moment is divided by g and the second by g²; those of a
    weight whose gate is 0 are 0.
    """
    topology = network.topology
    factors = []
    for layer, mask in topology.layers.items():
        weight, bias = extension.factors(layer)
        factors.append(torch.ones(mask.shape) if weight is None else weight.expand(mask.shape))
        factors.append(torch.ones(len(mask)) if bias is None else bias)
    factor = topology.pack([it.numpy() for it in factors])
    inverse = torch.from_numpy(factor).reciprocal().nan_to_num(posinf=0, neginf=0).numpy()
    target = None if network.target is None else network.target * factor
    return NetworkState(
        topology, network.values * factor, network.exp_avg * inverse, network.exp_avg_sq * inverse * inverse, target
    )


def _rescaled(before: NetworkState, after: NetworkState) -> NetworkState:
    """``after``, which was ``before`` until it was pruned, with the weights of each layer scaled to the norm that they had.

    The rescaled start of sparse training's toolkit (Jaiswal et al. 2022), whose authors learn each layer's factor on batches. It is
    another function from then on, so Adam's moments stay: nothing says what they would be.
    """
    arrays, whole = [], before.layers()
    for layer, (weight, bias) in after.layers().items():
        left = np.linalg.norm(weight)
        factor = np.linalg.norm(whole[layer][0]) / left if left else np.float32(1)
        arrays += [np.full(weight.shape, factor, np.float32), np.ones_like(bias)]
    factors = after.topology.pack(arrays)
    target = None if after.target is None else after.target * factors
    return replace(after, values=after.values * factors, target=target)
