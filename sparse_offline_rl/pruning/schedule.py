"""When masks change, and what a change is: a pure function of the agent's state and of the few numbers that a method keeps.

Nothing here knows agents or engines: a :class:`Moment` brings the state and the means to score it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_offline_rl.config import PruneConfig, shipped_settings, written
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, all_grown, shape_of
from sparse_offline_rl.pruning.allocate import survivors
from sparse_offline_rl.pruning.curvature import CurvatureSettings
from sparse_offline_rl.pruning.learned.extension import Extension
from sparse_offline_rl.pruning.prune import Twins, find_masks, naming, prune_state
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.types import BoolArray, FloatArray, Objective

# For a state, a function that draws a batch and gives the objective of each network of a dense agent of that state.
Probe = Callable[[AgentState], Callable[[torch.Generator], Mapping[str, Objective]]]


@dataclass(frozen=True)
class Memory:
    """What a schedule remembers from change to change. A checkpoint holds it."""

    numbers: Mapping[str, FloatArray] = field(default_factory=dict)  # of the method's own, by ``network/name``
    masks: Mapping[str, BoolArray] = field(default_factory=dict)  # ``first/network.layer`` and ``ever/network.layer``
    rewind: AgentState | None = None  # to go back to


@dataclass(frozen=True)
class Moment:
    """What a change is made from."""

    update: int  # updates done
    state: AgentState
    memory: Memory
    draws: torch.Generator  # for everything random that happens now; the training's own stream does not notice
    probe: Probe
    twins: Twins

    def views(
        self,
        state: AgentState | None = None,
        revived: AgentState | None = None,
        settings: CurvatureSettings = CurvatureSettings(),  # noqa: B008  (it is frozen)
        followers: bool = False,
    ) -> dict[str, NetworkView]:
        """Every network that is scored, as it is in ``state`` (that of the moment); twins that follow another are left out.

        With ``revived`` weights are judged by the values that they have there. ``settings`` are those of curvature. With ``followers``
        twins that follow another are there, too, with its objective: they read what it reads, and have weights of their own.
        """
        state = self.state if state is None else state
        drawn: list[Mapping[str, Objective]] = []
        sample: list[Callable[[torch.Generator], Mapping[str, Objective]]] = []

        def objective(name: str, batch: int) -> Objective:
            if not sample:
                sample.append(self.probe(all_grown(state)))
            while len(drawn) <= batch:
                drawn.append(sample[0](self.draws))
            return drawn[batch][name]

        def view(name: str) -> NetworkView:
            earlier = None if revived is None else revived.networks[name]
            leader = self.twins.pairs[name] if self.twins.follows(name) else name
            return NetworkView(state.networks[name], lambda batch: objective(leader, batch), earlier, settings)

        # Twins come last, as they always did: random scores are drawn in this order.
        names = sorted(state.networks, key=lambda name: name in self.twins.pairs)
        return {name: view(name) for name in names if followers or not self.twins.follows(name)}


@dataclass(frozen=True)
class Change:
    """What a moment becomes."""

    state: AgentState
    memory: Memory


class MaskSchedule:
    """Masks that are found before the first update and stay: ``prune.schedule=once``, and what every other schedule starts from."""

    Config: ClassVar[type[PruneConfig]] = PruneConfig
    CHANGES: ClassVar[bool] = False  # whether masks change while training
    STARTS_DENSE: ClassVar[bool] = False  # whether nothing is pruned before the first update
    LEARNS: ClassVar[bool] = False  # whether networks have extensions for a while, for which they must be dense
    LEVELS: ClassVar[bool] = False  # whether training has levels (ends_level)
    HASHES: ClassVar[bool] = False  # whether weights share values by a hash, for which networks must be dense
    factors: bool = False  # whether layers are left in factors, some without ReLU
    SCORES: ClassVar[Mapping[str, object]] = SCORERS  # what prune.score may be
    config: PruneConfig

    def __init__(self, config: PruneConfig, sparsity: float, updates: int) -> None:
        """Raises UserError for settings that do not fit together or to a run of so many ``updates``."""
        self.config, self.sparsity, self.updates = config, sparsity, updates
        if config.name == "none" and (self.CHANGES or self.HASHES):
            raise UserError(
                f"prune=none with prune.schedule={config.schedule} names no pruning method: choose one, e.g. prune=rigl."
            )
        if config.name != "none":
            if config.score is None and self.score not in self.SCORES:
                raise UserError(
                    f"prune.score=null stands for {self.score}, which is no score: set prune.score to one of {', '.join(self.SCORES)}."
                )
            require_choice("prune.score", self.score, self.SCORES)
        if self.STARTS_DENSE:
            for key, default in {"rounds": 1, "revive": False, "shuffle_layerwise": False, "reinit": False}.items():
                if getattr(config, key) != default:
                    raise UserError(
                        f"prune.{key}={written(getattr(config, key))} is about masks found before training, and with "
                        f"prune.schedule={config.schedule} training begins dense: set prune.{key}={written(default)}."
                    )
        if config.revive and config.rounds == 1:
            raise UserError("prune.revive=true needs prune.rounds of at least 2: in one round no weight can come back.")

    @property
    def score(self) -> str:
        """The name of the score by which masks are found."""
        return self.config.score or self.config.name

    @property
    def found(self) -> int:
        """The updates after which a network has its final sparsity."""
        return 0

    def due(self, update: int) -> bool:
        """Whether something is to be done after ``update``, which is never the last one."""
        return False

    def batch_sizes(self) -> dict[str, int]:
        """Key -> transitions of the batches that it asks for."""
        return {"prune.batch_size": self.config.batch_size}

    def batch_size(self, update: int) -> int:
        """Transitions of the batches that weights are scored on after ``update``."""
        return self.config.batch_size

    def ends_level(self, update: int) -> bool:
        """Whether what was trained until ``update`` is a result of its own, evaluated before the change if ``eval.levels`` says so."""
        return False

    def start(self, moment: Moment) -> AgentState:
        """The state with the masks of the first update, found in ``prune.rounds`` rounds.

        Raises UserError, naming the network, if the sparsity would leave less than one weight of it.
        """
        if self.STARTS_DENSE:
            for name, network in moment.state.networks.items():
                with naming(name):
                    survivors(network.topology.total, self.sparsity)
            return moment.state
        return self.prune_in_rounds(moment)

    def remembered(self, moment: Moment) -> Memory:
        """What is remembered of the moment at which training begins."""
        return Memory()

    def change(self, moment: Moment) -> Change:
        """What :meth:`due` announced."""
        raise NotImplementedError

    def extensions(self, update: int, state: AgentState, memory: Memory, device: str) -> dict[str, Extension]:
        """What networks have beside their weights in the updates after ``update``; a twin that follows another has that one's."""
        return {}

    def columns(self, networks: Iterable[str]) -> list[str]:
        """Metrics, beside those of all schedules, that a run of these scored networks has now or later."""
        return []

    def results(self, memory: Memory, totals: Mapping[str, int]) -> dict[str, float]:
        """For the summary: what the memory says in the end of networks of ``totals`` weights."""
        return {}

    def doubts(self, update: int, memory: Memory, state: AgentState) -> list[str]:
        """What the user should know of the change after ``update`` that found ``memory`` and ``state``, a sentence each."""
        return []

    def numbers(self, update: int, networks: Mapping[str, Topology]) -> Mapping[str, tuple[int, ...]]:
        """Names and shapes of the numbers that are remembered after ``update`` of these scored networks."""
        return {}

    def goes_back(self, update: int) -> bool:
        """Whether a state to go back to is remembered after ``update``."""
        return False

    def check_memory(self, update: int, state: AgentState, memory: Memory, twins: Twins) -> None:
        """Raise ValueError unless ``memory`` is what is remembered after ``update`` by a run that stands at ``state``."""
        masks = observed(Change(state, Memory())).memory.masks if self.CHANGES else {}
        _require_equal("masks", _shapes(memory.masks), _shapes(masks))
        for key, mask in masks.items():
            if key.startswith("ever/") and not memory.masks[key][mask].all():
                raise ValueError(f"its {key} lacks weights that are there now")
        networks = {name: it.topology for name, it in state.networks.items() if not twins.follows(name)}
        _require_equal("numbers", _shapes(memory.numbers), dict(self.numbers(update, networks)))
        for key, numbers in memory.numbers.items():
            if not np.isfinite(numbers).all():
                raise ValueError(f"its {key} is not finite")
        if (memory.rewind is not None) != self.goes_back(update):
            raise ValueError(
                "it lacks the state to go back to" if memory.rewind is None else "it has a state to go back to"
            )
        if memory.rewind is not None:
            _require_equal("state to go back to", shape_of(memory.rewind), shape_of(state))
            if memory.rewind.density < 1:
                raise ValueError("its state to go back to is pruned")

    def prune_in_rounds(self, moment: Moment) -> AgentState:
        """The density falls exponentially, to ``ρ^(t/T)`` in round t of T (Tanaka et al. 2020; de Jorge et al. 2021).

        A pruned weight stays out, unless ``prune.revive``: then all are judged by their values before the first round (FORCE).
        Survivors keep those values in any case.
        """
        rounds, state = self.config.rounds, moment.state
        unshuffled = self.config.model_copy(update={"shuffle_layerwise": False})
        for done in range(1, rounds + 1):
            sparsity = exponential(self.sparsity, done, rounds)
            views = moment.views(state, moment.state if self.config.revive else None)
            if done == 1:
                # The batch is drawn before any random score, needed or not: masks of earlier versions stay what they were.
                [view.objective for view in views.values()]
            config = self.config if done == rounds else unshuffled
            masks = find_masks(views, config, self.score, sparsity, moment.draws, again=config.revive)
            state = prune_state(moment.state, masks, moment.twins)
        return state


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {key: array.shape for key, array in arrays.items()}


