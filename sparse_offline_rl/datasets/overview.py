"""What a dataset looks like at a glance: the ranges of its numbers, and values that are suspect."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.datasets.transitions import Transitions
from sparse_offline_rl.types import FloatArray

_LARGEST = 1e6  # beyond this a reward or an observation is suspect whatever the others are
_FAR = 100.0  # so many times the distance between the 1st and the 99th percentile, and it is far from the others
_SAMPLE = 20_000  # rows, evenly spaced, that percentiles are taken from
_FEWEST = 100  # rows that percentiles need


def overview(name: str, transitions: Transitions) -> str:
    """One line: the number of transitions, and minimum, mean and maximum of rewards and actions."""
    parts = [f"{kind} {_spread(getattr(transitions, kind))}" for kind in ("rewards", "actions")]
    return f"dataset: {name}, {len(transitions)} transitions; {'; '.join(parts)}"


def suspect_values(transitions: Transitions) -> list[str]:
    """A sentence each for rewards and observations with values that may be mistakes, naming the farthest.

    Suspect is a value beyond ±10⁶, or one that lies more than 100 times the distance between the 1st and the 99th
    percentile of its column away from them. Two percentiles that are equal (sparse rewards, a constant observation), or
    those of fewer than 100 rows, say nothing about distance, so that only the first rule holds there.
    """
    rewards, observations = _suspect("rewards", transitions.rewards), _suspect("observations", transitions.observations)
    if observations is None:  # else most of the next observations are the same rows again
        observations = _suspect("next observations", transitions.next_observations)
    return [sentence for sentence in (rewards, observations) if sentence is not None]


def _suspect(name: str, values: FloatArray) -> str | None:
    columns = values.reshape(len(values), -1)
    low, high = _percentiles(columns)
    reach = np.where(high > low, _FAR * (high - low), np.inf)
    least, most = np.maximum(low - reach, -_LARGEST), np.minimum(high + reach, _LARGEST)
    excess = np.maximum(least - columns.min(axis=0), columns.max(axis=0) - most)
    if not (excess > 0).any():
        return None
    column = int(np.argmax(excess))
    row = int(np.argmax(np.maximum(least[column] - columns[:, column], columns[:, column] - most[column])))
    place = f"row {row}" if values.ndim == 1 else f"row {row}, dimension {column}"
    others = (
        f", while 98 % of it lie between {low[column]:g} and {high[column]:g}" if high[column] > low[column] else ""
    )
    return f"the {name} hold {columns[row, column]:g} in {place}{others}: if that is a mistake, mend the dataset."


def _percentiles(columns: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 1st and the 99th percentile of each column ``[N, S]``; zeros where there are too few rows."""
    sample = columns[:: -(-len(columns) // _SAMPLE)].astype(np.float64)
    if len(sample) < _FEWEST:
        return np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    low, high = len(sample) // 100, len(sample) - 1 - len(sample) // 100
    ordered = np.partition(sample, (low, high), axis=0)
    return ordered[low], ordered[high]


def _spread(values: FloatArray) -> str:
    return f"{values.min():g} to {values.max():g} (mean {values.mean(dtype=np.float64):g})"
