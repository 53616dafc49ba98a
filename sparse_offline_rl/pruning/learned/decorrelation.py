"""Decorrelation: hidden units that say the same on a batch are told apart by a penalty (Cogswell et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.networks.masked import masked_product
from sparse_offline_rl.pruning.learned.extension import Extension


class Decorrelation(Extension):
    """The mean squared correlation of pairs of units of a hidden layer on the batch; which weights survive, ``prune.score`` says."""

    SWITCHES = False

    @classmethod
    def penalises_twins(cls) -> bool:
        """They do not: what the twin's units say has been seen as well."""
        return False

    @classmethod
    def unit(cls, effects: Mapping[str, Tensor]) -> float:
        """The sum of ``|w · ∂L/∂w|``: of the order by which the loss would change if all weights did."""
        return float(torch.cat([effect.flatten() for effect in effects.values()]).abs().sum())

    def begin_update(self, draws: torch.Generator, strength: float) -> None:
        """As the base says."""
        super().begin_update(draws, strength)
        self._seen: list[Tensor] = []

    def product(self, layer: str, x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, relu: bool) -> Tensor:
        """The layer's own, looked at."""
        out = masked_product(x, weight, bias, keep, relu)
        if relu and torch.is_grad_enabled():
            self._seen.append(out)
        return out

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor | None:
        """``Σ_layers mean_{i≠j} ρ_ij²``; a unit that says the same on the whole batch has no correlation."""
        if not self._seen:
            return None
        return torch.stack([_mean_squared_correlation(out) for out in self._seen]).sum()


def _mean_squared_correlation(activations: Tensor) -> Tensor:
    """Over pairs of columns of ``[B, units]``."""
    centred = activations - activations.mean(0)
    normed = centred / (centred.square().sum(0) + 1e-12).sqrt()
    units = activations.shape[1]
    # The squares of the correlations have the same sum as those of the products of rows, of which a batch may have far fewer.
    products = normed @ normed.t() if len(normed) < units else normed.t() @ normed
    own = normed.square().sum(0)
    return (products.square().sum() - own.square().sum()) / max(units * (units - 1), 1)
