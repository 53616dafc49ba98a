"""A learned mask between 0 and 1 beside each weight, pushed to its ends (the pruning pipeline's equation for L_reg)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.pruning.learned.extension import Extension


class BernoulliMask(Extension):
    """``L(θ ⊙ M) + λ1 Σ M (1 - M) + λ2 Σ M``, M = 0.5 at the start; afterwards the largest ``|θ ⊙ M|`` survive.

    ``prune.polarize`` is λ1 and ``prune.penalty`` λ2. The paper reads M as probabilities and multiplies with them. It does not
    say how they stay probabilities: here they are clamped after each step.
    """

    INITIAL = 0.5

    def factors(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """As the base says."""
        return self.gates[layer], None

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """``λ1/λ2 Σ M (1 - M) + Σ M``: the caller multiplies with λ2."""
        ratio = self.settings.polarize / self.settings.penalty if self.settings.penalty else 0.0
        return torch.stack([(ratio * gate * (1 - gate) + gate).sum() for gate in self.gates.values()]).sum()

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """M back into [0, 1]."""
        for gate in self.gates.values():
            gate.clamp_(0, 1)

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """``M > 0.5``: more likely there than not."""
        return self.gates[layer].detach() > self.INITIAL
