"""Sensitivity-driven regularisation: weights that the loss does not feel shrink (Tartaglione et al. 2018; LOBSTER, 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.pruning.learned.extension import Extension, summed


class Sensitivity(Extension):
    """After each step ``w ← w - η λ w max(0, 1 - S)``, ``S = |∂L/∂w|`` (LOBSTER, equation 6); the largest ``|w|`` survive.

    The authors' losses give gradients of the order of 1. Here those of an agent's networks differ by factors of a thousand, so S is divided
    by its mean over the network.
    """

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """The shrinking."""
        count = sum(gradient.numel() for gradient in gradients.values())
        mean = summed(gradient.abs() for gradient in gradients.values()) / count
        for name, weight in weights.items():
            unfelt = (1 - gradients[name].abs() / mean.clamp_min(1e-12)).clamp_min(0)
            weight.mul_((1 - rate * self.strength * unfelt).clamp_min(0))  # a weight shrinks to zero at most

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """``|w| > 1e-4``."""
        return weight.abs() > 1e-4
