"""Standardisation of observations, fitted once on the dataset and stored with the policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparse_offline_rl.types import FloatArray

_CHUNK = 65_536  # rows at a time in float64, so that wide observations do not double the memory
_SMALLEST_STD = 1e-3  # as in TD3+BC: a smaller spread would blow tiny drifts at evaluation up to huge inputs


@dataclass(frozen=True)
class Normalization:
    """``(observation - mean) / std``, per feature."""

    mean: FloatArray  # [S]
    std: FloatArray  # [S], positive

    @staticmethod
    def identity(observation_dim: int) -> Normalization:
        """Leaves observations as they are."""
        return Normalization(np.zeros(observation_dim, np.float32), np.ones(observation_dim, np.float32))

    @staticmethod
    def fit(observations: FloatArray) -> Normalization:
        """Mean and standard deviation of ``observations [N, S]``, computed in float64.

        A constant feature gets std 1, so that it becomes 0; any other std is at least 0.001.
        """
        chunks = [observations[start : start + _CHUNK] for start in range(0, len(observations), _CHUNK)]
        mean = np.sum([chunk.sum(axis=0, dtype=np.float64) for chunk in chunks], axis=0) / len(observations)
        variance = np.sum([np.square(chunk - mean).sum(axis=0) for chunk in chunks], axis=0) / len(observations)
        std = np.sqrt(variance)
        constant = std <= 1e-6 * np.maximum(1.0, np.abs(mean))  # float32 noise around one value counts as constant
        std = np.where(constant, 1.0, np.maximum(std, _SMALLEST_STD))
        return Normalization(mean.astype(np.float32), std.astype(np.float32))

    def apply(self, observations: FloatArray) -> FloatArray:
        """Standardised ``[..., S]``, float32."""
        return (observations - self.mean) / self.std
