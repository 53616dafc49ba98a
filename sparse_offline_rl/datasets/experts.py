"""Stochastic policies in the bundled ``.npz`` format (described in ``experts_data/README.md``), in NumPy alone."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.types import FloatArray

_LAYERS = ("hidden0", "hidden1", "mean", "log_std")
_LOG_STD_RANGE = (-20.0, 2.0)


def bundled_policy_path(env_name: str, kind: str) -> Path:
    """The file of the bundled ``expert`` or ``medium`` policy of an environment."""
    return Path(__file__).parent / "experts_data" / f"{env_name}_{kind}.npz"


@dataclass(frozen=True)
class StochasticPolicy:
    """A soft actor-critic actor: two ReLU layers, then a Gaussian squashed by tanh into the action bounds."""

    weights: Mapping[str, FloatArray]  # by the names of the file format
    action_low: FloatArray  # [A]
    action_high: FloatArray  # [A]

    @staticmethod
    def load(path: str | Path) -> StochasticPolicy:
        """Read a policy file, never unpickling. Raises :class:`UserError` for a missing, foreign or damaged file."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"There is no policy file {path}: give the path of a policy in the .npz format.")
        try:
            with path.open("rb") as file:
                archive = np.load(file, allow_pickle=False)
                if not isinstance(archive, NpzFile):
                    raise ValueError("it holds a single array")
                arrays = {name: archive[name].astype(np.float32) for name in archive.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is not a policy in the .npz format, or is damaged ({error}).") from None
        return StochasticPolicy.from_arrays(arrays, str(path))

    @staticmethod
    def from_arrays(arrays: Mapping[str, FloatArray], source: str) -> StochasticPolicy:
        """A policy from arrays named as in the file; bounds are ``action_low`` and ``action_high``, or -1 and 1."""
        names = [f"{layer}_{part}" for layer in _LAYERS for part in ("weight", "bias")]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise UserError(f"{source} is not a policy: it lacks the array {missing[0]}.")
        weights = {name: arrays[name] for name in names}
        for name, values in weights.items():
            if not np.isfinite(values).all():
                raise UserError(f"{source} is not a policy: {name} holds NaN or infinity.")
        _check_shapes(weights, source)
        ones = np.ones_like(weights["mean_bias"])
        low, high = arrays.get("action_low", -ones), arrays.get("action_high", ones)
        if low.shape != ones.shape or high.shape != ones.shape:
            raise UserError(f"{source} is not a policy: its action bounds do not fit its {len(ones)} actions.")
        return StochasticPolicy(weights, low, high)

    @property
    def observation_dim(self) -> int:
        """S."""
        return int(self.weights["hidden0_weight"].shape[1])

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_low)

    def sample(self, observations: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Random actions ``[n, A]`` for raw ``observations [n, S]``."""
        return self.act(observations, rng.standard_normal((len(observations), self.action_dim), np.float32))

    def mean(self, observations: FloatArray) -> FloatArray:
        """Deterministic actions ``[n, A]`` for raw ``observations [n, S]``."""
        return self.act(observations, np.zeros((len(observations), self.action_dim), np.float32))

    def act(self, observations: FloatArray, noise: FloatArray) -> FloatArray:
        """Actions ``[n, A]`` for ``observations [n, S]`` and standard normal ``noise [n, A]``."""
        hidden = np.maximum(self._linear("hidden0", observations), 0.0)
        hidden = np.maximum(self._linear("hidden1", hidden), 0.0)
        std = np.exp(np.clip(self._linear("log_std", hidden), *_LOG_STD_RANGE))
        unit = np.tanh(self._linear("mean", hidden) + std * noise)
        centre, half = (self.action_high + self.action_low) / 2, (self.action_high - self.action_low) / 2
        return np.asarray(centre + half * unit, np.float32)

    def _linear(self, layer: str, inputs: FloatArray) -> NDArray[np.float32]:
        return inputs @ self.weights[f"{layer}_weight"].T + self.weights[f"{layer}_bias"]


def _check_shapes(weights: Mapping[str, FloatArray], source: str) -> None:
    inputs = {"hidden1": "hidden0", "mean": "hidden1", "log_std": "hidden1"}
    for layer in _LAYERS:
        weight, bias = weights[f"{layer}_weight"], weights[f"{layer}_bias"]
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1]
        if fits and layer in inputs:
            fits = weight.shape[1] == len(weights[f"{inputs[layer]}_bias"])
        if fits and layer == "log_std":
            fits = weight.shape == weights["mean_weight"].shape
        if not fits:
            raise UserError(
                f"{source} is not a policy: {layer}_weight {weight.shape} and {layer}_bias {bias.shape} do not fit together."
            )
