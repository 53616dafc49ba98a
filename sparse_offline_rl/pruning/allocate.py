"""From scores to masks with an exact number of survivors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.pruning.masks import Masks


def survivors(total: int, sparsity: float) -> int:
    """``k = round((1 - s) · n)``: how many of ``total`` weights survive. Raises UserError if that is none."""
    kept = round((1 - sparsity) * total)
    if kept < 1:
        highest = 1 - 1 / total
        raise UserError(
            f"sparsity={sparsity:g} would leave fewer than one of the {total} weights of a network: "
            f"choose a sparsity of at most {highest:.6g}."
        )
    return kept


def allocate(scores: Mapping[str, Tensor], sparsity: float, scope: str = "network") -> Masks:
    """Keep the highest scores of one network.

    Parameters
    ----------
    scores: layer name -> scores ``[out, in]``, higher = keep. Ties are broken by index, so the count is always exact.
    sparsity: fraction to remove, 0 <= s < 1, over all layers together.
    scope: ``network`` (one threshold for all layers), ``layer`` (the same sparsity in each layer) or ``erk``
        (Erdős–Rényi: density of a layer proportional to (in + out) / (in · out); Evci et al. 2020).
    """
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise UserError(
                f"the scores of layer {name} are not finite: the loss overflowed on the pruning batch; check the dataset."
            )
    kept = survivors(sum(score.numel() for score in scores.values()), sparsity)
    if scope == "network":
        flat = torch.cat([score.flatten() for score in scores.values()])
        parts = _top(flat, kept).split([score.numel() for score in scores.values()])
        return Masks({name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)})
    weights = (
        [1.0] * len(scores) if scope == "layer" else [sum(score.shape) / score.numel() for score in scores.values()]
    )
    counts = _distribute(kept, [score.numel() for score in scores.values()], weights)
    return Masks(
        {
            name: _top(score.flatten(), count).view(score.shape)
            for (name, score), count in zip(scores.items(), counts, strict=True)
        }
    )


def _top(scores: Tensor, kept: int) -> Tensor:
    """Boolean mask of the ``kept`` highest entries of a vector; of equal ones, those that come first."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[scores.sort(descending=True, stable=True).indices[:kept]] = True
    return mask


def _distribute(kept: int, sizes: list[int], weights: list[float]) -> list[int]:
    """Counts proportional to ``weight · size``, none above its size, that add up to ``kept`` exactly."""
    free, remaining, shares = set(range(len(sizes))), float(kept), [0.0] * len(sizes)
    while free:
        factor = remaining / sum(weights[i] * sizes[i] for i in free)
        full = {i for i in free if factor * weights[i] >= 1}
        for i in full or free:
            shares[i] = float(sizes[i]) if full else factor * weights[i] * sizes[i]
        if not full:
            break
        free -= full
        remaining -= sum(sizes[i] for i in full)
    counts = [int(share) for share in shares]
    # Largest remainders first, then by index: the rounding is exact and deterministic.
    order = sorted(range(len(sizes)), key=lambda i: (counts[i] - shares[i], i))
    missing = kept - sum(counts)
    for i in [i for i in order if counts[i] < sizes[i]][:missing]:
        counts[i] += 1
    return counts
