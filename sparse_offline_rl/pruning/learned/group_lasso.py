"""Group lasso over hidden units (Yuan and Lin 2006; Wen et al. 2016), by proximal steps, which give exact zeros."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.pruning.learned.extension import UnitExtension


class GroupLasso(UnitExtension):
    """``λ Σ √n ‖w_j‖₂`` over the n weights ``w_j`` that unit j reads; whole units go.

    After each step of size η a group becomes ``w max(0, 1 - η λ √n / ‖w‖₂)``. Adam moves each weight by about η, whatever the loss, so
    λ = ``prune.penalty`` is the part of that which the penalty has: it needs no unit of the loss.
    """

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """The proximal step."""
        for weight in (weights[name] for name in self.hidden):
            threshold = rate * self.strength * weight.shape[1] ** 0.5
            norm = weight.norm(dim=1, keepdim=True)
            weight.mul_((1 - threshold / norm.clamp_min(1e-12)).clamp_min(0))

    def unit_scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What decides which units survive: ``‖w_j‖₂ / √n``, ``[out]`` of each hidden layer."""
        return {name: weights[name].norm(dim=1) / weights[name].shape[1] ** 0.5 for name in self.hidden}

    def alive(self, layer: str, weight: Tensor) -> Tensor:
        """Whether the unit reads with any weight that is not zero."""
        return weight.ne(0).any(1)
