"""The statistics of a report, on scipy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

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
    return _percentile_interval((sample,), np.mean)


def stratified_interval(samples: Sequence[Values]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the interquartile mean of all values, each sample drawn anew for itself (Agarwal et al. 2021).

    None unless each sample, such as the seeds of a task, has two values.
    """
    if not samples or min(map(len, samples)) < 2:
        return None

    def iqm(*drawn: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(stats.trim_mean(np.concatenate(drawn, axis=axis), 0.25, axis=axis))

    return _percentile_interval(samples, iqm)


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


def median_clock(runs: Iterable[Sequence[Evaluation]]) -> dict[int, float]:
    """Update of an evaluation -> the median over the runs of their seconds of training up to it; some are slowed by other work."""
    found: dict[int, list[float]] = {}
    for evaluations in runs:
        for it in evaluations:
            if it.seconds is not None:
                found.setdefault(it.update, []).append(it.seconds)
    return {update: float(np.median(seconds)) for update, seconds in sorted(found.items())}


def first_reaching(evaluations: Sequence[Evaluation], wanted: float) -> Evaluation | None:
    """The first evaluation whose mean return is at least ``wanted``."""
    return next((evaluation for evaluation in evaluations if evaluation.mean >= wanted), None)


def _percentile_interval(samples: Sequence[Values], statistic: Callable[..., Any]) -> tuple[float, float]:
    data = [np.asarray(sample, np.float64) for sample in samples]
    if all(np.ptp(sample) == 0 for sample in data):  # scipy warns where nothing varies
        only = float(statistic(*data))
        return only, only
    # fmt: off
    found = stats.bootstrap(data, statistic, n_resamples=_RESAMPLES, confidence_level=0.95, method="percentile",
                            rng=np.random.default_rng(0))
    # fmt: on
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
