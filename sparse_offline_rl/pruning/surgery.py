"""Train, prune by curvature and correct what is left, fine-tune: Optimal Brain Damage and Surgeon, their Kronecker forms, EigenDamage, filter norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from sparse_offline_rl.config import Fraction, PositiveFloat, PositiveInt, PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.pruning.corrections import CORRECTIONS, corrected
from sparse_offline_rl.pruning.curvature import CurvatureSettings, Fisher
from sparse_offline_rl.pruning.eigendamage import (
    EIGENDAMAGE,
    Directions,
    as_many,
    factored,
    require_directions_of,
    rotations,
    strongest,
)
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.prune import Twins, find_masks, naming, prune_state
from sparse_offline_rl.pruning.schedule import (
    Change,
    MaskSchedule,
    Moment,
    exponential,
    first_update,
    require_choice,
    require_unset,
)
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.pruning.units import UNIT_SCORES, require_units_of, without_units
from sparse_offline_rl.pruning.views import NetworkView

# Scores that look at no curvature, and those that invert none; one that is not here may do both.
_NO_CURVATURE = frozenset(
    {"snip", "grasp", "magnitude", "signed_magnitude", "random", "synflow", "gradient", "unit_l1", "unit_l2"}
)
_NO_INVERSE = _NO_CURVATURE | {"obd", "kron_obd", EIGENDAMAGE}


class SurgeryConfig(PruneConfig):
    """Keys of ``prune.schedule=surgery``."""

    schedule: Literal["surgery"] = "surgery"
    start: Fraction = 0.5
    levels: PositiveInt = 1
    every: PositiveInt | None = None
    correct: str = "none"
    batches: PositiveInt = 10
    fisher: Fisher = "sampled"
    damping: PositiveFloat = 1e-3


class Surgery(MaskSchedule):
    """From the fraction ``prune.start`` of training on, ``prune.levels`` changes ``prune.every`` updates apart, training in between.

    The scores of :data:`SCORERS` prune single weights, those of :data:`UNIT_SCORES` hidden units, :data:`EIGENDAMAGE` directions of the
    eigenbasis of a layer's curvature. The density falls exponentially.
    """

    Config: ClassVar[type[PruneConfig]] = SurgeryConfig
    CHANGES = True
    STARTS_DENSE = True
    LEVELS = True
    SCORES: ClassVar[Mapping[str, object]] = {**SCORERS, **UNIT_SCORES, EIGENDAMAGE: rotations}
    config: SurgeryConfig

    def __init__(self, config: SurgeryConfig, sparsity: float, updates: int) -> None:
        super().__init__(config, sparsity, updates)
        require_choice("prune.correct", config.correct, CORRECTIONS)
        self.units, self.factors = self.score in UNIT_SCORES, self.score == EIGENDAMAGE
        if self.factors:
            self._require_once()
        if config.correct == "kron_obs" and not self.units:
            raise UserError(
                f"prune.correct=kron_obs is about hidden units that leave, and prune.score={self.score} prunes single weights: set "
                "prune.correct=obs, or prune.score=kron_obs."
            )
        if config.scope == "erk" and (self.units or self.factors):
            raise UserError(
                f"prune.scope=erk deals out single weights, and prune.score={self.score} prunes "
                f"{'hidden units' if self.units else 'directions'}: set prune.scope=network or prune.scope=layer."
            )
        self._refuse_curvature_that_nobody_asks_for()
        if config.levels == 1:
            require_unset(config, "every", "prune.levels=1")
        self.first = max(first_update(config.start, updates), 1)
        self.every = config.every or max((updates - self.first) // config.levels, 1)
        self.last = self.first + (config.levels - 1) * self.every
        if self.last >= updates:
            raise UserError(
                f"prune.levels={config.levels} changes {self.every} updates apart from update {self.first} on leave nothing of "
                f"updates={updates} to fine-tune: train longer, or lower prune.start, prune.levels or prune.every."
            )

    def _refuse_curvature_that_nobody_asks_for(self) -> None:
        config, choice = self.config, f"prune.score={self.score} and prune.correct=none"
        if config.correct != "none":
            return
        if self.score in _NO_INVERSE:
            require_unset(config, "damping", choice)
        if self.score in _NO_CURVATURE:
            for key in ("batches", "fisher"):
                require_unset(config, key, choice)

    def _require_once(self) -> None:
        """Raise UserError if layers that are in factors are to be pruned or corrected once more."""
        config = self.config
        if config.correct != "none":
            raise UserError(
                f"prune.correct={config.correct} corrects weights that stay where they are, and prune.score={self.score} rotates them: set "
                "prune.correct=none."
            )
        if config.levels > 1:
            raise UserError(
                f"prune.levels={config.levels} would prune layers that prune.score={self.score} has left in factors: set prune.levels=1."
            )

    def start(self, moment: Moment) -> AgentState:
        """As the base says. Raises UserError, too, if no whole number of units or directions comes near the sparsity."""
        if self.units:
            require_units_of(moment.state, self.sparsity)
        if self.factors:
            require_directions_of(moment.state, self.sparsity)
        return super().start(moment)

    @property
    def found(self) -> int:
        """As the base says."""
        return self.last

    def due(self, update: int) -> bool:
        """As the base says."""
        return self.first <= update <= self.last and (update - self.first) % self.every == 0

    def ends_level(self, update: int) -> bool:
        """As the base says: what was trained is a result before each change."""
        return self.due(update)

    def sparsity_after(self, update: int) -> float:
        """The same fraction of what is left goes at each change; the last hits the target."""
        return exponential(self.sparsity, (update - self.first) // self.every + 1, self.config.levels)

    def change(self, moment: Moment) -> Change:
        """Prune, then correct the values of what is left, those of twins by their own curvature unless they are copies."""
        settings = CurvatureSettings(self.config.batches, self.config.fisher, self.config.damping)
        views = moment.views(settings=settings, followers=True)
        state = self._factored(views, moment) if self.factors else self._pruned(views, moment)
        return Change(state, moment.memory)

    def _pruned(self, views: Mapping[str, NetworkView], moment: Moment) -> AgentState:
        """All networks with fewer weights, corrected if that is asked for."""
        scored = {name: view for name, view in views.items() if not moment.twins.follows(name)}
        state = prune_state(moment.state, self._masks(scored, moment), moment.twins)
        correction = CORRECTIONS[self.config.correct]
        if correction is None:
            return state
        networks = dict(state.networks)
        for name in views:
            with naming(name):
                curvature = views[_judge(name, moment.twins)].curvature(moment.draws)
            networks[name] = corrected(moment.state.networks[name], networks[name], curvature, correction)
        return replace(state, networks=networks)

    def _factored(self, views: Mapping[str, NetworkView], moment: Moment) -> AgentState:
        """All networks in factors. A twin that follows another keeps as many directions as that one, of its own curvature."""
        networks, twins = dict(moment.state.networks), moment.twins
        stay: dict[str, dict[str, Directions]] = {}
        for name, view in views.items():  # twins come last
            with naming(name):
                rotated = rotations(networks[name], views[_judge(name, twins)].curvature(moment.draws))
                stay[name] = (
                    as_many(rotated, stay[twins.pairs[name]])
                    if twins.follows(name)
                    else strongest(rotated, view.topology, self.sparsity, self.config.scope)
                )
            networks[name] = factored(networks[name], rotated, stay[name])
        return replace(moment.state, networks=networks)

    def _masks(self, views: Mapping[str, NetworkView], moment: Moment) -> dict[str, Masks]:
        """What stays, by the name of the network."""
        sparsity, masks = self.sparsity_after(moment.update), {}
        if not self.units:
            return find_masks(views, self.config, self.score, sparsity, moment.draws, again=False)
        for name, view in views.items():
            with naming(name):
                scores = UNIT_SCORES[self.score](view, moment.draws)
                masks[name] = without_units(view.topology, scores, sparsity, self.config.scope)
        return masks


def _judge(name: str, twins: Twins) -> str:
    """The network by whose curvature ``name`` is changed: copies would drift apart, each with noise of its own."""
    return twins.pairs[name] if twins.rule == "copy" and twins.follows(name) else name
