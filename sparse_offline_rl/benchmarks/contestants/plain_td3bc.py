"""TD3+BC as one writes it in torch without thinking of speed: networks, losses and constants of Fujimoto & Gu (2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_offline_rl.benchmarks.contestant import Contestant
from sparse_offline_rl.benchmarks.contestants.plain import (
    DISCOUNT,
    Actor,
    minimize,
    mlp,
    move_targets,
    random_batch,
)

_NOISE, _NOISE_CLIP, _POLICY_EVERY, _ALPHA, _RATE = 0.2, 0.5, 2, 2.5, 3e-4


class PlainTD3BC:
    """The agent and its update on one random batch, all actions within ±1."""

    def __init__(self, S: int, A: int, hidden: Sequence[int], batch: int, bfloat16: bool) -> None:
        self.bfloat16 = bfloat16
        self.actor = Actor(S, A, hidden)
        self.critic = nn.ModuleList(mlp([S + A, *hidden, 1]) for _ in range(2))
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=_RATE)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=_RATE)
        self.data = random_batch(S, A, batch)
        self.updates = 0

    def _critic_loss(self) -> Tensor:
        data = self.data
        with torch.no_grad():
            noise = (torch.randn_like(data.action) * _NOISE).clamp(-_NOISE_CLIP, _NOISE_CLIP)
            action = (self.actor_target(data.next_state) + noise).clamp(-1, 1)
            pairs = torch.cat([data.next_state, action], 1)
            q1, q2 = (q(pairs) for q in self.critic_target)
            target = data.reward + data.not_done * DISCOUNT * torch.min(q1, q2)
        pairs = torch.cat([data.state, data.action], 1)
        q1, q2 = (q(pairs) for q in self.critic)
        return functional.mse_loss(q1, target) + functional.mse_loss(q2, target)

    def _actor_loss(self) -> Tensor:
        action = self.actor(self.data.state)
        q = self.critic[0](torch.cat([self.data.state, action], 1))
        weight = _ALPHA / q.abs().mean().detach()
        loss: Tensor = -weight * q.mean() + functional.mse_loss(action, self.data.action)
        return loss

    def update(self) -> None:
        """One update on the same batch each time; every second one moves the policy and the targets."""
        self.updates += 1
        minimize(self.critic_adam, self._critic_loss, self.bfloat16)
        if self.updates % _POLICY_EVERY == 0:
            minimize(self.actor_adam, self._actor_loss, self.bfloat16)
            move_targets([(self.critic, self.critic_target), (self.actor, self.actor_target)])


def training(S: int, A: int, hidden: Sequence[int], batch: int, threads: int, bfloat16: bool) -> Contestant:
    """One update; every second one moves the policy."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return Contestant(PlainTD3BC(S, A, hidden, batch, bfloat16).update)