def _require_equal(part: str, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Raise ValueError naming the first key in which ``found`` and ``wanted`` differ."""
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            raise ValueError(f"the {part} it remembers have {key}: {found.get(key)}, and {wanted.get(key)} is needed")


def require_choice(key: str, value: str, choices: Mapping[str, object]) -> None:
    """Raise UserError unless ``value`` is among ``choices``."""
    if value not in choices:
        raise UserError(f"{key}={value!r} cannot be used: choose one of {', '.join(choices)}.")


def require_unset(config: PruneConfig, key: str, choice: str) -> None:
    """Raise UserError if ``key``, which has no meaning with this ``choice`` of another one, was given a value by the user."""
    value = getattr(config, key)
    default = shipped_settings("prune", config.name).get(f"prune.{key}", type(config).model_fields[key].get_default())
    if value != default:
        raise UserError(f"prune.{key}={written(value)} has no meaning with {choice}: leave it out.")


def exponential(sparsity: float, done: int, steps: int) -> float:
    """The sparsity after ``done`` of ``steps`` if each removes the same fraction of what is left: the density is ``ρ^(done/steps)``."""
    return sparsity if done == steps else 1 - (1 - sparsity) ** (done / steps)


def first_update(fraction: float, updates: int) -> int:
    """The first of ``updates`` that does not lie before a ``fraction`` of them: 55 for 0.55 of 100, whose product is a little more."""
    return math.ceil(_whole(fraction * updates))


def last_update(fraction: float, updates: int) -> int:
    """The last of ``updates`` that does not lie after a ``fraction`` of them: 29 for 0.29 of 100, whose product is a little less."""
    return math.floor(_whole(fraction * updates))


def _whole(product: float) -> float:
    nearest = round(product)
    return nearest if math.isclose(product, nearest, rel_tol=1e-14) else product


def change_range(every: int, start: float, until: float, updates: int, fades: bool = False) -> tuple[int, int]:
    """First and last update after which something may happen that does every ``every`` updates between two fractions of training.

    What ``fades`` out has nothing to do any more at the end of that time. Raises UserError if it would never happen.
    """
    begin = first_update(start, updates)
    first = math.ceil(max(begin, 1) / every) * every
    last = min(first_update(until, updates) - 1 if fades else last_update(until, updates), updates - 1)
    if start > until or (fades and start == until):
        raise UserError(
            f"prune.start={start:g} does not lie before prune.until={until:g}, so no mask would ever change: lower the one, or raise the "
            "other."
        )
    if first > last:
        raise UserError(
            f"prune.every={every} leaves the masks as they are: in a run of updates={updates} changes lie between "
            f"prune.start={start:g} and prune.until={until:g}, which is updates {begin} to {last}. "
            "Lower prune.every, or train longer."
        )
    return first, last // every * every


def observed(change: Change) -> Change:
    """``change`` with the masks of now added to those that its memory has seen."""
    masks = dict(change.memory.masks)
    for name, network in change.state.networks.items():
        for layer, mask in _own_weights(network.topology).items():
            key = f"{name}.{layer}"
            masks.setdefault(f"first/{key}", mask)
            masks[f"ever/{key}"] = mask | masks.get(f"ever/{key}", mask)
    return Change(change.state, replace(change.memory, masks=masks))


def _own_weights(topology: Topology) -> dict[str, BoolArray]:
    """Of each layer ``[out, in]`` the weights that are there as such: none of one that stands in factors."""
    masks, factors = topology.layers, topology.factors
    return {name: np.zeros(shape, bool) if factors[name] else masks[name] for name, shape in topology.shapes.items()}


def movement(topologies: Mapping[str, Topology], memory: Memory) -> dict[str, float]:
    """How far the masks have moved: of each network the share of positions that were ever kept, and of the first mask's weights
    the share that are kept now.
    """
    found = {}
    for name, topology in topologies.items():
        layers = [(mask, f"{name}.{layer}") for layer, mask in _own_weights(topology).items()]
        ever = sum(np.count_nonzero(memory.masks[f"ever/{key}"]) for _, key in layers)
        first = sum(np.count_nonzero(memory.masks[f"first/{key}"]) for _, key in layers)
        still = sum(np.count_nonzero(mask & memory.masks[f"first/{key}"]) for mask, key in layers)
        found[f"masks/ever_kept/{name}"] = float(ever / topology.total)
        found[f"masks/first_kept/{name}"] = float(still / first)
    return found
