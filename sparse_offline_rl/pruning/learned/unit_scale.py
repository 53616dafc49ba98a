"""Network slimming (Liu et al. 2017): a scale on each hidden unit, pulled to zero by an L1 penalty."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.pruning.learned.extension import UnitExtension, summed

THRESHOLD = 0.01  # scale above which a unit counts as there


class UnitScale(UnitExtension):
    """``γ relu(w x + b)`` with γ = 1 at the start, kept at 0 or above; whole units go.

    The authors use the scale of a batch normalisation. There is none here, so the scale is one of its own; what is left of it is
    folded into the unit's weights and bias, as ReLU lets a factor through that is not negative.
    """

    INITIAL = 1.0
    LAYERS = "hidden"

    @classmethod
    def gate_shape(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One a unit."""
        return shape[:1]

    @classmethod
    def unit(cls, effects: Mapping[str, Tensor]) -> float:
        """As the base says: of a unit's scale the gradient is the sum over its weights (and its bias, left out here)."""
        return super().unit({name: effect.sum(1) for name, effect in effects.items()})

    def factors(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """As the base says."""
        gate = self.gates.get(layer)
        return (None, None) if gate is None else (gate[:, None], gate)

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """``Σ γ``."""
        return summed(self.gates.values())

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """γ back to 0 or above."""
        for gate in self.gates.values():
            gate.clamp_(min=0)

    def unit_scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What decides which units survive: γ, ``[out]`` of each hidden layer."""
        return {name: gate.detach() for name, gate in self.gates.items()}

    def alive(self, layer: str, weight: Tensor) -> Tensor:
        """``γ > 0.01``."""
        return self.gates[layer].detach() > THRESHOLD
