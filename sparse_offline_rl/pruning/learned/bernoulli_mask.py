"""A learned mask between 0 and 1 beside each weight, pushed to its ends (the pruning pipeline's equation for L_reg)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.pruning.learned.extension import Extension, summed

THRESHOLD = 0.01  # M above which a weight counts as there


class BernoulliMask(Extension):
    """``L(θ ⊙ M) + λ1 Σ M (1 - M) + λ2 Σ M``, M = 0.5 at the start; afterwards the largest ``|θ ⊙ M|`` survive.

    ``prune.polarize`` is λ1 and ``prune.penalty`` λ2, both in units of the loss. The paper reads M as probabilities and multiplies with them. It does not
    say how they stay probabilities: here they are clamped after each step.
    """

    INITIAL = 0.5
    POLARIZES = True

    def factors(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """As the base says."""
        return self.gates[layer], None

    def added_loss(self, weights: Mapping[str, Tensor]) -> Tensor:
        """As the base says; the push to the ends does not rest once the target is met."""
        fewer = summed(self.gates.values())
        ends = summed(gate * (1 - gate) for gate in self.gates.values())
        return (self.strength * fewer + self.settings.polarize * ends) * self.state.unit

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """M back into [0, 1]."""
        for gate in self.gates.values():
            gate.clamp_(0, 1)

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """``M > 0.01``."""
        return self.gates[layer].detach() > THRESHOLD
