"""L0 regularisation through hard concrete gates (Louizos, Welling and Kingma 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import hardtanh

from sparse_offline_rl.pruning.learned.extension import Extension, summed

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # temperature and the interval that is stretched to, the authors' values


class HardConcrete(Extension):
    """Gates that are exactly 0 or 1 with a probability each; the penalty is the expected number of those that are not 0."""

    INITIAL = 2.2  # log α: a weight is switched off with a probability of about 0.02

    def factors(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """``clip(σ(log α)(ζ - γ) + γ, 0, 1)`` (equation 13)."""
        return _stretched(torch.sigmoid(self.gates[layer])), None

    def sampled(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """``clip(s (ζ - γ) + γ, 0, 1)`` for ``s = σ((log u - log(1 - u) + log α) / β)`` (equations 10 and 11)."""
        log_alpha = self.gates[layer]
        return _stretched(torch.sigmoid((self.uniform(log_alpha.shape).logit_() + log_alpha) * (1 / BETA))), None

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor:
        """``Σ σ(log α - β log(-γ / ζ))`` (equation 12)."""
        shift = BETA * math.log(-GAMMA / ZETA)
        return summed(torch.sigmoid(log_alpha - shift) for log_alpha in self.gates.values())

    def importance(self, layer: str, weight: Tensor) -> Tensor:
        """``log α``."""
        return self.gates[layer].detach()

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """Whether the expected gate is above 0."""
        factor, _ = self.factors(layer)
        assert factor is not None
        return factor > 0


def _stretched(gate: Tensor) -> Tensor:
    return hardtanh(gate * (ZETA - GAMMA) + GAMMA, 0, 1)  # as clamp, whose backward pass takes several times as long
