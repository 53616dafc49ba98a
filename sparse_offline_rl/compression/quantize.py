"""Which few values stand for the many of a layer: equal steps, or the centroids of clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.policy.levels import LinearLevels
from sparse_offline_rl.types import FloatArray

_STEPS_TRIED = 64
_MOST_ROUNDS = 10_000


def linear_levels(values: FloatArray, bits: int) -> LinearLevels:
    """The levels of ``bits`` bits with the least squared error for ``values`` ``[n]``.

    With few bits that is rarely the step that reaches the largest value: a few outliers would cost all others their precision.
    So 64 steps are tried, from that one down to an eighth of it; of equally good ones the largest is taken.
    """
    reach = float(np.abs(values).max(initial=0)) / (2 ** (bits - 1) - 1)
    best, least = LinearLevels(bits, np.float32(1)), np.inf  # of zeros only: any step will do
    steps = np.linspace(reach, reach / 8, _STEPS_TRIED).astype(np.float32)
    for step in steps[steps > 0]:
        levels = LinearLevels(bits, step)
        error = float(np.square(levels.nearest(values) - values, dtype=np.float64).sum())
        if error < least:
            best, least = levels, error
    return best


def kmeans(values: FloatArray, clusters: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Centroids ``[k]`` in ascending order, and the index of its centroid for each of ``values`` ``[n]``, n > 0.

    Lloyd's algorithm from centroids evenly spaced between minimum and maximum (Han et al. 2016, section 3.2), until no value changes
    its cluster. Where few values are large some of these centroids have no values near them; each of those then splits the cluster with
    the largest squared error, and the algorithm goes on. ``k`` is ``clusters``, or the number of distinct values if that is less.
    """
    ordered, places, counts = np.unique(values.astype(np.float64), return_inverse=True, return_counts=True)
    centroids = np.linspace(ordered[0], ordered[-1], clusters)
    labels = np.full(len(ordered), -1)
    for _ in range(_MOST_ROUNDS):
        before, labels = labels, np.searchsorted((centroids[1:] + centroids[:-1]) / 2, ordered)
        members = np.bincount(labels, counts, minlength=clusters)
        if not np.array_equal(before, labels):
            sums = np.bincount(labels, counts * ordered, minlength=clusters)
            centroids = np.sort(np.where(members > 0, sums / np.maximum(members, 1), centroids))
            continue
        errors = np.bincount(labels, counts * np.square(ordered - centroids[labels]), minlength=clusters)
        errors[np.bincount(labels, minlength=clusters) < 2] = 0  # one value cannot be split
        worst = errors.argmax()
        if members.all() or errors[worst] == 0:
            break
        centroids[members.argmin()] = ordered[(labels == worst) & (ordered > centroids[worst])].mean()
        centroids.sort()
    used, labels = np.unique(labels, return_inverse=True)
    return centroids[used].astype(np.float32), labels[places.ravel()]
