"""Normalised scores."""

from __future__ import annotations

from collections.abc import Mapping

REFERENCES = ("reference_min_score", "reference_max_score")


def normalized_score(mean_return: float, low: float | None, high: float | None) -> float | None:
    """D4RL's score: 0 for the random policy's return ``low``, 100 for the expert's ``high``; None without references."""
    if low is None or high is None:
        return None
    return 100 * (mean_return - low) / (high - low)


def reference_returns(values: Mapping[str, object]) -> tuple[float, float] | None:
    """Returns that score 0 and 100, which a section ``env`` and a summary have under :data:`REFERENCES`; None if one is no number."""
    low, high = map(values.get, REFERENCES)
    return (float(low), float(high)) if isinstance(low, int | float) and isinstance(high, int | float) else None
