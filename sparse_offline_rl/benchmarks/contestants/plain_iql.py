"""IQL as one writes it in torch without thinking of speed: networks, losses and constants of Kostrikov, Nair, Levine (2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from sparse_offline_rl.benchmarks.contestant import Contestant
from sparse_offline_rl.benchmarks.contestants.plain import (
    DISCOUNT,
    Actor,
    minimize,
    mlp,
    move_targets,
    precision,
    random_batch,
)

_EXPECTILE, _TEMPERATURE, _WEIGHT_CLIP, _RATE = 0.7, 3.0, 100.0, 3e-4
_LOG_STD_MIN, _LOG_STD_MAX = -5.0, 2.0


class _GaussianActor(Actor):
    """A Gaussian around the mean of ``Actor``, its deviations the same in all states."""

    def __init__(self, S: int, A: int, hidden: Sequence[int]) -> None:
        super().__init__(S, A, hidden)
        self.log_std = nn.Parameter(torch.zeros(A))

    def distribution(self, state: Tensor) -> Normal:
        return Normal(self(state), self.log_std.clamp(_LOG_STD_MIN, _LOG_STD_MAX).exp())


class PlainIQL:
    """The agent and its update on one random batch, all actions within ±1."""

    def __init__(
        self, S: int, A: int, hidden: Sequence[int], batch: int, bfloat16: bool, total_updates: int = 1_000_000
    ) -> None:
        self.bfloat16 = bfloat16
        self.value = mlp([S, *hidden, 1])
        self.actor = _GaussianActor(S, A, hidden)
        self.critic = nn.ModuleList(mlp([S + A, *hidden, 1]) for _ in range(2))
        self.critic_target = copy.deepcopy(self.critic)
        self.value_adam = torch.optim.Adam(self.value.parameters(), lr=_RATE)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=_RATE)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=_RATE)
        self.actor_schedule = CosineAnnealingLR(self.actor_adam, total_updates)
        self.data = random_batch(S, A, batch)

    @torch.no_grad()
    def _least_q(self) -> Tensor:
        pairs = torch.cat([self.data.state, self.data.action], 1)
        with precision(self.bfloat16):
            q1, q2 = (q(pairs) for q in self.critic_target)
        q: Tensor = torch.min(q1, q2)
        return q

    def _value_loss(self, q: Tensor) -> Tensor:
        advantage = q - self.value(self.data.state)
        weight = torch.where(advantage > 0, _EXPECTILE, 1 - _EXPECTILE)
        loss: Tensor = (weight * advantage.pow(2)).mean()
        return loss

    def _actor_loss(self, q: Tensor) -> Tensor:
        with torch.no_grad():
            advantage = q - self.value(self.data.state)
            weight = (_TEMPERATURE * advantage).exp().clamp(max=_WEIGHT_CLIP)
        log_density = self.actor.distribution(self.data.state).log_prob(self.data.action).sum(1, keepdim=True)
        loss: Tensor = -(weight * log_density).mean()
        return loss

    def _critic_loss(self) -> Tensor:
        data = self.data
        with torch.no_grad():
            target = data.reward + data.not_done * DISCOUNT * self.value(data.next_state)
        pairs = torch.cat([data.state, data.action], 1)
        q1, q2 = (q(pairs) for q in self.critic)
        return functional.mse_loss(q1, target) + functional.mse_loss(q2, target)

    def update(self) -> None:
        """One update on the same batch each time."""
        q = self._least_q()
        minimize(self.value_adam, lambda: self._value_loss(q), self.bfloat16)
        minimize(self.actor_adam, lambda: self._actor_loss(q), self.bfloat16)
        self.actor_schedule.step()
        minimize(self.critic_adam, self._critic_loss, self.bfloat16)
        move_targets([(self.critic, self.critic_target)])


def training(S: int, A: int, hidden: Sequence[int], batch: int, threads: int, bfloat16: bool) -> Contestant:
    """One update."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return Contestant(PlainIQL(S, A, hidden, batch, bfloat16).update)
