"""Normalised scores."""

from __future__ import annotations


def normalized_score(mean_return: float, low: float | None, high: float | None) -> float | None:
    """D4RL's score: 0 for the random policy's return ``low``, 100 for the expert's ``high``; None without references."""
    if low is None or high is None:
        return None
    return 100 * (mean_return - low) / (high - low)
