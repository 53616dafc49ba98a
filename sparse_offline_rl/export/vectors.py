"""Self-test vectors: observations, latents that a few lines of C can repeat, and the actions that must come out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.export.compact import DenseLayer, compact
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.types import FloatArray

_TRIED, _KEPT = 32, 4

Float64Array = NDArray[np.float64]


class TestVector(NamedTuple):
    """``action`` ``[A]`` for ``observation`` ``[S]`` and the noise of ``seed``; ``gap`` to the second best score."""

    seed: int
    observation: FloatArray
    action: FloatArray
    gap: float


def test_noise(seed: int, count: int) -> FloatArray:
    """``count`` numbers uniform in [-1, 1) from a linear congruential generator (Numerical Recipes' constants)."""
    values = np.empty(count, np.float32)
    for i in range(count):
        seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
        values[i] = (seed >> 8) / 2**23 - 1
    return values


def self_test_vectors(content: PolicyContent) -> list[TestVector]:
    """Four vectors, computed in float64; of those tried the ones whose choice among candidates is clearest.

    Two candidates that score the same up to rounding may be chosen differently by another machine, and rightly so.
    """
    layers = {name: compact(network) for name, network in content.networks.items()}
    vectors = [_vector(content, layers, seed) for seed in range(1, _TRIED + 1)]
    return sorted(vectors, key=lambda vector: -vector.gap)[:_KEPT]


def _vector(content: PolicyContent, layers: dict[str, tuple[DenseLayer, ...]], seed: int) -> TestVector:
    spread = np.random.default_rng(seed).normal(size=content.observation_dim)
    acting = content.acting
    observation = (content.observation_mean + content.observation_std * spread).astype(np.float32)
    noise = test_noise(seed, acting.candidates * acting.latent_dim).reshape(acting.candidates, -1).astype(np.float64)
    low, high = content.action_low.astype(np.float64), content.action_high.astype(np.float64)
    state = (observation.astype(np.float64) - content.observation_mean) / content.observation_std
    states = np.broadcast_to(state, (acting.candidates, content.observation_dim))
    latents = np.clip(noise, -acting.latent_clip, acting.latent_clip)
    actions = (high + low) / 2 + (high - low) / 2 * np.tanh(_forward(layers[acting.propose], states, latents))
    if acting.perturb is not None:
        change = np.tanh(_forward(layers[acting.perturb], states, actions))
        actions = np.clip(actions + acting.perturbation * (high - low) / 2 * change, low, high)
    order, gap = np.zeros(1, np.int64), 0.0
    if acting.rank is not None:
        scores = _forward(layers[acting.rank], states, actions)[:, 0]
        order = np.argsort(-scores, kind="stable")  # of equals the first, as every runtime does
        gap = float(scores[order[0]] - scores[order[1]]) if len(order) > 1 else 0.0
    return TestVector(seed, observation, actions[order[0]].astype(np.float32), gap)


def _forward(layers: tuple[DenseLayer, ...], *inputs: Float64Array) -> Float64Array:
    x: Float64Array = np.concatenate(inputs, axis=1)
    for layer in layers:
        x = x @ layer.weight.T.astype(np.float64) + layer.bias
        x = np.maximum(x, 0) if layer.relu else x
    return x
