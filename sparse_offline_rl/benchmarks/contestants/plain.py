"""What the plain torch agents share: they stand in for authors' code, as one writes it without thinking of speed.

Autograd goes through everything that a loss touches, also where the gradient is thrown away; Adam is torch's own with its defaults;
targets are moved one parameter at a time; a pruned weight is a weight times zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_offline_rl.benchmarks.contestant import Contestant
from sparse_offline_rl.types import FloatArray

DISCOUNT, POLYAK = 0.99, 0.005


class Masked(nn.Linear):
    """A linear layer whose weights are multiplied by a random mask at every use."""

    mask: Tensor

    def __init__(self, in_features: int, out_features: int, sparsity: float) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("mask", (torch.rand(out_features, in_features) >= sparsity).float())

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight * self.mask, self.bias)


def mlp(sizes: Sequence[int], sparsity: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU between them; with ``sparsity``, masked ones."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [Masked(n_in, n_out, sparsity) if sparsity else nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass
class PlainBatch:
    """What an update learns from: ``[B, S]``, ``[B, A]`` within ±1 and ``[B, 1]``."""

    state: Tensor
    action: Tensor
    reward: Tensor
    next_state: Tensor
    not_done: Tensor


def random_batch(S: int, A: int, batch: int) -> PlainBatch:
    """``batch`` random transitions of ``S`` observations and ``A`` actions within ±1; no episode ends."""
    state, next_state = torch.randn(batch, S), torch.randn(batch, S)
    action, reward = torch.rand(batch, A) * 2 - 1, torch.randn(batch, 1)
    return PlainBatch(state, action, reward, next_state, torch.ones(batch, 1))


def precision(bfloat16: bool) -> AbstractContextManager[object]:
    """Inside of it matrices are multiplied in bfloat16, where that is asked for."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else nullcontext()


def minimize(adam: torch.optim.Adam, loss: Callable[[], Tensor], bfloat16: bool) -> None:
    """One step on ``loss()``, which is computed in the given :func:`precision`; the step itself is float32.

    Autocast keeps the converted weights until its block ends, so a block must not reach over a step that changes them.
    """
    with precision(bfloat16):
        value = loss()
    adam.zero_grad()
    value.backward()
    adam.step()


def move_targets(networks: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Move every target a little towards its network; pairs of network and target."""
    for online, slow in networks:
        for parameter, kept in zip(online.parameters(), slow.parameters(), strict=True):
            kept.data.copy_(POLYAK * parameter.data + (1 - POLYAK) * kept.data)


class Actor(nn.Module):
    """The deterministic policy of TD3+BC, and the mean of IQL's: states [B, S] to actions [B, A] within ±1."""

    def __init__(self, S: int, A: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp([S, *hidden, A])

    def forward(self, state: Tensor) -> Tensor:
        return torch.tanh(self.net(state))


def acting(S: int, A: int, hidden: Sequence[int], observations: int) -> Contestant:
    """One action of :class:`Actor` for one observation in NumPy, ``observations`` different ones in turn."""
    torch.set_num_threads(1)
    actor = Actor(S, A, hidden).eval()
    turn = itertools.cycle(np.random.default_rng(1).standard_normal((observations, S), np.float32))

    @torch.no_grad()
    def act() -> FloatArray:
        action: FloatArray = actor(torch.from_numpy(next(turn))[None])[0].numpy()
        return action

    return Contestant(act)
