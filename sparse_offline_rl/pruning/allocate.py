"""From scores to masks with an exact number of survivors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.pruning.masks import Masks, count

_SAMPLE = 4096  # entries from which the threshold of a layer is guessed


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


def allocate(
    scores: Mapping[str, Tensor], sparsity: float, scope: str = "network", among: Mapping[str, Tensor] | None = None
) -> Masks:
    """Keep the highest scores of one network.

    Parameters
    ----------
    scores: layer name -> scores ``[out, in]``, higher = keep. Ties are broken by index, so the count is always exact.
    sparsity: fraction to remove, 0 <= s < 1, over all layers together.
    scope: ``network`` (one threshold for all layers), ``layer`` (the same sparsity in each layer) or ``erk``
        (Erdős–Rényi: density of a layer proportional to (in + out) / (in · out); Evci et al. 2020).
    among: layer name -> boolean ``[out, in]``: only these may be kept. There must be as many as are to be kept.
    """
    sizes = [score.numel() for score in scores.values()]
    kept = survivors(sum(sizes), sparsity)
    if scope == "network":
        return highest(scores, kept, among)
    weights = [1.0] * len(scores) if scope == "layer" else [erk_density(it.shape) for it in scores.values()]
    room = sizes
    if among is not None:
        # Proportional to weight · size all the same, and what a layer has no room for goes to the others.
        room = [count(it) for it in among.values()]
        weights = [w * size / max(most, 1) for w, size, most in zip(weights, sizes, room, strict=True)]
    counts = distribute(kept, room, weights)
    return highest_by_layer(scores, dict(zip(scores, counts, strict=True)), among)


def erk_density(shape: Sequence[int]) -> float:
    """What the density of a layer ``[out, in]`` is proportional to in an Erdős–Rényi network: ``(in + out) / (in · out)``."""
    outputs, inputs = shape
    return (outputs + inputs) / (outputs * inputs)


def highest(scores: Mapping[str, Tensor], count: int, among: Mapping[str, Tensor] | None = None) -> Masks:
    """The ``count`` highest scores of all layers together. Raises UserError for scores that are not finite."""
    require_finite(scores)
    flat = torch.cat([score.flatten() for score in scores.values()])
    allowed = None if among is None else torch.cat([among[name].flatten() for name in scores])
    parts = _top(flat, count, allowed).split([score.numel() for score in scores.values()])
    return Masks({name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)})


def highest_by_layer(
    scores: Mapping[str, Tensor], counts: Mapping[str, int], among: Mapping[str, Tensor] | None = None
) -> Masks:
    """In each layer as many of the highest scores as ``counts`` says. Raises UserError for scores that are not finite."""
    require_finite(scores)
    masks = {}
    for name, score in scores.items():
        allowed = None if among is None else among[name].flatten()
        masks[name] = _top(score.flatten(), counts[name], allowed).view(score.shape)
    return Masks(masks)


def distribute(total: int, sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Counts proportional to ``weight · size``, none above its size, that add up to ``total`` exactly.

    Where all that have a weight are full, the rest is dealt to the others by their sizes. ValueError if there is no room.
    """
    if total > sum(sizes):
        raise ValueError(f"{total} do not fit into {sum(sizes)}")
    shares, remaining = [0.0] * len(sizes), float(total)
    weights = list(weights)
    free = {i for i, size in enumerate(sizes) if size > 0}
    while free and remaining > 0:
        whole = sum(weights[i] * sizes[i] for i in free)
        if whole <= 0:
            weights = [1.0] * len(sizes)
            continue
        factor = remaining / whole
        if math.isinf(factor):  # the weights that are left are tiny
            exponent = math.frexp(max(weights[i] for i in free))[1]
            weights = [math.ldexp(weight, -exponent) if i in free else 0.0 for i, weight in enumerate(weights)]
            continue
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
    missing = total - sum(counts)
    for i in [i for i in order if counts[i] < sizes[i]][:missing]:
        counts[i] += 1
    return counts


def require_finite(scores: Mapping[str, Tensor]) -> None:
    """Raise UserError, naming the layer, for scores that are not finite."""
    for name, score in scores.items():
        # A sum is finite only if all entries are, and takes a fraction of the time; it may overflow where they are.
        if not math.isfinite(score.sum()) and not bool(torch.isfinite(score).all()):
            raise UserError(
                f"the scores of layer {name} are not finite: the loss overflowed on the pruning batch; check the dataset, or lower "
                "the learning rates if it happened while training."
            )


def _top(scores: Tensor, kept: int, allowed: Tensor | None) -> Tensor:
    """Boolean mask of the ``kept`` highest entries of a vector among the ``allowed``; of equal ones, those that come first."""
    mask = np.zeros(len(scores), bool)
    if kept > 0:
        array, places = scores.cpu().numpy(), None
        if allowed is not None:
            wanted = allowed.cpu().numpy()
            if 2 * np.count_nonzero(wanted) < len(wanted):
                places = np.flatnonzero(wanted)
                array = array[places]
            else:  # as good, and faster where most are allowed; a partition of many equal numbers is slow
                array = np.where(wanted, array, np.float32(-np.inf))
        last = _ranked(array, kept)
        chosen = array >= last
        if excess := np.count_nonzero(chosen) - kept:
            chosen[np.flatnonzero(array == last)[-excess:]] = False
        if places is None:
            mask = chosen
        else:
            mask[places[chosen]] = True
    return torch.from_numpy(mask)


def _ranked(array: NDArray[Any], rank: int) -> Any:
    """The entry of that rank, 1 for the highest; where few are wanted, only entries above a guess are looked at."""
    step = len(array) // _SAMPLE
    if 8 * rank < len(array) and step > 1:
        sample = array[::step]
        guessed = min(2 * rank * len(sample) // len(array) + 32, len(sample))
        likely = array[array >= np.partition(sample, len(sample) - guessed)[len(sample) - guessed]]
        if len(likely) >= rank:
            array = likely
    return np.partition(array, len(array) - rank)[len(array) - rank]  # much faster than a sort
