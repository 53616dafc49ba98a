"""The statistics of a report, on scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparse_offline_rl.reports.progress import Evaluation

_RESAMPLES = 9_999
_FELL = 0.5  # of the median, or of the best: below it an episode fell, or an evaluation dipped

Values = Sequence[float] | NDArray[np.float64]


def interquartile_mean(values: Values) -> float:
    """Mean of the middle half (Agarwal et al. 2021); of fewer than four values it is the mean of all."""
    return float(stats.trim_mean(np.asarray(values, np.float64), 0.25))


def mean_interval(values: Values) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean; None for fewer than two values.

    The same values always give the same interval. Of two or three it reaches from the smallest to the largest.
    """
    sample = np.asarray(values, np.float64)
    if len(sample) < 2:
        return None
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    # fmt: off
    found = stats.bootstrap((sample,), np.mean, n_resamples=_RESAMPLES, confidence_level=0.95, method="percentile",
                            rng=np.random.default_rng(0))
    # fmt: on
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def share_fallen(returns: Values) -> float | None:
    """Share of episodes whose return lies under half of the median of all; None without episodes, or if that is not positive."""
    values = np.asarray(returns, np.float64)
    if not len(values) or np.median(values) <= 0:
        return None
    return float((values < _FELL * np.median(values)).mean())


def share_below_best(evaluations: Sequence[Evaluation]) -> float | None:
    """Share of evaluations under half of the best one, counted from the first that reached this half.

    None without a positive evaluation. What comes before is learning; what comes after is a dip.
    """
    means = np.array([evaluation.mean for evaluation in evaluations])
    if not len(means) or means.max() <= 0:
        return None
    enough = means >= _FELL * means.max()
    return float((~enough[int(np.argmax(enough)) :]).mean())


def first_reaching(evaluations: Sequence[Evaluation], wanted: float) -> Evaluation | None:
    """The first evaluation whose mean return is at least ``wanted``."""
    return next((evaluation for evaluation in evaluations if evaluation.mean >= wanted), None)
